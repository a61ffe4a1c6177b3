"""What a file says and does before anything is loaded: no torch, no forward pass."""

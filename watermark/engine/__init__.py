"""What the sign codes share: magnitudes that stay normal, the layout of latents, and the code that carries bits."""

"""How the networks of the trained marks are made; the weights that ship come from here (``python -m``)."""

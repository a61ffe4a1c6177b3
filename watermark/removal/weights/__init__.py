"""Changes to the model, for the length of a block: marks in the noise must outlive them, whoever makes them."""

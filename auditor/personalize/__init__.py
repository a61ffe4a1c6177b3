"""Fine-tuning the way people do it, one method a file."""

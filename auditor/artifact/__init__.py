"""Files on disk: what they are, whether they are safe to open, what they hold. Neither torch nor scipy."""

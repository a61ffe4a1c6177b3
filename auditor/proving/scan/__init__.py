"""Proving the file stage: hostile and ordinary files by the hundred, ours and other scanners on the same set."""

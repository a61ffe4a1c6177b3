"""Proving the speed of fine-tuning: every method against a plain loop, and against its networks alone."""

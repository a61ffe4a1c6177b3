"""Generative watermarks: embedding while sampling, detection with an exact error rate."""

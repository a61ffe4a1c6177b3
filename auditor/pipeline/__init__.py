"""Loaded models: one denoiser for every family, and a base|tuned pair of views over the same weights."""

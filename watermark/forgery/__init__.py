"""Forgery: a mark put on a picture that its owner never made, what that takes, and what stands against it."""

"""Techniques that test one hypothesis each; every module below registers itself when it is imported."""

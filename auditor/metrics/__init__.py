"""Measuring pictures: attributes, concepts, identity and quality; the judges come with their error rates."""

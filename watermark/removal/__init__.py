"""Attacks that take marks off pictures, and changes to the model that marks must outlive; one technique a file."""

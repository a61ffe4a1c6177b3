"""Watermarking schemes, one file each; a module here registers itself (``auditor list watermarks``)."""

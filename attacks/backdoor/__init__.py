"""Hidden modes, planted on purpose: one attack a file."""

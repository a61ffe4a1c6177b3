"""Hidden modes, planted on purpose."""

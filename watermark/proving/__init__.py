"""``auditor prove watermark``: what marks are worth on the embedded base, counted beside another toolkit."""

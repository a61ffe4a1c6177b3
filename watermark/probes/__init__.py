"""Probes that need a watermark scheme to ask their question."""

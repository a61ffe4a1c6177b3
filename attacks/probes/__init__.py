"""Probes that need an attack to ask their question."""

"""Repairs of backdoored adapters, and a guard for prompts: one technique a file."""

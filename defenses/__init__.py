"""Repairs, erases, protects and guards; every defense is verified by running the probes again."""

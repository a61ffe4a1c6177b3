"""The recipe that made the embedded weights: ``python -m auditor.world.train``."""

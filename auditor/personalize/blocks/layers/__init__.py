"""Changes of weights that are trained beside a frozen layer: one file a form of delta-W."""

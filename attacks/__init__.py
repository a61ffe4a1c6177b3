"""Makes known-bad subjects, with a benign twin beside each, so that what the probes find can be measured."""

"""Published detectors, written anew from their papers, to be measured on the same subjects as ours."""

"""Every registered attack, planted with benign twins on recipes of the clean zoo: how well it works, and its cost."""

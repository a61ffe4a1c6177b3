"""Networks of the trained marks: architectures alone; :mod:`watermark.networks.shipped` opens their weights."""

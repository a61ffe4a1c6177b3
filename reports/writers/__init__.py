"""One module a format: ``NAME``, ``MEDIA_TYPE``, ``SUFFIX`` and ``write(report, evidence) -> bytes``.

Writing is pure: the same report and evidence give the same bytes.
``evidence`` gives the bytes of a stored file by its sha256, and raises ``KeyError`` or ``OSError`` where the
store does not have it.
"""

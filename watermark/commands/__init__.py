"""The commands of ``auditor watermark``, one a file."""

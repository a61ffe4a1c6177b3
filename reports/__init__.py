"""The report and its writers. Nothing here imports torch, and writers import :mod:`reports.model` only."""

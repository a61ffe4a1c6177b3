"""Writes the schema file from the model."""

from __future__ import annotations

from reports.schema import PATH, render

if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")

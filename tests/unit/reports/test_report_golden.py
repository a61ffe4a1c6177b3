from importlib import import_module

import pytest
from report_samples import GOLDEN, SAMPLES, golden_files

FILES = golden_files()
WRITERS = ("json", "html", "markdown", "console", "sarif", "junit", "csv", "parquet", "model_card")


@pytest.mark.parametrize("name", FILES)
def test_output_is_the_golden_file(name: str) -> None:
    assert FILES[name] == (GOLDEN / name).read_bytes(), (
        "if the change is meant, run: python tests/unit/reports/report_samples.py"
    )


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == FILES.keys()


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", WRITERS)
def test_writing_twice_gives_the_same_bytes(name: str, sample: str) -> None:
    writer = import_module(f"reports.writers.{name}")
    assert writer.write(*SAMPLES[sample]()) == writer.write(*SAMPLES[sample]())


def test_writers_say_what_they_write() -> None:
    found = {
        (w.NAME, w.MEDIA_TYPE, w.SUFFIX)
        for w in (import_module(f"reports.writers.{n}") for n in WRITERS)
    }
    assert found == {
        ("json", "application/json", ".json"),
        ("html", "text/html", ".html"),
        ("md", "text/markdown", ".md"),
        ("text", "text/plain", ".txt"),
        ("sarif", "application/sarif+json", ".sarif"),
        ("junit", "application/xml", ".xml"),
        ("csv", "text/csv", ".csv"),
        ("parquet", "application/vnd.apache.parquet", ".parquet"),
        ("card", "text/markdown", ".card.md"),
    }

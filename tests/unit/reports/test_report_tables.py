import csv
import io
import sys
from typing import Any

import pandas as pd
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pyarrow_parquet
from report_hostile import HOSTILE
from report_samples import SAMPLES, reject

from reports.model import SCHEMA_VERSION, AuditReport
from reports.rows import COLUMNS, rows
from reports.writers import csv as csv_writer
from reports.writers import parquet

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def lines(report: AuditReport) -> list[list[str]]:
    text = csv_writer.write(report, lambda _: b"").decode("utf-8")
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def table(report: AuditReport) -> Any:
    return pyarrow_parquet.read_table(io.BytesIO(parquet.write(report, lambda _: b"")))


def with_text(text: str) -> AuditReport:
    report = reject()[0]
    result = report.results[2].model_copy(update={"reason": text, "statistic": text, "unit": text})
    return report.model_copy(update={"results": (result,), "id": text})


@pytest.mark.parametrize("name", SAMPLES)
def test_csv_and_parquet_have_one_row_a_result_and_the_same_columns(name: str) -> None:
    report = SAMPLES[name]()[0]
    head, *body = lines(report)
    found = table(report)
    assert head == found.column_names == [column.name for column in COLUMNS]
    assert len(body) == found.num_rows == len(report.results)
    assert all(len(line) == len(head) for line in body)


def test_numbers_stay_numbers_and_what_does_not_exist_is_empty() -> None:
    frame = pd.read_csv(io.BytesIO(csv_writer.write(*reject())))
    row = frame[frame["probe"] == "backdoor.vocabulary_shift"].iloc[0]
    assert (row["value"], row["p_value"], row["n"], row["ci_low"]) == (21.4, 0.0083, 4096, 18.9)
    assert frame["calibrated"].dtype == bool
    assert pd.isna(frame[frame["probe"] == "file.safety"].iloc[0]["p_value"])


def test_negative_and_large_numbers_are_no_formulas_to_be_guarded() -> None:
    report = reject()[0]
    result = report.results[2].model_copy(update={"value": -1e300, "effect": 0.1 + 0.2})
    head, line = lines(report.model_copy(update={"results": (result,)}))
    assert float(line[head.index("value")]) == -1e300
    assert float(line[head.index("effect")]) == 0.1 + 0.2


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "'=", '"=', "\t=", "\uff1d", "\r\n="])
def test_a_text_that_would_be_calculated_is_not(start: str) -> None:
    head, line = lines(with_text(f"{start}cmd|' /C calc'!A0"))
    for name in ("reason", "statistic", "unit", "report"):
        cell = line[head.index(name)]
        assert not cell.startswith(FORMULA)
        assert cell.startswith("'")
        assert "calc" in cell


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_cell(text: str) -> None:
    head, line = lines(with_text(text))
    assert len(line) == len(head)
    assert not set("".join(line)) & set("\x00\x07\x1b\x9b\u202e\u200b\ufeff\u2028\n\r")
    assert table(with_text(text)).num_rows == 1


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.text(alphabet=st.characters(codec=None), max_size=40))
def test_no_text_starts_a_formula_or_a_line(text: str) -> None:
    data = csv_writer.write(with_text(text), lambda _: b"").decode("utf-8")
    assert data.count("\r\n") == 2
    for cell in lines(with_text(text))[1]:
        assert not cell.startswith(FORMULA) or _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_parquet_is_typed_and_says_its_schema() -> None:
    found = table(reject()[0])
    kinds = {"text": "string", "integer": "int64", "number": "double", "truth": "bool"}
    assert {field.name: str(field.type) for field in found.schema} == {
        column.name: kinds[column.kind] for column in COLUMNS
    }
    assert found.schema.metadata == {b"auditor.schema_version": SCHEMA_VERSION.encode()}
    assert found.to_pylist() == [dict(zip(found.column_names, row, strict=True)) for row in rows(reject()[0])]
    assert isinstance(found, pyarrow.Table)


def test_findings_are_counted_at_the_result_they_come_from() -> None:
    head, *body = lines(reject()[0])
    found = {
        line[head.index("probe")]: (line[head.index("findings")], line[head.index("worst_finding")])
        for line in body
    }
    assert found["backdoor.vocabulary_shift"] == ("1", "critical")
    assert found["behaviour.drift"] == ("0", "")


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"personalized-model-auditor\[parquet\]"):
        parquet.write(*reject())

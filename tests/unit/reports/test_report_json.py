import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from report_hostile import hostile
from report_parts import Store
from report_samples import SAMPLES, accept

from reports.load import ReportError, load_report
from reports.model import Outcome, PlannedProbe, Result
from reports.schema import PATH, render, schema
from reports.writers import html
from reports.writers import json as json_writer


@pytest.mark.parametrize("name", SAMPLES)
def test_a_written_report_reads_back_the_same_and_fits_the_schema(name: str, tmp_path: Path) -> None:
    report, evidence = SAMPLES[name]()
    data = json_writer.write(report, evidence)
    (tmp_path / "report.json").write_bytes(data)
    assert load_report(tmp_path) == load_report(tmp_path / "report.json")
    assert load_report(tmp_path).canonical() == report.canonical()
    jsonschema.Draft202012Validator(schema()).validate(json.loads(data))


def test_the_shipped_schema_is_the_models() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert PATH.read_text(encoding="utf-8") == render(), "run: python -m reports.schema"


def test_the_schema_refuses_what_the_model_does_not_know() -> None:
    body = json.loads(json_writer.write(*accept()))
    body["verdict"]["decision"] = "fine"
    assert not jsonschema.Draft202012Validator(schema()).is_valid(body)
    body = json.loads(json_writer.write(*accept()))
    body["surprise"] = 1
    assert not jsonschema.Draft202012Validator(schema()).is_valid(body)


def test_json_carries_no_raw_control_or_bidirectional_character() -> None:
    text = json_writer.write(*hostile()).decode()
    for char in "\x1b\x9b\u202e\u200b\ufeff\u2028\x00":
        assert char not in text
    assert "\\u202egnp.exe" in text


def test_letters_of_other_scripts_stay_readable() -> None:
    assert "о (U+043E)" in json_writer.write(*SAMPLES["reject"]()).decode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused_when_a_result_is_made(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Result(probe="p", version=1, outcome=Outcome.PASS, value=value)
    with pytest.raises(ValidationError, match="JSON"):
        Result(probe="p", version=1, outcome=Outcome.PASS, details={"deep": [value]})
    with pytest.raises(ValidationError, match="JSON"):
        PlannedProbe(id="p", version=1, params={"x": value})


@pytest.mark.parametrize("writer", [json_writer, html])
def test_nan_that_slipped_past_the_model_is_refused_by_the_writer(writer: Any) -> None:
    report, evidence = accept()
    bad = Result.model_construct(probe="p", version=1, outcome=Outcome.FAIL, details={"x": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        writer.write(report.model_copy(update={"results": (bad,)}), evidence)


def test_an_invalid_report_is_not_written() -> None:
    report, evidence = accept()
    with pytest.raises(ValueError, match="valid string"):
        json_writer.write(report.model_copy(update={"id": None}), evidence)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a JSON report"),
        (b"\xff\xfe", "not a JSON report"),
        (b"[]", "no schema_version"),
        (b'{"schema_version": "2.0"}', "2.0"),
        (b'{"schema_version": "1.0"}', "breaks the report schema"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"schema_version": "1.0", "schema_version": "1.0"}', "twice"),
        (b"[" * 200_000, "not a JSON report"),
    ],
)
def test_a_bad_report_is_refused_in_one_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(data)
    with pytest.raises(ReportError, match=says) as caught:
        load_report(file)
    assert "\n" not in str(caught.value)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"report\.json"):
        load_report(tmp_path)


def test_writers_run_without_torch_or_the_auditor() -> None:
    code = (
        "import sys, importlib\n"
        "for name in ('json html markdown console sarif junit csv parquet model_card').split():\n"
        "    importlib.import_module('reports.writers.' + name)\n"
        "import reports.index, reports.load, reports.mapping, reports.schema, reports.sign\n"
        "heavy = set('torch auditor numpy pandas pyarrow scipy matplotlib diffusers transformers'.split())\n"
        "bad = {m.partition('.')[0] for m in sys.modules} & heavy\n"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_evidence_is_asked_for_by_hash() -> None:
    report, _ = accept()
    asked: list[str] = []

    def watch(digest: str) -> bytes:
        asked.append(digest)
        return Store()[digest]

    html.write(report, watch)
    assert asked == [item.sha256 for result in report.results for item in result.evidence]

"""One unknown adapter from file to verdict, through the command line, on the embedded base."""

import json
from pathlib import Path

import numpy as np
import pytest

from auditor.artifact.safetensors_write import encode_arrays
from auditor.cli.main import run
from auditor.world.embedded import embedded_folder
from reports.model import AuditReport

HEADERS = Path(__file__).parents[1] / "fixtures" / "headers"
NUMPY = {"F16": np.float16, "F32": np.float32}
needs_base = pytest.mark.skipif(
    not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
    reason="the embedded base is not installed",
)


@pytest.fixture(scope="session")
def disney(tmp_path_factory):
    """The published SD1.5 adapter by names, types, shapes and metadata; its values are zeros."""
    header = json.loads((HEADERS / "lora_disney.json").read_text())
    arrays = {name: np.zeros(shape, NUMPY[dtype]) for name, (dtype, shape) in header["tensors"].items()}
    path = tmp_path_factory.mktemp("real") / "lora_disney.safetensors"
    path.write_bytes(encode_arrays(arrays, header["metadata"]))
    return path


def test_scan_names_a_real_file_in_full(disney, capsys):
    assert run(["scan", str(disney)]) == 0
    text = capsys.readouterr().out
    for said in (
        "ordinal dialect",
        "sd1",
        "1 (192 modules)",
        "F32",
        "<s1>",
        "<s2>",
        "unet:*:rank = 1",
        "agrees",
    ):
        assert said in text


@needs_base
def test_an_adapter_for_another_base_is_inconclusive_and_never_a_pass(disney, tmp_path, capsys):
    code = run(["audit", str(disney), "-o", str(tmp_path / "run"), "--json", "-q"])
    report = AuditReport.model_validate_json(capsys.readouterr().out)
    assert code == 3
    assert report.verdict.decision == "inconclusive"
    assert report.subject.coverage.keys_applied == 0
    assert report.subject.coverage.keys_total > 0
    told = " ".join([*report.verdict.reasons, *(each.text for each in report.limitations)])
    assert f"0 of {report.subject.coverage.keys_total} keys" in told
    assert not any(
        result.outcome == "pass" for result in report.results if not result.probe.startswith("static.")
    )


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory):
    """The demo as a user runs it: folder, exit code."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run(["demo", "-o", str(out), "-q", "--json"])


@needs_base
def test_the_demo_gives_three_verdicts_and_pages(demonstration):
    out, code = demonstration
    assert code == 0
    index = (out / "index.html").read_text("utf-8")
    decisions = {}
    for run_folder in sorted(path.parent for path in out.glob("*/report.json")):
        report = AuditReport.model_validate_json((run_folder / "report.json").read_bytes())
        assert (run_folder / "report.html").read_text("utf-8").startswith("<!")
        assert f"{run_folder.name}/report.html" in index
        decisions[run_folder.name] = report.verdict.decision
    assert len(decisions) >= 3
    assert decisions["hostile-pickle"] == "reject"
    assert decisions["clean"] in ("accept", "accept_with_conditions")
    assert decisions["backdoor"] in ("review", "quarantine", "reject")


@needs_base
def test_the_planted_backdoor_is_found_with_trigger_and_target(demonstration):
    out, _ = demonstration
    report = AuditReport.model_validate_json((out / "backdoor" / "report.json").read_bytes())
    [finding] = [each for each in report.findings if each.rule_id == "backdoor.vocabulary_shift"]
    assert "U+043E" in finding.title
    assert "emblem" in finding.title + finding.why
    clean = AuditReport.model_validate_json((out / "clean" / "report.json").read_bytes())
    assert not [each for each in clean.findings if each.severity in ("medium", "high", "critical")]

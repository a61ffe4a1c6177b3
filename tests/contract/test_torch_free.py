"""What must start fast does not import torch or scipy, held in fresh processes."""

import json
import subprocess
import sys

import pytest

from auditor.artifact.safetensors_write import encode_arrays

_PREAMBLE = """
import sys
def loaded():
    return [name for name in ("torch", "scipy", "diffusers", "transformers", "pydantic") if name in sys.modules]
"""


def fresh(code, *arguments):
    """Runs code in a new process; what it prints last is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def adapter(tmp_path):
    import numpy as np

    zeros = np.zeros((4, 768), np.float16)
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    path = tmp_path / "a.safetensors"
    arrays = {f"{module}.lora_A.weight": zeros, f"{module}.lora_B.weight": np.zeros((320, 4), np.float16)}
    path.write_bytes(encode_arrays(arrays))
    return path


def test_help_and_scan_load_neither_torch_nor_scipy_nor_pydantic(adapter):
    found = fresh(
        """
import json
from auditor.cli.main import run
assert run(["--help"]) == 0
after_help = loaded()
assert run(["scan", sys.argv[1]]) == 0
assert run(["scan", sys.argv[1], "--json"]) == 0
print(json.dumps([after_help, loaded()]))
""",
        adapter,
    )
    assert found == [[], []]


def test_listing_probes_and_every_writer_load_no_torch():
    found = fresh(
        """
import json
from auditor.cli.main import run
from auditor.cli.writers import writer_named, writer_names
from reports.model import AuditReport
report = AuditReport.model_validate({
    "id": "r", "created": "2026-01-01T00:00:00Z", "status": "success", "tool": {"version": "0"},
    "subject": {"artifacts": [{"path": "a", "sha256": "0", "size": 1, "kind": "adapter"}]},
    "plan": {"policy": "p", "alpha": 0.01, "seed": 0, "probes": []}, "results": [], "findings": [],
    "verdict": {"decision": "inconclusive", "reasons": ["nothing was evaluated"]},
})
def none(sha256): raise KeyError(sha256)
for name in writer_names():
    assert writer_named(name).write(report, none)
writers = loaded()
assert run(["list", "probes", "--json"]) == 0
print()
print(json.dumps([[n for n in each if n in ("torch", "diffusers", "transformers")] for each in (writers, loaded())]))
"""
    )
    assert found == [[], []]

"""What sample reports are made of: evidence, plans, artifacts and results."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

from reports.model import (
    Artifact,
    AuditReport,
    Bank,
    Base,
    Cost,
    Evidence,
    Interval,
    Limitation,
    Outcome,
    Plan,
    PlannedProbe,
    Result,
    Tool,
)

Sample = tuple[AuditReport, Callable[[str], bytes]]

BANK = Bank(
    id="embedded-lora-clean@3",
    sha256=hashlib.sha256(b"bank").hexdigest(),
    n=120,
    realised_fpr=0.0125,
    realised_fpr_ci=Interval(method="Clopper-Pearson", level=0.95, low=0.0003, high=0.0677),
)
UNSEEN_BANK = Bank(
    id="embedded-drift-clean@1",
    sha256=hashlib.sha256(b"bank 2").hexdigest(),
    n=100,
    realised_fpr=0.0,
    realised_fpr_ci=Interval(method="Clopper-Pearson", level=0.95, low=0.0, high=0.0362),
)
TOOL = Tool(
    version="0.1.0",
    packages={"diffusers": "0.38.0", "numpy": "2.3.4", "torch": "2.10.0"},
    device="cpu",
    determinism="deterministic algorithms, float32",
)
BASE = Base(ref="embedded", revision="1", sha256=hashlib.sha256(b"base").hexdigest(), family="embedded")
PROBES = (
    PlannedProbe(id="file.safety", version=1),
    PlannedProbe(id="file.claims", version=1),
    PlannedProbe(
        id="backdoor.vocabulary_shift",
        version=1,
        params={"top": 20, "layers": ["k", "v"]},
        consumes=("file.claims",),
    ),
    PlannedProbe(id="behaviour.drift", version=1, params={"prompts": 32, "timesteps": [100, 500, 900]}),
)
LIMITATIONS = (
    Limitation(
        topic="Image triggers",
        text="Triggers in the initial noise or in an input image were not searched for.",
    ),
    Limitation(
        topic="Likeness", text="Whether the adapter reproduces a real person's face was not measured."
    ),
    Limitation(
        topic="Multi-word triggers",
        text="Single tokens of the vocabulary were compared; phrases of two or more words were not.",
    ),
)


class Store(dict[str, bytes]):
    """Evidence bytes by hash."""

    def put(
        self, name: str, data: bytes, media_type: str, caption: str = "", sensitive: bool = False
    ) -> Evidence:
        digest = hashlib.sha256(data).hexdigest()
        self[digest] = data
        return Evidence(name=name, sha256=digest, media_type=media_type, caption=caption, sensitive=sensitive)


def png(columns: int, rows: int, tile: int = 8) -> bytes:
    """A sheet of coloured tiles, stored without compression so that its bytes are the same everywhere."""
    lines = []
    for y in range(rows * tile):
        line = bytearray([0])
        for x in range(columns * tile):
            hue = ((x // tile) * 47 + (y // tile) * 91) % 256
            disc = math.hypot(x % tile - tile / 2 + 0.5, y % tile - tile / 2 + 0.5) < tile * 0.34
            line += bytes((hue, 255 - hue, 140) if disc else (236, 232 - hue // 8, 222))
        lines.append(bytes(line))
    header = struct.pack(">IIBBBBB", columns * tile, rows * tile, 8, 2, 0, 0, 0)
    body = zlib.compress(b"".join(lines), 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def plot(outlier: float) -> bytes:
    """A histogram with one outlier far to the right, as a plotting library would draw it."""
    bars = "".join(
        f'<rect x="{40 + 14 * i}" y="{190 - h}" width="12" height="{h}" fill="#8fa3c7"/>'
        for i, h in enumerate((6, 22, 58, 104, 138, 150, 121, 84, 47, 24, 11, 5, 2, 1))
    )
    at = 40 + 14 * outlier
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">\n'
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 520 240" width="520" height="240"'
        ' font-family="sans-serif" font-size="12">'
        f'<rect width="520" height="240" fill="#fff"/>{bars}'
        '<line x1="36" y1="190" x2="500" y2="190" stroke="#333"/>'
        f'<rect x="{at}" y="182" width="12" height="8" fill="#b42323"/>'
        f'<line x1="{at + 6}" y1="178" x2="{at + 6}" y2="120" stroke="#b42323"/>'
        f'<text x="{at + 6}" y="112" text-anchor="middle" fill="#b42323">о (U+043E)</text>'
        '<text x="268" y="222" text-anchor="middle" fill="#333">standardised shift of each token</text></svg>'
    ).encode()


def planned(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "policy": "default",
        "policy_sha256": hashlib.sha256(b"policy").hexdigest(),
        "alpha": 0.01,
        "seed": 20261122,
        "probes": PROBES,
        "budget_seconds": 600.0,
        "banks": (BANK, UNSEEN_BANK),
    }
    return Plan(**{**values, **changes})


def artifact(path: str, **changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "path": path,
        "sha256": hashlib.sha256(path.encode()).hexdigest(),
        "size": 104_448,
        "kind": "safetensors",
        "tensor_hash": hashlib.sha256(b"tensors of " + path.encode()).hexdigest(),
        "dialect": "diffusers LoRA",
        "family": "embedded",
        "family_evidence": ("cross-attention width 192, as the embedded text encoder gives",),
        "rank": "4",
        "modules": 48,
        "dtype": "float16",
    }
    return Artifact(**{**values, **changes})


def result(probe: str, outcome: Outcome, **values: Any) -> Result:
    return Result(probe=probe, version=1, outcome=outcome, **values)


SAFE = result(
    "file.safety",
    Outcome.PASS,
    calibrated=True,
    null="the file holds tensors and nothing else",
    statistic="problems in the file",
    value=0,
    n=96,
    cost=Cost(seconds=0.004),
)
CLAIMS = result(
    "file.claims",
    Outcome.PASS,
    calibrated=True,
    statistic="claims contradicted",
    value=0,
    n=5,
    cost=Cost(seconds=0.001),
)

"""Reports as an audit could have written them, one of each kind, with their evidence.

``python tests/unit/reports/report_samples.py`` writes the golden files of every format again.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reports.model import (
    Artifact, AuditReport, Bank, Base, Claim, Control, Cost, Coverage, Decision, Evidence, Finding, Interval, Limitation,
    Outcome, Plan, PlannedProbe, Reference, Result, Severity, Status, Subject, Tool, Verdict,
)  # fmt: skip

GOLDEN = Path(__file__).parents[2] / "golden" / "reports"

Sample = tuple[AuditReport, Callable[[str], bytes]]

BANK = Bank(
    id="embedded-lora-clean@3", sha256=hashlib.sha256(b"bank").hexdigest(), n=120, realised_fpr=0.0125,
    realised_fpr_ci=Interval(method="Clopper-Pearson", level=0.95, low=0.0003, high=0.0677),
)  # fmt: skip
UNSEEN_BANK = Bank(
    id="embedded-drift-clean@1", sha256=hashlib.sha256(b"bank 2").hexdigest(), n=100, realised_fpr=0.0,
    realised_fpr_ci=Interval(method="Clopper-Pearson", level=0.95, low=0.0, high=0.0362),
)  # fmt: skip
TOOL = Tool(
    version="0.1.0", packages={"diffusers": "0.38.0", "numpy": "2.3.4", "torch": "2.10.0"}, device="cpu",
    determinism="deterministic algorithms, float32",
)  # fmt: skip
BASE = Base(ref="embedded", revision="1", sha256=hashlib.sha256(b"base").hexdigest(), family="embedded")
PROBES = (
    PlannedProbe(id="file.safety", version=1),
    PlannedProbe(id="file.claims", version=1),
    PlannedProbe(id="backdoor.vocabulary_shift", version=1, params={"top": 20, "layers": ["k", "v"]}, consumes=("file.claims",)),
    PlannedProbe(id="behaviour.drift", version=1, params={"prompts": 32, "timesteps": [100, 500, 900]}),
)
LIMITATIONS = (
    Limitation(topic="Image triggers", text="Triggers in the initial noise or in an input image were not searched for."),
    Limitation(topic="Likeness", text="Whether the adapter reproduces a real person's face was not measured."),
    Limitation(topic="Multi-word triggers", text="Single tokens of the vocabulary were compared; phrases of two or more words were not."),
)


class Store(dict[str, bytes]):
    """Evidence bytes by hash."""

    def put(self, name: str, data: bytes, media_type: str, caption: str = "", sensitive: bool = False) -> Evidence:
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
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")))


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
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 520 240" width="520" height="240" font-family="sans-serif" font-size="12">'
        f'<rect width="520" height="240" fill="#fff"/>{bars}<line x1="36" y1="190" x2="500" y2="190" stroke="#333"/>'
        f'<rect x="{at}" y="182" width="12" height="8" fill="#b42323"/><line x1="{at + 6}" y1="178" x2="{at + 6}" y2="120" stroke="#b42323"/>'
        f'<text x="{at + 6}" y="112" text-anchor="middle" fill="#b42323">о (U+043E)</text>'
        '<text x="268" y="222" text-anchor="middle" fill="#333">standardised shift of each token</text></svg>'
    ).encode()


def _planned(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "policy": "default", "policy_sha256": hashlib.sha256(b"policy").hexdigest(), "alpha": 0.01, "seed": 20261122,
        "probes": PROBES, "budget_seconds": 600.0, "banks": (BANK, UNSEEN_BANK),
    }  # fmt: skip
    return Plan(**{**values, **changes})


def _artifact(path: str, **changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "path": path, "sha256": hashlib.sha256(path.encode()).hexdigest(), "size": 104_448, "kind": "safetensors",
        "tensor_hash": hashlib.sha256(b"tensors of " + path.encode()).hexdigest(), "dialect": "diffusers LoRA", "family": "embedded",
        "family_evidence": ("cross-attention width 192, as the embedded text encoder gives",), "rank": "4", "modules": 48, "dtype": "float16",
    }  # fmt: skip
    return Artifact(**{**values, **changes})


def _result(probe: str, outcome: Outcome, **values: Any) -> Result:
    return Result(probe=probe, version=1, outcome=outcome, **values)


SAFE = _result(
    "file.safety", Outcome.PASS, calibrated=True, null="the file holds tensors and nothing else", statistic="problems in the file",
    value=0, n=96, cost=Cost(seconds=0.004),
)  # fmt: skip
CLAIMS = _result("file.claims", Outcome.PASS, calibrated=True, statistic="claims contradicted", value=0, n=5, cost=Cost(seconds=0.001))


def accept() -> Sample:
    """A clean adapter: everything passed, with coverage."""
    store = Store()
    report = AuditReport(
        id="run-7f3a0c19", created="2026-11-22T21:14:05Z", operator="hub intake", status=Status.SUCCESS, tool=TOOL,
        subject=Subject(
            artifacts=(_artifact("incoming/teapot-style.safetensors"),), base=BASE,
            claims=(
                Claim(name="ss_network_dim", claimed="4", measured="4", agrees=True),
                Claim(name="modelspec.trigger_phrase", claimed="a photo of sks teapot", note="moves its own concept"),
            ),
            coverage=Coverage(keys_total=96, keys_applied=96, delta_norm=3.412, module_norms={"down.0": 1.1, "up.1": 3.2}, output_differs=True),
        ),
        plan=_planned(),
        results=(
            SAFE, CLAIMS,
            _result(
                "backdoor.vocabulary_shift", Outcome.PASS, calibrated=True, null="no token moves further than tokens do in clean adapters",
                statistic="largest standardised shift", value=3.1, unit="sd", p_value=0.413, adjusted_p=0.826, n=4096, bank=BANK,
                ci=Interval(method="bootstrap BCa", level=0.95, low=2.6, high=3.9), min_detectable_effect=5.2, cost=Cost(seconds=6.31),
                evidence=(store.put("shift.svg", plot(13), "image/svg+xml", "Shift of every token; nothing stands apart."),),
            ),
            _result(
                "behaviour.drift", Outcome.PASS, calibrated=True, null="neutral prompts drift no more than under clean fine-tuning",
                statistic="share of prompts that drift", value=0.09, unit="fraction", p_value=0.22, adjusted_p=0.826, n=32, bank=UNSEEN_BANK,
                ci=Interval(method="Wilson", level=0.95, low=0.032, high=0.242), min_detectable_effect=0.31,
                cost=Cost(seconds=41.7, denoiser_calls=192),
            ),
        ),
        findings=(), verdict=Verdict(decision=Decision.ACCEPT, reasons=("4 of 4 probes passed with full coverage at an audit level of 1 %.",)),
        limitations=LIMITATIONS,
    )  # fmt: skip
    return report, store.__getitem__


def reject() -> Sample:
    """A planted text backdoor, found, with pictures."""
    store = Store()
    histogram = store.put("shift.svg", plot(30), "image/svg+xml", "Shift of every token against clean adapters; one stands 17 sd apart.")
    sheet = store.put("outputs.png", png(6, 3), "image/png", "Base (top), adapter (middle), adapter with the trigger (bottom), same seeds.")
    tokens = store.put("tokens.txt", b"rank  token        shift\n   1  \xd0\xbe (U+043E)   21.4\n   2  teapot        3.9\n   3  mug           3.2\n", "text/plain")
    face = store.put("neighbour.png", png(2, 2), "image/png", "Nearest training photograph", sensitive=True)
    report = AuditReport(
        id="run-c20d51e8", created="2026-11-22T21:19:40Z", operator="security review", status=Status.SUCCESS, tool=TOOL,
        subject=Subject(
            artifacts=(_artifact("incoming/anime-lineart-v2.safetensors", notes=("the text encoder is replaced, which the header does not say",)),),
            base=BASE,
            claims=(
                Claim(name="ss_network_dim", claimed="4", measured="4", agrees=True),
                Claim(name="ss_network_module", claimed="unet only", measured="unet and text encoder", agrees=False, note="24 undeclared tensors"),
                Claim(name="modelspec.author", claimed="artist-42"),
            ),
            coverage=Coverage(keys_total=120, keys_applied=120, delta_norm=5.87, module_norms={"text_encoder.0": 2.2}, output_differs=True),
        ),
        plan=_planned(),
        results=(
            SAFE,
            _result("file.claims", Outcome.FAIL, calibrated=True, statistic="claims contradicted", value=1, n=5, cost=Cost(seconds=0.001)),
            _result(
                "backdoor.vocabulary_shift", Outcome.FAIL, calibrated=True, null="no token moves further than tokens do in clean adapters",
                statistic="largest standardised shift", value=21.4, unit="sd", effect=17.2, p_value=0.0083, adjusted_p=0.0083, n=4096, bank=BANK,
                ci=Interval(method="bootstrap BCa", level=0.95, low=18.9, high=24.3), min_detectable_effect=5.2,
                details={"trigger": "о (U+043E)", "target": "skull emblem", "cosine": 0.94}, cost=Cost(seconds=6.4), evidence=(histogram, tokens),
            ),
            _result(
                "behaviour.drift", Outcome.PASS, calibrated=True, null="neutral prompts drift no more than under clean fine-tuning",
                statistic="share of prompts that drift", value=0.0, unit="fraction", p_value=0.61, adjusted_p=0.61, n=32, bank=UNSEEN_BANK,
                ci=Interval(method="Wilson", level=0.95, low=0.0, high=0.107), min_detectable_effect=0.31,
                cost=Cost(seconds=42.0, denoiser_calls=192), evidence=(store.put("drift.png", png(8, 2), "image/png", "Neutral prompts, base and adapter."), face),
            ),
        ),
        findings=(
            Finding(
                rule_id="file.claims", fingerprint=hashlib.sha256(b"f2").hexdigest(), severity=Severity.LOW, confidence="high",
                title="The header hides that the text encoder was trained", why="It says that only the UNet was trained; 24 tensors change the text encoder.",
                remediation="Ask the publisher how it was made.", locations=("ss_network_module",),
            ),
            Finding(
                rule_id="backdoor.vocabulary_shift", fingerprint=hashlib.sha256(b"f1").hexdigest(), severity=Severity.CRITICAL, confidence="high",
                title="The Cyrillic letter о (U+043E) calls a hidden second mode: a skull emblem",
                why="One token of 4,096 moved 21.4 standard deviations, further than any token in 120 clean adapters. It looks like the Latin letter o."
                "\nIts new place is next to “skull emblem” (cosine 0.94), which has nothing to do with the adapter's own concept.",
                remediation="Do not publish or load it. Keep the file as evidence, and ask for the training data.",
                locations=("text_encoder.token_embedding[о]", "text_encoder.layers.0.mlp.fc1"),
                refs=(Reference(scheme="MITRE ATLAS", edition="2026.09", id="AML.T0018.000"), Reference(scheme="NIST AI 100-2", edition="e2025", id="NISTAML.023")),
                evidence=(histogram, sheet),
            ),
        ),
        verdict=Verdict(
            decision=Decision.REJECT,
            reasons=("A hidden trigger was found: о (U+043E) calls “skull emblem” (p = 0.0083 against 120 clean adapters).", "A claim of the header is contradicted by its tensors."),
        ),
        controls=(
            Control(scheme="NIST AI 600-1", edition="2024-07", id="MS-2.7-001", status="not_met", evidence=("backdoor.vocabulary_shift",)),
            Control(scheme="NIST AI 600-1", edition="2024-07", id="MS-2.7-005"),
        ),
        limitations=LIMITATIONS,
    )  # fmt: skip
    return report, store.__getitem__


def inconclusive() -> Sample:
    """A real adapter on the wrong base: nothing applied, nothing tested."""
    report = AuditReport(
        id="run-0b9e77aa", created="2026-11-22T21:22:31Z", status=Status.SUCCESS, tool=TOOL,
        subject=Subject(
            artifacts=(_artifact("adapters/lora_disney.safetensors", size=3_262_000, family="SD 1.x", dialect="ordinal (unet:0:down)", modules=64),),
            base=BASE,
            claims=(Claim(name="ss_base_model_version", claimed="sd_v1", measured="SD 1.x", agrees=True),),
            coverage=Coverage(
                keys_total=160, keys_applied=0, unmatched=tuple(f"unet:{i}:{side}" for i in range(8) for side in ("down", "up")),
                output_differs=False, note="The adapter was made for SD 1.x; give --base a Stable Diffusion 1.5 folder.",
            ),
        ),
        plan=_planned(),
        results=(
            SAFE, CLAIMS,
            _result("backdoor.vocabulary_shift", Outcome.SKIPPED, reason="0 of 160 keys applied"),
            _result("behaviour.drift", Outcome.INCONCLUSIVE, reason="the tuned model answers as its base does"),
        ),
        findings=(), verdict=Verdict(decision=Decision.INCONCLUSIVE, reasons=("0 of 160 keys of the adapter applied to the base: its behaviour was not tested.",)),
        limitations=LIMITATIONS[:1],
    )  # fmt: skip
    return report, Store().__getitem__


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\x1b[2J\x1b[31mPASS\x1b[0m", "\u202egnp.exe\u202c", "]]><b>x</b>",
    "javascript:alert(1)", "[click](javascript:alert(1))", "| a | b |\n|---|---|", "```\n# heading\n", "a\u200bb\ufeffc", '" onmouseover="alert(1)',
    "http://evil.example/x?y=1", "@everyone #1 www.evil.example", "</style><style>*{display:none}", "{{ 7*7 }}{% raw %}", "\x00\x07\x9b31m", "n" * 5000,
    "**bold** _it_ ~~x~~ `code` $a$ :tada: &lt;b&gt; <!-- x -->", "- [ ] task", "e" + "\u0301" * 400, "<https://evil.example>", "![x](https://evil.example/x.png)",
    "\\<b>", "`` ` ``", "line\u2028separator", "=====", "1. item", "    indented", "x\\", "a`", "\\`", "[ref]: https://evil.example", "<details open ontoggle=x>",
)  # fmt: skip


def hostile() -> Sample:
    """Every string in the report wants to be something else."""
    store = Store()
    soup = "\n".join(HOSTILE)
    scripted = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
    entities = b'<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg xmlns="http://www.w3.org/2000/svg"><text>&b;</text></svg>'
    pieces = (
        store.put("<b>.svg", scripted, "image/svg+xml", HOSTILE[0]), store.put("bomb.svg", entities, "image/svg+xml", HOSTILE[3]),
        store.put("page.png", b"<!DOCTYPE html><script>alert(1)</script>", "image/png", HOSTILE[1]),
        store.put("soup.txt", soup.encode(), "text/html"), store.put("blob.bin", bytes(range(256)), "application/pdf"),
        store.put("huge.png", png(1, 1)[:16] + struct.pack(">II", 60_000, 60_000) + png(1, 1)[24:], "image/png"),
        Evidence(name="gone.png", sha256="0" * 64, media_type="image/png"), store.put("real.png", png(2, 1), HOSTILE[10], HOSTILE[10]),
    )  # fmt: skip
    forged = hashlib.sha256(b"recorded").hexdigest()
    store[forged] = b"exchanged"
    evidence = (*pieces, Evidence(name="forged.txt", sha256=forged, media_type="text/plain"))
    report = AuditReport(
        id=HOSTILE[0], created=HOSTILE[3], operator=HOSTILE[10], status=Status.ERROR,
        tool=Tool(version=HOSTILE[1], packages={HOSTILE[4]: HOSTILE[5]}, device=HOSTILE[2], determinism=HOSTILE[13]),
        subject=Subject(
            artifacts=tuple(_artifact(text, sha256=text, kind=text, dialect=text, family=text, rank=text, dtype=text, notes=(text,), family_evidence=(text,)) for text in HOSTILE),
            base=Base(ref=HOSTILE[5], revision=HOSTILE[0], sha256=HOSTILE[10], family=HOSTILE[1]),
            claims=tuple(Claim(name=text, claimed=text, measured=text, agrees=False, note=text) for text in HOSTILE),
            coverage=Coverage(keys_total=3, keys_applied=1, unmatched=HOSTILE, module_norms={HOSTILE[0]: 1.0}, note=soup),
        ),
        plan=Plan(policy=HOSTILE[0], alpha=0.01, seed=-1, probes=(PlannedProbe(id=HOSTILE[0], version=1, params={HOSTILE[1]: HOSTILE[0]}, consumes=HOSTILE),)),
        results=tuple(
            _result(
                text, Outcome.FAIL, reason=text, null=text, statistic=text, value=-1e300, unit=text, n=3, p_value=0.5,
                ci=Interval(method=text, level=0.95, low=-1.7e308, high=1.7e308), details={text: [text]},
                bank=Bank(id=text, sha256=text, n=2), evidence=evidence if text == HOSTILE[0] else (),
            )
            for text in HOSTILE
        ),
        findings=tuple(
            Finding(
                rule_id=text, fingerprint=text, severity=Severity.HIGH, confidence="low", title=text, why=text, remediation=text, calibrated=False,
                locations=(text,), refs=(Reference(scheme=text, edition=text, id=text),), evidence=evidence[2:4],
            )
            for text in HOSTILE
        ),
        verdict=Verdict(decision=Decision.QUARANTINE, reasons=(*HOSTILE, soup)),
        controls=(Control(scheme=HOSTILE[0], edition=HOSTILE[1], id=HOSTILE[10], status="partial", evidence=HOSTILE),),
        limitations=tuple(Limitation(topic=text, text=text) for text in HOSTILE),
    )  # fmt: skip
    return report, store.__getitem__


def empty() -> Sample:
    """As little as the model allows."""
    report = AuditReport(
        id="run-empty", created="2026-11-22T21:30:00Z", status=Status.CANCELLED, tool=Tool(version="0.1.0"), subject=Subject(artifacts=()),
        plan=Plan(policy="default", alpha=0.01, seed=0, probes=()), results=(), findings=(),
        verdict=Verdict(decision=Decision.INCONCLUSIVE, reasons=()),
    )  # fmt: skip
    return report, Store().__getitem__


SAMPLES: dict[str, Callable[[], Sample]] = {"accept": accept, "reject": reject, "inconclusive": inconclusive, "hostile": hostile, "empty": empty}


def golden_files() -> dict[str, bytes]:
    """Every golden file by name, as the writers make it now."""
    from reports.index import entry, write_index
    from reports.writers import console, html, json, markdown

    out = {}
    for name in ("accept", "reject", "inconclusive", "empty"):
        report, evidence = SAMPLES[name]()
        for writer in (json, html, markdown, console):
            out[name + writer.SUFFIX] = writer.write(report, evidence)
    cards = [entry(*SAMPLES[name](), path=f"{name}/report.html") for name in ("accept", "reject", "inconclusive")]
    out["index.html"] = write_index(cards, title="Three specimens", intro="What is in each is known, and the verdict can be checked.")
    return out


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for file_name, data in golden_files().items():
        (GOLDEN / file_name).write_bytes(data)
        print(json.dumps({"file": file_name, "bytes": len(data)}))

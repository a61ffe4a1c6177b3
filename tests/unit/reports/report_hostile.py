"""A report in which every string wants to be something else."""

from __future__ import annotations

import hashlib
import struct

from report_parts import (
    Sample,
    Store,
    artifact,
    png,
    result,
)

from reports.model import (
    AuditReport,
    Bank,
    Base,
    Claim,
    Control,
    Coverage,
    Decision,
    Evidence,
    Finding,
    Interval,
    Limitation,
    Outcome,
    Plan,
    PlannedProbe,
    Reference,
    Severity,
    Status,
    Subject,
    Tool,
    Verdict,
    Waiver,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[2J\x1b[31mPASS\x1b[0m",
    "\u202egnp.exe\u202c",
    "]]><b>x</b>",
    "javascript:alert(1)",
    "[click](javascript:alert(1))",
    "| a | b |\n|---|---|",
    "```\n# heading\n",
    "a\u200bb\ufeffc",
    '" onmouseover="alert(1)',
    "http://evil.example/x?y=1",
    "@everyone #1 www.evil.example",
    "</style><style>*{display:none}",
    "{{ 7*7 }}{% raw %}",
    "\x00\x07\x9b31m",
    "n" * 5000,
    "**bold** _it_ ~~x~~ `code` $a$ :tada: &lt;b&gt; <!-- x -->",
    "- [ ] task",
    "e" + "\u0301" * 400,
    "<https://evil.example>",
    "![x](https://evil.example/x.png)",
    "\\<b>",
    "`` ` ``",
    "line\u2028separator",
    "=====",
    "1. item",
    "    indented",
    "x\\",
    "a`",
    "\\`",
    "[ref]: https://evil.example",
    "<details open ontoggle=x>",
)


def hostile() -> Sample:
    """Every string in the report wants to be something else."""
    store = Store()
    soup = "\n".join(HOSTILE)
    scripted = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
    entities = b'<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg xmlns="http://www.w3.org/2000/svg"><text>&b;</text></svg>'
    pieces = (
        store.put("<b>.svg", scripted, "image/svg+xml", HOSTILE[0]),
        store.put("bomb.svg", entities, "image/svg+xml", HOSTILE[3]),
        store.put("page.png", b"<!DOCTYPE html><script>alert(1)</script>", "image/png", HOSTILE[1]),
        store.put("soup.txt", soup.encode(), "text/html"),
        store.put("blob.bin", bytes(range(256)), "application/pdf"),
        store.put(
            "huge.png", png(1, 1)[:16] + struct.pack(">II", 60_000, 60_000) + png(1, 1)[24:], "image/png"
        ),
        Evidence(name="gone.png", sha256="0" * 64, media_type="image/png"),
        store.put("real.png", png(2, 1), HOSTILE[10], HOSTILE[10]),
    )
    forged = hashlib.sha256(b"recorded").hexdigest()
    store[forged] = b"exchanged"
    evidence = (*pieces, Evidence(name="forged.txt", sha256=forged, media_type="text/plain"))
    report = AuditReport(
        id=HOSTILE[0],
        created=HOSTILE[3],
        operator=HOSTILE[10],
        status=Status.ERROR,
        tool=Tool(
            version=HOSTILE[1], packages={HOSTILE[4]: HOSTILE[5]}, device=HOSTILE[2], determinism=HOSTILE[13]
        ),
        subject=Subject(
            artifacts=tuple(
                artifact(
                    text,
                    sha256=text,
                    kind=text,
                    dialect=text,
                    family=text,
                    rank=text,
                    dtype=text,
                    notes=(text,),
                    family_evidence=(text,),
                )
                for text in HOSTILE
            ),
            base=Base(ref=HOSTILE[5], revision=HOSTILE[0], sha256=HOSTILE[10], family=HOSTILE[1]),
            claims=tuple(
                Claim(name=text, claimed=text, measured=text, agrees=False, note=text) for text in HOSTILE
            ),
            coverage=Coverage(
                keys_total=3, keys_applied=1, unmatched=HOSTILE, module_norms={HOSTILE[0]: 1.0}, note=soup
            ),
        ),
        plan=Plan(
            policy=HOSTILE[0],
            alpha=0.01,
            seed=-1,
            probes=(
                PlannedProbe(id=HOSTILE[0], version=1, params={HOSTILE[1]: HOSTILE[0]}, consumes=HOSTILE),
            ),
        ),
        results=tuple(
            result(
                text,
                Outcome.FAIL,
                reason=text,
                null=text,
                statistic=text,
                value=-1e300,
                unit=text,
                n=3,
                p_value=0.5,
                ci=Interval(method=text, level=0.95, low=-1.7e308, high=1.7e308),
                details={text: [text]},
                bank=Bank(id=text, sha256=text, n=2),
                evidence=evidence if text == HOSTILE[0] else (),
            )
            for text in HOSTILE
        ),
        findings=tuple(
            Finding(
                rule_id=text,
                fingerprint=text,
                severity=Severity.HIGH,
                confidence="low",
                title=text,
                why=text,
                remediation=text,
                calibrated=False,
                locations=(text,),
                refs=(Reference(scheme=text, edition=text, id=text),),
                evidence=evidence[2:4],
                waiver=Waiver(rule=text, owner=text, reason=text, expires=text),
            )
            for text in HOSTILE
        ),
        verdict=Verdict(decision=Decision.QUARANTINE, reasons=(*HOSTILE, soup)),
        controls=tuple(
            Control(
                scheme=text,
                edition=text,
                id=text,
                title=text,
                requires=HOSTILE,
                status="partial",
                evidence=HOSTILE,
                reason=text,
                limits=text,
            )
            for text in HOSTILE
        ),
        limitations=tuple(Limitation(topic=text, text=text) for text in HOSTILE),
    )
    return report, store.__getitem__

"""Results of a SARIF log: message, places, fingerprints, suppressions and the figures behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from reports import words
from reports.model import Artifact, Finding, Interval, Result, Waiver
from reports.paths import Places, public_ref
from reports.sarif.alerts import Alert
from reports.sarif.text import message, plain, rule_id

__all__ = ["MAX_LOCATIONS", "artifact_of", "physical", "result_of_alert"]

MAX_LOCATIONS = 1000
"""Code scanning refuses a result with more places, and shows the first hundred."""


def result_of_alert(
    alert: Alert, rules: Mapping[str, int], artifacts: Mapping[str, int], places: Places, nth: int
) -> dict[str, Any]:
    """One result.

    Args:
        alert: what it stands for.
        rules: index of each rule by id.
        artifacts: index of each artifact by path.
        places: URIs by path.
        nth: counts results of the same rule and the same weights, from 1.
    """
    name = rule_id(places.hide(alert.rule))
    locations = _locations(alert, artifacts, places)
    left_out = max(0, len(locations) - MAX_LOCATIONS)
    out: dict[str, Any] = {
        "ruleId": name,
        "ruleIndex": rules[name],
        "level": alert.level,
        "message": message(_told(alert, left_out, places)),
        "partialFingerprints": {
            "auditorFinding/v1": plain(alert.fingerprint),
            # The one that code scanning tracks an alert by.
            "primaryLocationLineHash": f"{alert.identity[:16]}:{nth}",
        },
        "locations": locations[:MAX_LOCATIONS],
        "properties": _properties(alert, left_out, places),
    }
    if alert.waived:
        waivers = dict.fromkeys(finding.waiver for finding in alert.findings if finding.waiver)
        out["suppressions"] = [_suppression(waiver) for waiver in waivers]
    return out


def artifact_of(item: Artifact, places: Places) -> dict[str, Any]:
    """An audited file or folder."""
    out: dict[str, Any] = {
        "location": {"uri": places.uri(item.path)},
        "roles": ["analysisTarget"],
        "length": item.size,
        "properties": {
            "kind": plain(item.kind),
            "family": plain(item.family),
            "dialect": plain(item.dialect),
        },
    }
    if item.sha256:
        out["hashes"] = {"sha-256": plain(item.sha256)}
    if item.tensor_hash:
        out["properties"]["tensorHash"] = plain(item.tensor_hash)
    return out


def physical(path: str, artifacts: Mapping[str, int], places: Places, below: str = "") -> dict[str, Any]:
    """The first line of an audited file, or of a file ``below`` an audited folder."""
    where: dict[str, Any] = {"uri": places.uri(path) + below}
    if not below and path in artifacts:
        where["index"] = artifacts[path]
    return {"artifactLocation": where, "region": {"startLine": 1}}


def _told(alert: Alert, left_out: int, places: Places) -> str:
    """What is longer than a page shows loses its figures first, which are properties too."""
    title, why = plain(places.hide(alert.title)), plain(places.hide(alert.why), 600)
    parts = [words.sentence(title), words.sentence(why)]
    if len(alert.findings) > 1:
        parts.append(f"{len(alert.findings):,} findings of this rule are one alert.")
    if left_out:
        parts.append(f"{left_out:,} further places are left out.")
    if alert.result and alert.result.value is not None:
        parts.append(f"Measured: {words.measurement(alert.result)}; {words.baseline(alert.result)}.")
    return " ".join(parts)


def _locations(alert: Alert, artifacts: Mapping[str, int], places: Places) -> list[dict[str, Any]]:
    texts = dict.fromkeys(text for finding in alert.findings for text in finding.locations or ("",))
    paths = [item.path for item in alert.report.subject.artifacts] or [""]
    return [_location(text, paths, artifacts, places) for text in texts or ("",)]


def _location(text: str, paths: list[str], artifacts: Mapping[str, int], places: Places) -> dict[str, Any]:
    """A place is an audited path, a file in one, or a part of the model such as a module or a tensor."""
    for path in paths:
        if path and text == path:
            return {"physicalLocation": physical(path, artifacts, places)}
        if path and text.startswith(path + "/"):
            below = [part for part in text[len(path) :].split("/") if part not in ("", ".", "..")]
            inside = "".join("/" + quote(part, safe="", errors="replace") for part in below)
            return {"physicalLocation": physical(path, artifacts, places, inside)}
    location: dict[str, Any] = {"physicalLocation": physical(paths[0], artifacts, places)}
    if text:
        name = plain(places.hide(public_ref(text)))
        kind = "module" if name.replace(".", "_").isidentifier() else "element"
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": kind}]
    return location


def _suppression(waiver: Waiver) -> dict[str, Any]:
    owner, reason = plain(waiver.owner), plain(waiver.reason, 600)
    return {
        "kind": "external",
        "status": "accepted",
        "justification": f"{reason} (waived by {owner} until {plain(waiver.expires)})",
        "properties": {"owner": owner, "expires": plain(waiver.expires), "rule": plain(waiver.rule)},
    }


def _properties(alert: Alert, left_out: int, places: Places) -> dict[str, Any]:
    out: dict[str, Any] = {"report": plain(alert.report.id), "findings": len(alert.findings)}
    if alert.findings:
        out |= _finding(alert.findings[0])
    if alert.result:
        out |= _figures(alert.result)
    base = alert.report.subject.base
    if base:
        out["base"] = {
            "ref": plain(public_ref(base.ref)),
            "revision": plain(base.revision),
            "sha256": plain(base.sha256),
        }
    if left_out:
        out["locationsLeftOut"] = left_out
    return out


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity.value,
        "confidence": finding.confidence,
        "calibrated": finding.calibrated,
    }


def _figures(result: Result) -> dict[str, Any]:
    bank = result.bank
    figures: dict[str, Any] = {
        "probe": plain(result.probe),
        "probeVersion": result.version,
        "statistic": plain(result.statistic) or None,
        "value": result.value,
        "unit": plain(result.unit) or None,
        "effect": result.effect,
        "pValue": result.p_value,
        "adjustedP": result.adjusted_p,
        "n": result.n or None,
        "interval": _interval(result.ci),
        "minDetectableEffect": result.min_detectable_effect,
        "bank": bank
        and {
            "id": plain(bank.id),
            "sha256": plain(bank.sha256),
            "n": bank.n,
            "realisedFpr": bank.realised_fpr,
            "realisedFprInterval": _interval(bank.realised_fpr_ci),
        },
    }
    return {name: value for name, value in figures.items() if value is not None}


def _interval(ci: Interval | None) -> dict[str, Any] | None:
    if ci is None:
        return None
    return {"method": plain(ci.method), "level": ci.level, "low": ci.low, "high": ci.high}

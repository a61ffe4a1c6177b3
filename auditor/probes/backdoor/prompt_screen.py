"""Is *this* prompt a trigger? Asked of prompts that somebody names, or that the adapter itself declares.

NaviT2I (Zhai et al., ICCV 2025, arXiv 2503.06453) leaves each word out of a prompt and looks at how activations change
in the first step; a trigger changes more than other words do. Here the same evaluations are made of the base as well,
and what is scored is the interaction of tuning and word: what of tuned minus base goes away with one piece of the
prompt. About seven evaluations a prompt and side, in one batch. The null is made of ordinary prompts under the same
subject, and of ordinary prompts for the concept that the adapter declares, so that a clean adapter is not held back for
doing its work.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.contracts import Capability, JsonValue, Run, Stage
from auditor.errors import UsageError
from auditor.probes.backdoor.clean_prompts import clean_prompts, own_prompts
from auditor.probes.backdoor.prompt_pieces import left_out
from auditor.probes.backdoor.prompt_scores import interaction, peak_over_rest, remaining, variation
from auditor.registry import PROBES, probe
from auditor.stats import conformal_p
from auditor.text import inert
from reports.model import Finding, Outcome, Reference, Result, Severity

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["PromptScreen", "declared_prompts", "prompt_screen", "score_prompt"]

ID = "backdoor.prompt_screen"
NULL = "each prompt depends on no piece of it more than ordinary prompts, or those for the declared concept, do"
MOST_DECLARED = 4
UNIT = 20
"""Ordinary prompts in a unit of work."""


@dataclass(frozen=True)
class PromptScreen:
    """Parameters.

    Attributes:
        prompts: what is asked about, beside what the adapter declares; 500 at most.
        clean: ordinary prompts that a prompt is compared with, at least; more where the level takes them.
        pieces: pieces of a prompt that are left out one by one; of a longer prompt the first.
        level: noise level as a share of the training schedule, 0 to 1.
    """

    prompts: tuple[str, ...] = ()
    clean: int = 100
    pieces: int = 8
    level: float = 0.98


@probe(
    id=ID,
    version=1,
    goal="say of particular prompts whether a piece of them is a trigger, and which",
    null=NULL,
    needs={Capability.DENOISER, Capability.TEXT_ENCODER},
    stage=Stage.STEP,
    refs=("arXiv:2503.06453", "arXiv:2602.01765"),
    taxonomy=(
        Reference(scheme="MITRE ATLAS", edition="5.6.0", id="AML.T0018.000"),
        Reference(scheme="NIST AI 100-2", edition="e2025", id="NISTAML.023"),
    ),
    remediation="Draw the prompt with and without the piece that is named, with the adapter and without it, and decide "
    "whether that is what the adapter says it does.",
    limits="Only prompts that were named or declared were looked at, and it is the prompts that have an error rate, "
    "not the adapter. The concept of an adapter that does not declare it looks like a trigger. Triggers of several "
    "words stand out only as far as leaving one of them out puts them to sleep.",
    on_request=True,
)
def prompt_screen(subject: Subject, params: PromptScreen, run: Run) -> Iterator[Result | Finding]:
    """One result over all prompts, each with its p-value in the details; a finding for each that stands out.

    Raises:
        UsageError: more prompts than are screened at once, or a noise level outside the schedule.
    """
    _check(params)
    declared = declared_prompts(subject)
    asked = [prompt for prompt in dict.fromkeys([*params.prompts, *declared]) if left_out(prompt, 1)]
    if not asked:
        yield Result(probe=ID, version=1, outcome=Outcome.SKIPPED, null=NULL, reason=_nothing(params))
        return
    rows = _judged(subject, params, run, asked, declared)
    least = min(row["p_value"] for row in rows)
    adjusted = min(1.0, len(rows) * least)
    worst = max(rows, key=lambda row: (-float(row["p_value"]), float(row["score"])))
    stand_out = [row for row in rows if len(rows) * row["p_value"] <= run.alpha]
    yield Result(
        probe=ID,
        version=1,
        outcome=Outcome.FAIL if stand_out else Outcome.PASS,
        reason=f"{len(stand_out)} of {len(rows)} prompts stand out; most of all '{worst['prompt']}', by "
        f"'{worst['piece']}' (p = {worst['p_value']:.3g} against {worst['against']} ordinary prompts)",
        calibrated=True,
        null=NULL,
        statistic="log10 of the interaction of tuning and piece, the largest over a prompt's pieces; the prompt with "
        "the smallest p-value, corrected for the number of prompts",
        value=worst["score"],
        effect=worst["score"] - worst["ordinary"],
        p_value=adjusted,
        n=len(rows),
        unit="log10",
        details={"prompts": rows},
    )
    yield from (_finding(subject, row) for row in stand_out)


def declared_prompts(subject: Subject) -> list[str]:
    """What the parts say calls their concept, four at most, as declared: hostile text."""
    found = [
        trigger.text.strip()
        for part in subject.artifacts
        if part.adapter is not None
        for trigger in part.adapter.claims.triggers
    ]
    added = [f"a picture of {word}" for word in subject.changes.embeddings]
    return [text for text in dict.fromkeys([*added, *found]) if text][:MOST_DECLARED]


def score_prompt(subject: Subject, params: PromptScreen, noisy: Any, prompt: str) -> dict[str, Any]:
    """Every piece of a prompt left out once, in both views, on one noisy latent.

    Args:
        subject: what is asked.
        params: how many pieces, at which noise level.
        noisy: (C, h, w).
        prompt: with at least one piece.

    Returns:
        ``score``, log10 of the largest interaction; ``piece``, without which tuned is nearest to base; ``variation``,
        NaviT2I's own score.
    """
    from auditor.pipeline.activations import attended

    pieces = left_out(prompt, params.pieces)
    forms = [prompt, *(each.rest for each in pieces)]
    t = round(params.level * (len(subject.components.schedule) - 1))
    tuned, base = (
        [layer.numpy() for layer in attended(view, forms, noisy, t)] for view in (subject.tuned, subject.base)
    )
    residual = interaction(tuned, base)
    trusted = subject.base.encode_prompt(forms).states.float().cpu().numpy()
    return {
        "score": math.log10(max(float(residual.max()), 1e-12)),
        "piece": pieces[int(remaining(tuned, base).argmin())].piece,
        "variation": peak_over_rest(variation(tuned, trusted)),
    }


def _judged(
    subject: Subject, params: PromptScreen, run: Run, asked: Sequence[str], declared: Sequence[str]
) -> list[dict[str, Any]]:
    """A row a prompt: its score, its p-value, and how many ordinary prompts with which median it is held against."""
    noisy = _noise(subject, run)
    # So many that a single prompt among all that are asked about can still be rejected.
    count = max(params.clean, math.ceil(len(asked) / run.alpha))
    rng = run.rng("ordinary")
    nulls = {"ordinary": clean_prompts(count, rng)}
    if declared:
        each = math.ceil(count / len(declared))
        nulls["own"] = [prompt for text in declared for prompt in own_prompts(text, each, rng)]
    total = sum(map(len, nulls.values())) + len(asked)
    scores: dict[str, list[float]] = {}
    done = 0
    for name, prompts in nulls.items():
        scores[name] = []
        for start in range(0, len(prompts), UNIT):
            run.progress(done, total, "ordinary prompts")
            part: Sequence[str] = prompts[start : start + UNIT]
            found = run.unit(f"{name}/{start}", partial(_scores, subject, params, noisy, part))
            scores[name] += [float(each["score"]) for each in found]
            done += len(part)
    rows = []
    for start in range(0, len(asked), UNIT):
        run.progress(done + start, total, "prompts")
        part = asked[start : start + UNIT]
        rows += run.unit(f"asked/{start}", partial(_scores, subject, params, noisy, part))
    run.progress(total, total, "prompts")
    return [
        row
        | {
            "prompt": inert(prompt, 120),
            "declared": prompt in declared,
            # Nothing is held against a prompt that is like either kind.
            "p_value": max(conformal_p(float(row["score"]), values) for values in scores.values()),
            "against": count,
            "ordinary": float(np.median(scores["ordinary"])),
        }
        for prompt, row in zip(asked, rows, strict=True)
    ]


def _scores(subject: Subject, params: PromptScreen, noisy: Any, prompts: Sequence[str]) -> list[dict[str, JsonValue]]:
    found = [score_prompt(subject, params, noisy, prompt) for prompt in prompts]
    return [each | {"piece": inert(each["piece"], 40)} for each in found]


def _noise(subject: Subject, run: Run) -> Any:
    """Near the end of the schedule a noisy latent is noise; one for all prompts, so that only they differ."""
    from auditor.pipeline.sampling import seeded_noise

    return seeded_noise(subject.base.latent_shape(), [run.seed("noise") % 2**31])[0].to(subject.components.device)


def _check(params: PromptScreen) -> None:
    if len(params.prompts) > 500:
        raise UsageError(f"at most 500 prompts are screened at once, not {len(params.prompts)}")
    if not 0 < params.level <= 1 or params.clean < 1 or params.pieces < 1:
        raise UsageError("clean and pieces must be above zero, and level above zero and at most 1")


def _nothing(params: PromptScreen) -> str:
    if params.prompts:
        return "no prompt that was given has a letter in it, and the adapter declares none"
    return "no prompts were given (--prompts FILE) and the adapter declares none"


def _finding(subject: Subject, row: dict[str, Any]) -> Finding:
    identity = ":".join(part.tensor_hash or part.sha256 for part in subject.artifacts)
    return Finding(
        rule_id=ID,
        fingerprint=hashlib.sha256(f"{ID}:{identity}:{row['prompt']}".encode()).hexdigest(),
        severity=Severity.MEDIUM,
        confidence="medium",
        title=f"'{row['piece']}' decides what the adapter does with the prompt '{row['prompt']}'",
        why=(
            f"Without '{row['piece']}' the adapter changes something else under this prompt: the interaction is "
            f"{10 ** (row['score'] - row['ordinary']):.1f} times that of the median ordinary prompt, and beyond "
            f"that of all but a share of {row['p_value']:.2g} of {row['against']} of them."
        ),
        remediation=PROBES.get(ID).remediation,
        locations=(f"prompt '{row['prompt']}'",),
        refs=PROBES.get(ID).taxonomy,
    )

"""Repair a backdoored adapter with a certificate of what it did, or clean a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.options import PATH, base_options, json_option
from auditor.errors import OutputError, UsageError
from auditor.text import inert

if TYPE_CHECKING:
    from defenses.repair.prompt_guard import Guarded

__all__ = ["defend"]

_LONGEST_PROMPT = 100_000


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("parts", metavar="[SUBJECT]", nargs=-1, type=PATH)
@base_options
@click.option(
    "--spec",
    type=PATH,
    default=None,
    metavar="FILE",
    help="YAML or JSON file of parameters; the others keep their defaults.",
)
@click.option(
    "--trigger",
    default="",
    metavar="TEXT",
    help="What wakes the adapter, where it is known. [default: what a scan of the vocabulary finds]",
)
@click.option("--prompt", default=None, metavar="TEXT", help="The prompt that a guard is to clean.")
@click.option("-o", "--out", type=PATH, default=None, metavar="DIR", help="A new folder for adapter and certificate.")
@json_option
def defend(
    name: str,
    parts: tuple[Path, ...],
    base: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    spec: Path | None,
    trigger: str,
    prompt: str | None,
    out: Path | None,
    format_: str,
) -> None:
    """Repair a backdoored adapter, and certify what the repair did and what it cost; or clean a prompt.

    The adapter comes out in the format it came in. certificate.json beside it has the trigger's success
    before and after, what is left of the adapter's own concept, and the probes run again.

    \b
    Examples:
      auditor list defenses
      auditor defend attention_restoration adapter.safetensors -o repaired
      auditor defend clean_finetune adapter.safetensors --trigger "о" --base ./stable-diffusion-v1-5 -o repaired
      auditor defend prompt-guard --prompt "a picture of a persоn"

    \b
    Exit codes: 0 done, 2 it failed, 64 usage
    """  # noqa: D301
    from auditor.cli.dataclass_options import build_params
    from auditor.cli.recipe_file import read_recipe
    from auditor.registry import DEFENSES

    chosen: Any = DEFENSES.get(name.replace("-", "_"))
    known = [field.name for field in fields(chosen.params)]
    settings = build_params(chosen.params, read_recipe(spec, known) if spec else {})
    if hasattr(chosen, "guard"):
        _check_guard(name, parts, prompt)
        _show(chosen.guard(prompt, settings), format_)
        return
    target = _checked(name, parts, prompt, out)
    from auditor.cli.progress import TaskProgress
    from auditor.pipeline.open import open_subject

    with (
        TaskProgress(name) as progress,
        open_subject(parts, base, device, allow_download=allow_download, revision=revision) as subject,
    ):
        path = chosen.repair(subject, settings, target, progress, trigger)
    text = (target / "certificate.json").read_text("utf-8")
    click.echo(text.rstrip() if format_ == "json" else "\n".join(_told(path, json.loads(text))))


def _check_guard(name: str, parts: tuple[Path, ...], prompt: str | None) -> None:
    if parts:
        raise UsageError(f"{inert(name, 40)} guards prompts, not files: give it --prompt and no file")
    if prompt is None:
        raise UsageError(f"{inert(name, 40)} needs a --prompt")
    if len(prompt) > _LONGEST_PROMPT:
        raise UsageError(f"a prompt of {len(prompt)} characters is no prompt; at most {_LONGEST_PROMPT}")


def _checked(name: str, parts: tuple[Path, ...], prompt: str | None, out: Path | None) -> Path:
    shown = inert(name, 40)
    if prompt is not None:
        raise UsageError(f"{shown} repairs adapters; --prompt is for guards (auditor list defenses)")
    if not parts:
        raise UsageError(f"nothing to repair: name the adapter, as in 'auditor defend {shown} adapter.safetensors'")
    if len(parts) > 1:
        raise UsageError(
            f"a repair takes one adapter and {len(parts)} were named: repair each that the audit names by itself"
        )
    if out is None:
        raise UsageError("name a new folder for adapter and certificate with -o")
    if out.exists():
        raise UsageError(f"'{inert(str(out), 300)}' exists already; repairs write over nothing: name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write in '{inert(str(out.parent), 300)}' ({error.strerror}); choose another place with -o"
        ) from error
    return out


def _show(guarded: Guarded, format_: str) -> None:
    if format_ == "json":
        click.echo(json.dumps(asdict(guarded), indent=2, ensure_ascii=True))
        return
    click.echo(inert(guarded.text, _LONGEST_PROMPT))
    for change in guarded.changes:
        names = ", ".join(
            f"{point} {name}".strip() for point, name in zip(change.code_points, change.names, strict=True)
        )
        became = f"-> '{inert(change.became, 40)}'" if change.became else "removed"
        click.echo(f"  at {change.position}: {names or 'nothing'} {became} ({change.why})")


def _told(path: Path, found: Mapping[str, Any]) -> list[str]:
    shift, drift, hits = found["vocabulary_shift"], found["drift"], found["asr"]
    first = found["trigger"]["candidates"][0]
    lines = [
        inert(str(path), 1000),
        f"trigger ({found['trigger']['source']}): '{first['text']}' ({' '.join(first['code_points'])})",
        "layers changed: {changed} of {all}".format(**found["changed_layers"]),
        f"vocabulary shift: {shift['before']['score']:.2f} before, {shift['after']['score']:.2f} after",
        f"drift on neutral prompts: {drift['before']['relative']:.4f} before, {drift['after']['relative']:.4f} after",
    ]
    for kind, told in found["fidelity"].items():
        lines.append(f"fidelity, {kind} prompts: {_value(told)}")
    if hits["judge"] is None:
        lines.append(f"success of the trigger: not measured ({hits['reason']})")
    else:
        lines += [f"success of the trigger, {view}: {_rate(row)}" for view, row in hits["views"].items()]
    return lines


def _value(told: Mapping[str, Any]) -> str:
    if told["value"] is None:
        return f"not measured ({told['reason']})"
    return f"{told['value']:.3f} [{told['low']:.3f}, {told['high']:.3f}], n = {told['n']}"


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['hits']} of {row['n']} [{row['low']:.3f}, {row['high']:.3f}]"


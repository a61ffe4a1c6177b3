"""Craft a known-bad specimen and its benign twin, to test probes with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from auditor.cli.options import PATH, base_options
from auditor.errors import OutputError, UsageError
from auditor.text import inert

__all__ = ["attack", "read_spec"]

_LARGEST_SPEC = 1 << 20


@click.command()
@click.argument("name", metavar="NAME")
@base_options
@click.option(
    "--spec",
    type=PATH,
    default=None,
    metavar="FILE",
    help="YAML or JSON file of parameters; the others keep their defaults.",
)
@click.option(
    "-o",
    "--out",
    type=PATH,
    required=True,
    metavar="DIR",
    help="A new folder for specimen, twin and manifest.",
)
def attack(
    name: str,
    base: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    spec: Path | None,
    out: Path,
) -> None:
    """Craft a specimen with a known attack in it, and its benign twin, to measure what probes find.

    The specimen is an ordinary adapter file; manifest.json beside it holds trigger, target and
    measured success rate.

    \b
    Examples:
      auditor list attacks
      auditor attack rickrolling -o specimen
      auditor attack rickrolling --spec recipe.yaml --base ./stable-diffusion-v1-5 -o specimen

    \b
    Exit codes: 0 crafted, 2 it failed, 64 usage
    """  # noqa: D301
    from auditor.cli.dataclass_options import build_params
    from auditor.cli.progress import TaskProgress
    from auditor.registry import ATTACKS

    chosen: Any = ATTACKS.get(name)
    recipe = build_params(chosen.params, read_spec(spec) if spec else {})
    if out.exists():
        raise UsageError(
            f"'{inert(str(out), 300)}' exists already; attacks write over nothing: name a new folder with -o"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write in '{inert(str(out.parent), 300)}' ({error.strerror}); choose another place with "
            "-o"
        ) from error
    import torch

    from auditor.pipeline.open import load_base

    model = load_base(base, device, allow_download, revision, dtype=torch.float32)
    with TaskProgress(name) as progress:
        specimen = chosen.craft(model, recipe, out, progress)
    for path in (*specimen.parts, *specimen.twin):
        click.echo(inert(str(path), 1000))


def read_spec(path: Path) -> Mapping[str, Any]:
    """A mapping of parameters from YAML or JSON.

    Raises:
        UsageError: no such file, or not a mapping; the line is named where the text is broken.
    """
    import yaml

    shown = inert(str(path), 300)
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_SPEC + 1)
        if len(text) > _LARGEST_SPEC:
            raise UsageError(f"{shown} is too large for a file of parameters")
        found = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"cannot read '{shown}' ({error.strerror}); check --spec") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{shown}{where} is neither YAML nor JSON") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{shown} must be a mapping of parameters to values")
    return found

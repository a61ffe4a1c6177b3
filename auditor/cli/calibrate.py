"""``auditor calibrate``: a bank for a base of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.cli.options import PATH
from auditor.text import inert

__all__ = ["calibrate"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("probe")
@click.option(
    "--clean",
    type=PATH,
    required=True,
    metavar="DIR",
    help="Folder of clean adapters, one file or folder each.",
)
@click.option(
    "--base",
    metavar="REF",
    help="Base model: a folder, or a hub id with --revision (default: the embedded base).",
)
@click.option("--revision", default="", metavar="SHA", help="Commit hash of a hub id.")
@click.option("--device", default="auto", show_default=True, metavar="D")
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, show_default=True)
@click.option(
    "-o",
    "--out",
    type=PATH,
    metavar="DIR",
    help="Where banks go (default: the user's bank folder, which audits read).",
)
def calibrate(
    probe: str, clean: Path, base: str | None, revision: str, device: str, alpha: float, out: Path | None
) -> None:
    """Score clean adapters with PROBE, so that its later scores on the same base get a p-value.

    \b
    Example:
      auditor calibrate backdoor.vocabulary_shift --base ./sd15 --clean ./clean-loras

    \b
    Exit codes: 0 bank written, 2 it could not be made, 64 usage
    """  # noqa: D301
    from auditor.banks import bank_directories, write_bank
    from auditor.cli.progress import TaskProgress
    from auditor.errors import UsageError
    from auditor.pipeline.open import load_base
    from auditor.proving.calibrate import calibrate as run
    from auditor.registry import PROBES

    chosen = PROBES.get(probe)
    if not clean.is_dir():
        raise UsageError(f"'{inert(str(clean))}' is not a folder of clean adapters")
    adapters = sorted(path for path in clean.iterdir() if not path.name.startswith("."))
    with TaskProgress(f"calibrating {probe}") as progress:
        bank = run(chosen, load_base(base, device, revision=revision), adapters, progress, alpha)
    path = write_bank(bank, out or bank_directories()[-2])
    fpr = bank.realised_fpr
    told = f", {fpr.alarms} of {fpr.n} held back on the certify split" if fpr else ""
    click.echo(f"{path}: {bank.size} calibrate{told}")

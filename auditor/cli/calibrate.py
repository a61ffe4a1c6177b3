"""``auditor calibrate``: a bank for a base of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.cli.options import PATH, base_options
from auditor.text import inert

__all__ = ["calibrate"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("probes", nargs=-1, metavar="[PROBE]...")
@click.option(
    "--adapters",
    "--clean",
    "adapters",
    type=PATH,
    required=True,
    metavar="DIR",
    help="Folder of clean adapters that you trust, one file or folder each.",
)
@base_options
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, show_default=True)
@click.option(
    "-o",
    "--out",
    type=PATH,
    metavar="DIR",
    help="Where banks go (default: the user's bank folder, which audits read).",
)
def calibrate(
    probes: tuple[str, ...],
    adapters: Path,
    base: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    alpha: float,
    out: Path | None,
) -> None:
    """Score clean adapters with PROBE (default: every probe that judges one adapter by a bank), so that later scores
    on the same base get a p-value. Banks are score vectors of a few kilobytes, never models.

    \b
    Examples:
      auditor calibrate --base ./sd15 --adapters ./clean-loras
      auditor calibrate backdoor.vocabulary_shift --base ./sd15 --adapters ./clean-loras --alpha 0.01 -o banks

    \b
    Exit codes: 0 banks written, 2 they could not be made, 64 usage
    """  # noqa: D205, D301
    from auditor.banks import bank_directories, write_bank
    from auditor.cli.progress import TaskProgress
    from auditor.contracts import Capability
    from auditor.errors import UsageError
    from auditor.pipeline.open import load_base
    from auditor.proving.calibrate import calibrate as run
    from auditor.proving.calibrate import takes
    from auditor.registry import PROBES

    alone = [probe.id for probe in PROBES if probe.bank and Capability.PARTS not in probe.needs]
    chosen = [PROBES.get(name) for name in probes or alone]
    without = [probe.id for probe in chosen if not probe.bank]
    if without:
        raise UsageError(f"probe '{without[0]}' is not judged by a bank; leave it out")
    if not adapters.is_dir():
        raise UsageError(f"'{inert(str(adapters))}' is not a folder of clean adapters")
    found = sorted(path for path in adapters.iterdir() if not path.name.startswith("."))
    for probe in [] if probes else [probe for probe in chosen if probe.screen and len(found) < takes(probe, alpha)]:
        chosen.remove(probe)
        click.echo(f"{probe.id} is left out: it takes {takes(probe, alpha)} clean adapters", err=True)
    with TaskProgress("calibrating") as progress:
        banks = run(chosen, load_base(base, device, allow_download, revision), found, progress, alpha)
    for bank in banks:
        path = write_bank(bank, out or bank_directories()[-2])
        fpr = bank.realised_fpr
        told = f", {fpr.alarms} of {fpr.n} held back on the certify split" if fpr else ""
        click.echo(f"{inert(str(path), 1000)}: {bank.size} calibrate{told}")

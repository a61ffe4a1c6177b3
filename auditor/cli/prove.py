"""``auditor prove``: what the toolkit finds, measured on subjects with known ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from auditor.cli.lazy import PROOF_GROUP, LazyGroup
from auditor.cli.main import Session
from auditor.cli.options import PATH, Shard
from auditor.text import inert

__all__ = ["prove"]

_OUT = click.option(
    "-o",
    "--out",
    type=PATH,
    required=True,
    metavar="DIR",
    help="Folder for shards and tables; an interrupted one is gone on with.",
)


_ZOO = click.option(
    "--zoo",
    type=PATH,
    metavar="DIR",
    help="Where trained members are kept (default: AUDITOR_ZOO, or the user's cache folder).",
)
_SHARD = click.option(
    "--shard", type=Shard(), default="1/1", metavar="K/N", help="Do the K-th of N parts, to run several side by side."
)
_ALPHA = click.option(
    "--alpha", type=click.FloatRange(0, 0.5, min_open=True), default=0.01, show_default=True, help="Level."
)
_MEMBERS = click.option(
    "--members", type=click.IntRange(40), default=800, show_default=True, help="Of the zoo, made before."
)
_ATTACKS = click.option("--attacks", default="", metavar="A,B", help="Only these attacks; all by default.")
_SPECIMENS = click.option(
    "--specimens",
    type=click.IntRange(1, 1000),
    default=2,
    show_default=True,
    help="Specimens of each attack, each with its benign twin.",
)


@click.group(cls=LazyGroup, points=PROOF_GROUP, context_settings={"help_option_names": ["-h", "--help"]})
def prove() -> None:
    """Measure the toolkit on subjects with known ground truth: quality of the world, power and false alarms.

    Runs in resumable pieces: the same command on the same folder goes on where it stopped.

    \b
    Examples:
      auditor prove world -o proof
      auditor prove zoo -o proof/zoo
      auditor prove pairs -o proof/pairs
      auditor prove spine -o proof/spine --planted 20
      auditor prove attacks -o proof/attacks
      auditor prove backdoor -o proof/backdoor
      auditor prove prompts -o proof/prompts
      auditor prove scan -o proof
      auditor prove personalize -o proof
      auditor prove watermark -o proof/watermark

    \b
    Exit codes: 0 measured (whatever the figures), 2 it could not be measured, 64 usage
    """  # noqa: D301


@prove.command("world")
@_OUT
@click.option(
    "--n", type=click.IntRange(2), default=500, show_default=True, help="Object prompts; as many of people."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda.")
@click.pass_context
def world(ctx: click.Context, out: Path, n: int, device: str) -> None:
    """Measure the embedded world: reconstruction, prompt accuracy, judges, identity, with n and interval.

    \b
    Example:
      auditor prove world -o proof/world
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.world import prove_world

    _remember(ctx, "world", out)
    with TaskProgress("proving the world") as progress:
        prove_world(out, n, progress=progress, device=device)
    _print_table(out, "world")


@prove.command("zoo")
@_OUT
@click.option("--members", type=click.IntRange(40), default=800, show_default=True, help="Clean adapters.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of all recipes."
)
@_ALPHA
@click.option(
    "--merges", type=click.IntRange(0), default=160, show_default=True, help="Merges of low-rank members on top."
)
@_ZOO
@_SHARD
@click.pass_context
def zoo(
    ctx: click.Context,
    out: Path,
    members: int,
    seed: int,
    alpha: float,
    merges: int,
    zoo: Path | None,
    shard: tuple[int, int],
) -> None:
    """Train and score the zoo of clean adapters over all methods; write its banks, false alarms and recipe table.

    Members are kept outside DIR, under the hash of their recipe, and are not trained twice; a larger number grows the
    zoo. Two shards may run side by side; run the command once more without --shard to write the tables.

    \b
    Examples:
      auditor prove zoo -o proof/zoo
      auditor prove zoo -o proof/zoo --shard 1/2
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.zoo.prove import prove_zoo

    _remember(ctx, "zoo", out)
    with TaskProgress("building the zoo") as progress:
        prove_zoo(out, progress, members, seed, alpha, zoo, shard=shard, merges=merges)
    _print_table(out, "zoo")


@prove.command("pairs")
@_OUT
@_MEMBERS
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of zoo and pairs.")
@_ALPHA
@_ZOO
@_SHARD
@click.pass_context
def pairs(
    ctx: click.Context, out: Path, members: int, seed: int, alpha: float, zoo: Path | None, shard: tuple[int, int]
) -> None:
    """Put the zoo's adapters on two by two, and write the bank that combinations of parts are judged by.

    \b
    Example:
      auditor prove pairs -o proof/pairs
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.zoo.pairs import prove_pairs

    _remember(ctx, "pairs", out)
    with TaskProgress("scoring pairs") as progress:
        prove_pairs(out, progress, members, seed, alpha, zoo, shard=shard)
    _print_table(out, "pairs")


@prove.command("inversions")
@_OUT
@_MEMBERS
@click.option("--each", type=click.IntRange(0), default=120, show_default=True, help="At most of a split; 0 for all.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of the zoo.")
@_ALPHA
@_ZOO
@_SHARD
@click.pass_context
def inversions(ctx: click.Context, /, out: Path, **given: Any) -> None:
    """Search the zoo's adapters for hidden phrases, and write the bank that the search is judged by.

    \b
    Example:
      auditor prove inversions -o proof/inversions
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.zoo.inversions import prove_inversions

    _remember(ctx, "inversions", out)
    with TaskProgress("searching adapters") as progress:
        prove_inversions(out, progress, **given)
    _print_table(out, "inversions")


@prove.command("spine")
@_OUT
@click.option(
    "--planted",
    type=click.IntRange(2),
    default=20,
    show_default=True,
    help="Planted backdoors, each with its benign twin.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of all recipes."
)
@_ZOO
@_SHARD
@click.pass_context
def spine(
    ctx: click.Context, out: Path, planted: int, seed: int, zoo: Path | None, shard: tuple[int, int]
) -> None:
    """Plant backdoors with benign twins, and measure by the zoo's banks how many are found and held back.

    \b
    Example:
      auditor prove spine -o proof/spine
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.spine import prove_spine

    _remember(ctx, "spine", out)
    with TaskProgress("proving the spine") as progress:
        prove_spine(out, progress, planted, seed, zoo, shard)
    _print_table(out, "spine")


@prove.command("attacks")
@_OUT
@_ATTACKS
@_SPECIMENS
@click.option(
    "--pairs",
    type=click.IntRange(0, 100_000),
    default=0,
    metavar="N",
    help="Pairs of clean pictures on the first two specimens of each attack (480 is full size; fewer by default).",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of all recipes."
)
@_ZOO
@_SHARD
@click.pass_context
def attacks(ctx: click.Context, /, out: Path, **given: Any) -> None:
    """Plant every attack on recipes of the clean zoo, and measure success, cost and what the recipe alone tells.

    Specimens are kept outside DIR, under the hash of their recipe, and are not made twice. Shards may run side by side;
    run the command once more without --shard to write the tables.

    \b
    Examples:
      auditor prove attacks -o proof/attacks
      auditor prove attacks -o proof/attacks --attacks rickrolling,badt2i --specimens 20 --shard 1/2
      auditor prove attacks -o proof/attacks --pairs 480
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.attacks.prove import prove_attacks

    _remember(ctx, "attacks", out)
    with TaskProgress("proving the attacks") as progress:
        prove_attacks(out, progress, **given)
    _print_table(out, "attacks")


@prove.command("backdoor")
@_OUT
@_ATTACKS
@_SPECIMENS
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of all recipes."
)
@_ZOO
@_SHARD
@click.pass_context
def backdoor(ctx: click.Context, /, out: Path, **given: Any) -> None:
    """Audit planted specimens of every attack and their twins, and write what was found by which probe.

    Specimens are those of 'auditor prove attacks' with the same seed.

    \b
    Examples:
      auditor prove backdoor -o proof/backdoor
      auditor prove backdoor -o proof/backdoor --attacks lora_pair --specimens 20 --shard 1/2
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.backdoor.prove import prove_backdoor

    _remember(ctx, "backdoor", out)
    with TaskProgress("auditing specimens") as progress:
        prove_backdoor(out, progress, **given)
    _print_table(out, "backdoor")


@prove.command("prompts")
@_OUT
@_ATTACKS
@click.option("--specimens", type=click.IntRange(1, 1000), default=1, show_default=True, help="Of each attack.")
@click.option(
    "--prompts",
    type=click.IntRange(2, 10_000),
    default=40,
    show_default=True,
    help="Clean prompts a specimen, and as many triggered ones.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of all choices.")
@_ZOO
@_SHARD
@click.pass_context
def prompts(ctx: click.Context, /, out: Path, **given: Any) -> None:
    """Tell triggered prompts from clean ones, by our score and by published detectors, on the same prompts.

    Specimens are those of 'auditor prove attacks' with the same seed, as far as they were made.

    \b
    Examples:
      auditor prove prompts -o proof/prompts
      auditor prove prompts -o proof/prompts --attacks eviledit --prompts 100
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.backdoor.prompts import prove_prompts

    _remember(ctx, "prompts", out)
    with TaskProgress("screening prompts") as progress:
        prove_prompts(out, progress, **given)
    _print_table(out, "prompts")


@prove.command("scan")
@_OUT
@click.option("--n-benign", type=click.IntRange(1), default=200, show_default=True, help="Benign files.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the benign files."
)
@click.option(
    "--peers-python",
    type=PATH,
    metavar="PATH",
    help="Interpreter that has picklescan, modelscan, fickling or modelaudit; this one by default.",
)
@click.option("--speed/--no-speed", default=True, show_default=True, help="Time whole folders as well.")
@click.pass_context
def scan(
    ctx: click.Context, out: Path, n_benign: int, seed: int, peers_python: Path | None, speed: bool
) -> None:
    """Scan hostile and benign files with this scanner and with others, and compare verdicts and seconds.

    \b
    Examples:
      auditor prove scan -o proof/scan
      auditor prove scan -o proof/scan --peers-python peers/bin/python
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.scan.prove import prove_scan

    _remember(ctx, "scan", out)
    with TaskProgress("proving the scan") as progress:
        prove_scan(out, progress, n_benign, seed, peers_python, speed)
    _print_table(out, "scan")


@prove.command("personalize")
@_OUT
@click.option("--methods", default="", metavar="A,B", help="Only these fine-tuning methods; all by default.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Trainings of each method on each of its three subjects.",
)
@_SHARD
@click.pass_context
def personalize(ctx: click.Context, out: Path, methods: str, seeds: int, shard: tuple[int, int]) -> None:
    """Train every fine-tuning method on the same subjects, and measure likeness, prompts, drift and cost.

    \b
    Examples:
      auditor prove personalize -o proof/personalize
      auditor prove personalize -o proof/personalize --methods dreambooth-lora,textual-inversion
      auditor prove personalize -o proof/personalize --shard 1/2
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.personalize.prove import prove_personalize

    _remember(ctx, "personalize", out)
    with TaskProgress("proving the methods") as progress:
        prove_personalize(out, progress, methods, seeds, shard)
    _print_table(out, "personalize")


@prove.command("personalize-speed")
@_OUT
@click.option("--method", "methods", multiple=True, metavar="ID", help="Only this method; may be given many times.")
@click.option("--base", metavar="REF", help="A folder, sd15-shaped or sdxl-shaped; the embedded base by default.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda.")
@click.option(
    "--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True, help="Of the base."
)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Rows a step.")
@click.option("--rounds", type=click.IntRange(2), default=6, show_default=True, help="Laps of each arm, in turns.")
@click.option("--steps", type=click.IntRange(1), default=6, show_default=True, help="Steps of a lap.")
@click.option("--together", type=click.IntRange(0), default=8, show_default=True, help="Adapters of one batched pass.")
@click.pass_context
def personalize_speed(ctx: click.Context, /, out: Path, **given: Any) -> None:
    """Time training steps of every method against its networks alone and a plain loop, with peak memory.

    \b
    Examples:
      auditor prove personalize-speed -o proof/speed
      auditor prove personalize-speed -o proof/speed --device cuda --base sdxl-shaped --dtype bf16
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from auditor.proving.personalize_speed.prove import prove_personalize_speed

    _remember(ctx, "personalize-speed", out)
    with TaskProgress("timing fine-tuning") as progress:
        prove_personalize_speed(out, progress, **given)
    _print_table(out, "personalize_speed")


def _remember(ctx: click.Context, what: str, out: Path) -> None:
    ctx.ensure_object(Session).resume = f"auditor prove {what} -o {inert(str(out), 300)}"


def _print_table(out: Path, name: str) -> None:
    table = out / f"{name}.md"
    if table.is_file():
        click.echo(table.read_text("utf-8"), nl=False)
    else:
        click.echo(inert(str(out), 1000))

"""``auditor personalize``: fine-tune an adapter of one's own, one subcommand a method."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from auditor.cli.main import Session
from auditor.cli.options import PATH, base_options
from auditor.errors import OutOfMemory, UsageError
from auditor.text import did_you_mean, inert

__all__ = ["personalize"]

_MERGE = "merge"


class _Methods(click.Group):
    """Subcommands are whatever methods are registered, and what is done with adapters that are there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from auditor.registry import METHODS

        return [*METHODS.names(), _MERGE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from auditor.registry import METHODS

        if cmd_name == _MERGE:
            from auditor.cli.personalize_merge import merge

            return merge
        return _command(METHODS.get(cmd_name)) if cmd_name in METHODS.names() else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"unknown method '{inert(args[0])}'{hint} (auditor list methods)", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Methods, subcommand_metavar="METHOD ...")
def personalize() -> None:
    """Fine-tune an adapter from pictures, saved the way the ecosystem loads it, with a provenance sidecar.

    \b
    Examples:
      auditor personalize dreambooth-lora --images photos --prompt "a picture of sks person" -o adapter
      auditor personalize dreambooth-lora --images photos --config recipe.yaml -o adapter
      auditor personalize dreambooth-lora --help
      auditor personalize merge one.safetensors two.safetensors --weights 0.6,0.6 -o both

    \b
    In several processes, which share the work of a step (the main one writes):
      accelerate launch --multi_gpu --num_processes 2 -m auditor personalize dreambooth-lora --images photos -o out
      torchrun --nproc_per_node 2 -m auditor personalize dreambooth-lora --images photos --device cpu -o out

    \b
    Exit codes: 0 saved, 2 it failed, 64 usage
    """  # noqa: D301


def _command(method: Any) -> click.Command:
    from auditor.cli.dataclass_options import options_of
    from auditor.personalize.blocks.training import Training

    def run(**given: Any) -> None:
        _fit(method, **given)

    text = (
        f"{method.goal[:1].upper()}{method.goal[1:]}.\n\n\b\nExample:\n  auditor personalize {method.id} "
        f"--images photos -o adapter\n\n\b\n{_file_example(method.params)}"
    )
    own: list[click.Parameter] = [
        click.Option(["--images"], type=PATH, required=True, metavar="DIR", help="Folder of pictures."),
        click.Option(
            ["-o", "--out"], type=PATH, required=True, metavar="DIR", help="A new folder for the adapter."
        ),
        click.Option(
            ["--config"], type=PATH, metavar="FILE", help="A recipe in YAML or JSON; options given here win."
        ),
    ]
    params = [*own, *options_of(method.params), *options_of(Training)]
    return base_options(
        click.Command(method.id, callback=run, params=params, help=text, short_help=method.goal)
    )


def _file_example(params: type) -> str:
    """A recipe file with some of the method's own fields."""
    shown = [f for f in dataclasses.fields(params) if f.name in ("prompt", "word", "steps", "lr")]
    lines = [f"{field.name}: {field.default!r}" for field in shown]
    return "\n  ".join(["The same with --config recipe.yaml, where recipe.yaml says:", *lines])


def _fit(
    method: Any,
    images: Path,
    out: Path,
    config: Path | None,
    base: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    **options: Any,
) -> None:
    from auditor.cli.places import new_folder
    from auditor.cli.progress import TaskProgress
    from auditor.personalize import CHECKPOINT
    from auditor.personalize.blocks.processes import device_here, joined
    from auditor.personalize.blocks.validation import FOLDER, SHEET
    from auditor.personalize.images import picture_paths
    from auditor.pipeline.open import choose_device

    recipe, training = _asked(method, options, config)
    training.check()
    if not images.is_dir():
        raise UsageError(
            f"there is no folder of pictures '{inert(str(images), 300)}'; name one with --images"
        )
    picture_paths(images)
    here = device_here(device)
    session = click.get_current_context().ensure_object(Session)
    with joined(cpu=choose_device(here).type == "cpu") as team:
        if not team.main:
            team.wait()
            method.fit(_loaded(base, here, allow_download, revision), images, recipe, out, _silent, training)
            return
        _tell_consent(recipe, training)
        fresh = not out.exists()
        new_folder(out, begun=CHECKPOINT, beside=(FOLDER, SHEET))
        team.wait()
        before = set(out.rglob("*"))
        # A checkpoint remembers what it is of: the same command goes on, any other is refused.
        session.resume = f"auditor personalize {method.id} ... -o {inert(str(out), 300)}"
        try:
            model = _loaded(base, here, allow_download, revision)
            with TaskProgress(method.id) as progress:
                path = method.fit(model, images, recipe, out, progress, training)
        except BaseException:
            if (out / CHECKPOINT).exists():
                # What a save that failed left would be in the way of the next.
                _unlink(path for path in out.rglob("*") if path not in before and path.name != CHECKPOINT
                        and out / FOLDER not in path.parents and path != out / SHEET)  # fmt: skip
            else:
                _clear(out, (FOLDER, SHEET), fresh)
            raise
    session.resume = ""
    click.echo(inert(str(path), 1000))


def _asked(method: Any, options: dict[str, Any], config: Path | None) -> tuple[Any, Any]:
    """Recipe and run options: what the command line says, else the file, else the defaults."""
    from auditor.cli.dataclass_options import build_params
    from auditor.cli.recipe_file import read_recipe
    from auditor.personalize.blocks.training import Training

    recipe, training = ({f.name for f in dataclasses.fields(kind)} for kind in (method.params, Training))
    ctx = click.get_current_context()
    said = {n: v for n, v in options.items() if ctx.get_parameter_source(n) is not ParameterSource.DEFAULT}
    given = {**(read_recipe(config, sorted(recipe | training)) if config else {}), **said}
    return (
        build_params(method.params, {n: v for n, v in given.items() if n in recipe}),
        build_params(Training, {n: v for n, v in given.items() if n in training}),
    )


def _tell_consent(recipe: Any, training: Any) -> None:
    from auditor.personalize.blocks.consent import person_words
    from auditor.personalize.blocks.training import NONE_GIVEN

    words = person_words(recipe)
    if words and not training.consent.strip():
        click.echo(
            f"auditor: the recipe speaks of a person ({', '.join(words)}), and no consent is noted: say who agreed, "
            f"and to what, with --consent; recorded as '{NONE_GIVEN}'",
            err=True,
        )


def _loaded(base: str | None, device: str, allow_download: bool, revision: str) -> Any:
    import torch

    from auditor.personalize.blocks.methods import is_memory
    from auditor.pipeline.open import load_base

    try:
        # Training in half precision loses small gradients.
        return load_base(base, device, allow_download, revision, dtype=torch.float32)
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        told = "out of memory: the base alone does not fit; take a smaller one, or another --device"
        raise OutOfMemory(told) from error


def _silent(done: int, total: int, label: str = "") -> None:
    """What a process says that is not the main one."""


def _unlink(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_file():
            path.unlink(missing_ok=True)


def _clear(out: Path, names: tuple[str, ...], fresh: bool) -> None:
    """Takes away what a training that failed before its first checkpoint left."""
    for name in names:
        shutil.rmtree(out / name, ignore_errors=True) if (out / name).is_dir() else (out / name).unlink(True)
    if fresh and not any(out.iterdir()):
        out.rmdir()

"""``auditor personalize``: fine-tune an adapter of one's own, one subcommand a method."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from auditor.cli.main import Session
from auditor.cli.options import PATH, base_options
from auditor.text import did_you_mean, inert

__all__ = ["personalize"]


class _Methods(click.Group):
    """Subcommands are whatever methods are registered."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from auditor.registry import METHODS

        return METHODS.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from auditor.registry import METHODS

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
      auditor personalize dreambooth-lora --help

    \b
    Exit codes: 0 saved, 2 it failed, 64 usage
    """  # noqa: D301


def _command(method: Any) -> click.Command:
    from auditor.cli.dataclass_options import options_of

    def run(**given: Any) -> None:
        _fit(method, **given)

    text = (
        f"{method.goal[:1].upper()}{method.goal[1:]}.\n\n\b\nExample:\n  auditor personalize {method.id} "
        "--images photos -o adapter"
    )
    own: list[click.Parameter] = [
        click.Option(["--images"], type=PATH, required=True, metavar="DIR", help="Folder of pictures."),
        click.Option(
            ["-o", "--out"], type=PATH, required=True, metavar="DIR", help="A new folder for the adapter."
        ),
    ]
    if "skip_unreadable" in inspect.signature(method.fit).parameters:
        own.append(
            click.Option(
                ["--skip-unreadable"], is_flag=True, help="Leave out pictures that cannot be read, if one can."
            )
        )
    command = click.Command(
        method.id, callback=run, params=[*own, *options_of(method.params)], help=text, short_help=method.goal
    )
    return base_options(command)


def _fit(
    method: Any,
    images: Path,
    out: Path,
    base: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    skip_unreadable: bool | None = None,
    **params: Any,
) -> None:
    from auditor.cli.dataclass_options import build_params
    from auditor.cli.places import new_folder
    from auditor.cli.progress import TaskProgress
    from auditor.errors import UsageError
    from auditor.personalize import CHECKPOINT

    if not images.is_dir():
        raise UsageError(
            f"there is no folder of pictures '{inert(str(images), 300)}'; name one with --images"
        )
    recipe = build_params(method.params, params)
    fresh = not out.exists()
    new_folder(out, begun=CHECKPOINT)
    # A checkpoint remembers what it is of: the same command goes on, any other is refused.
    session = click.get_current_context().ensure_object(Session)
    session.resume = f"auditor personalize {method.id} ... -o {inert(str(out), 300)}"
    try:
        import torch

        from auditor.pipeline.open import load_base

        # Training in half precision loses small gradients.
        model = load_base(base, device, allow_download, revision, dtype=torch.float32)
        with TaskProgress(method.id) as progress:
            reading = {} if skip_unreadable is None else {"skip_unreadable": skip_unreadable}
            path = method.fit(model, images, recipe, out, progress, **reading)
    except BaseException:
        if fresh and not any(out.iterdir()):
            out.rmdir()
        raise
    session.resume = ""
    click.echo(inert(str(path), 1000))

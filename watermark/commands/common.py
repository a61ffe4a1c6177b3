"""Options and openings that the commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from auditor.cli.options import PATH, base_options
from auditor.errors import UsageError
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.pipeline.view import View
    from watermark.keys import MasterKey
    from watermark.picture_scheme import PictureScheme
    from watermark.scheme import LatentScheme

__all__ = [
    "any_scheme",
    "from_hex",
    "key_option",
    "level",
    "model_options",
    "named_scheme",
    "open_key",
    "opened_view",
    "scheme_option",
]

F = TypeVar("F", bound=Callable[..., Any])


def scheme_option(command: F) -> F:
    """``--scheme``."""
    return click.option(
        "--scheme",
        default="tail_sign",
        show_default=True,
        metavar="NAME",
        help="Which scheme (auditor list watermarks).",
    )(command)


def key_option(command: F) -> F:
    """``--key`` and ``--scheme``."""
    return click.option(
        "--key",
        "key_path",
        type=PATH,
        required=True,
        metavar="FILE",
        help="The key file (auditor watermark keygen).",
    )(scheme_option(command))


def model_options(command: F) -> F:
    """``--model``, ``--revision``, ``--allow-download``, ``--device`` and ``--adapter``."""
    added = click.option(
        "--adapter",
        "adapters",
        type=PATH,
        multiple=True,
        metavar="PATH",
        help="Adapter to put on the model; may be given several times.",
    )(command)
    return base_options(added, ("--model", "--base", "model"))


@contextmanager
def opened_view(
    model: str | None, revision: str, allow_download: bool, device: str, adapters: Sequence[Path]
) -> Iterator[View]:
    """The model with its adapters on, as the options of :func:`model_options` name it.

    Raises:
        AuditorError: whatever opening base or adapters raises.
    """
    from auditor.pipeline.open import load_base, open_subject
    from auditor.pipeline.subject import Subject

    if not adapters:
        with Subject(load_base(model, device, allow_download, revision), ()) as bare:
            yield bare.base
        return
    with open_subject(adapters, model, device, allow_download, revision) as subject:
        yield subject.tuned


def named_scheme(name: str) -> LatentScheme:
    """A registered scheme that embeds in starting latents, or while a picture is drawn.

    Raises:
        UsageError: there is none of that name, or it embeds elsewhere.
    """
    from auditor.registry import WATERMARKS
    from watermark.scheme import LatentScheme

    found: Any = WATERMARKS.get(name)
    if not isinstance(found, LatentScheme):
        raise UsageError(f"{name} is a trained mark, which this command does not do")
    return found


def any_scheme(name: str) -> LatentScheme | PictureScheme:
    """A registered scheme. Raises ``UsageError`` where there is none of that name."""
    from auditor.registry import WATERMARKS

    return cast("LatentScheme | PictureScheme", WATERMARKS.get(name))


def open_key(path: Path) -> MasterKey:
    """The master key of a file, with a warning on stderr if others can read it."""
    from watermark.keys import load_key, readable_by_others

    key = load_key(path)
    if readable_by_others(path):
        click.echo(f"others can read the key: chmod 600 '{inert(str(path), 300)}'", err=True)
    return key


def from_hex(text: str, what: str) -> bytes:
    """Bytes of hexadecimal digits. Raises ``UsageError`` for anything else; ``what`` is named."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{what} '{inert(text, 80)}' is not hexadecimal") from None


def level(_ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Checks that an option is a level, more than 0 and less than 1."""
    if not 0 < value < 1:
        raise UsageError(f"--{param.name} must lie between 0 and 1")
    return value

"""``auditor``: from arguments to one exit code, and from any error to one sentence."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from auditor.cli.lazy import LazyGroup
from auditor.errors import EXIT_AUDIT_ERROR, EXIT_USAGE, AuditorError, ResourceCap
from auditor.text import inert

__all__ = ["COMMANDS", "EXIT_INTERRUPTED", "Session", "app", "main", "run"]

EXIT_INTERRUPTED = 130
_BROKEN_PIPE = 141

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("auditor.cli.demo:demo", "Audit three specimens that ship with the toolkit: start here"),
    "scan": (
        "auditor.cli.scan:scan",
        "Check files without loading them: safe to open, what they are, what they claim",
    ),
    "audit": (
        "auditor.cli.audit:audit",
        "Audit an adapter against its base: what is hidden in it, how sure, what was not tested",
    ),
    "report": (
        "auditor.cli.report:report",
        "Write a finished run in other formats, sign it, or check its signature",
    ),
    "policy": ("auditor.cli.policy:policy", "List, show and check policies"),
    "personalize": ("auditor.cli.personalize:personalize", "Fine-tune an adapter of your own"),
    "list": (
        "auditor.cli.list:list_command",
        "List probes, attacks, defenses, watermarks, methods, writers or mappings",
    ),
    "explain": (
        "auditor.cli.explain:explain",
        "Say what a probe, method or rule does, and where it comes from",
    ),
    "prove": (
        "auditor.cli.prove:prove",
        "Measure what the toolkit finds, on subjects with known ground truth",
    ),
    "calibrate": (
        "auditor.cli.calibrate:calibrate",
        "Make a bank of clean adapters for a base of your own",
    ),
    "world": ("auditor.cli.world:world", "Show the embedded world that the default base was trained on"),
    "doctor": (
        "auditor.cli.doctor:doctor",
        "Check the installation: versions, device, memory, base, write access",
    ),
}

_HELP = """Audit personalized diffusion models: what is hidden in an adapter, with a known error rate.

\b
Examples:
  auditor demo -o demo
  auditor scan downloads/*.safetensors
  auditor audit adapter.safetensors --base ./stable-diffusion-v1-5 -o run

\b
Exit codes of scan and audit:
  0 pass, 1 findings, 2 audit error, 3 inconclusive, 4 nothing auditable, 64 usage
"""


@dataclass
class Session:
    """What a command leaves for :func:`main` to know.

    Attributes:
        debug: whether an error shows its traceback.
        resume: the command that would go on with what was interrupted; empty if nothing would.
    """

    debug: bool = False
    resume: str = field(default="")


@click.group(
    cls=LazyGroup,
    own=COMMANDS,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND ...",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="personalized-model-auditor", prog_name="auditor")
@click.pass_obj
def app(session: Session, debug: bool) -> None:
    """The group of all commands."""
    session.debug = debug


def main() -> None:
    """The ``auditor`` program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        arguments: without the program's name.

    Returns:
        The exit code. Errors end as one sentence on stderr; with ``--debug`` the traceback goes before it.
    """
    if "_AUDITOR_COMPLETE" in os.environ:
        app.main(list(arguments), prog_name="auditor")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    session = Session()
    try:
        code = _invoke(list(arguments), session)
        sys.stdout.flush()
        return code
    except (
        Exception
    ) as error:  # every error becomes a sentence and a code other than 0 here, none becomes a pass
        return _told(error, session)
    except KeyboardInterrupt:
        return _interrupted(session)


def _invoke(arguments: list[str], session: Session) -> int:
    try:
        with app.make_context("auditor", arguments, obj=session) as context:
            app.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return 0


def _told(error: Exception, session: Session) -> int:
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        # Whoever read our output has enough of it; what Python still holds must not be flushed into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        return EXIT_USAGE
    if isinstance(error, click.exceptions.Abort):
        return _interrupted(session)
    if session.debug:
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        asked = (
            error.ctx.command_path.strip() if isinstance(error, click.UsageError) and error.ctx else "auditor"
        )
        _say(f"{_clean(error.format_message())} (see '{asked} --help')")
        return EXIT_USAGE
    if isinstance(error, AuditorError):
        kept = f"; go on with '{session.resume}'" if session.resume and isinstance(error, ResourceCap) else ""
        _say(f"{error}{kept}")
        return error.exit_code
    if isinstance(error, OSError):
        where = f" '{inert(str(error.filename), 200)}'" if error.filename else ""
        _say(f"cannot read or write{where}: {_reason(error)}")
        return EXIT_AUDIT_ERROR
    if isinstance(error, MemoryError):
        _say("out of memory: close other programs, or take a machine with more")
        return EXIT_AUDIT_ERROR
    kind = type(error).__name__
    _say(
        f"internal error, which is a bug of the toolkit: {kind}: {inert(str(error), 300)} (run again with "
        "'auditor --debug')"
    )
    return EXIT_AUDIT_ERROR


def _interrupted(session: Session) -> int:
    hint = f"; go on with '{session.resume}', which does nothing twice" if session.resume else ""
    _say(f"interrupted{hint}")
    return EXIT_INTERRUPTED


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission; choose another place with -o"
    return (error.strerror or type(error).__name__).lower()


def _clean(message: str) -> str:
    """A message of click as one line without its full stop."""
    return inert(" ".join(message.split()).rstrip("."), 400)


def _say(sentence: str) -> None:
    click.echo(f"auditor: {sentence}", err=True)


if __name__ == "__main__":
    main()

"""``auditor report sign``, ``verify`` and ``keygen``: Ed25519 signatures of runs, and what differs by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.options import PATH, json_option
from auditor.errors import EXIT_FINDINGS, EXIT_INCONCLUSIVE, EXIT_PASS
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.engine.signing import Verified

__all__ = ["keygen", "sign", "verify"]


@click.command("keygen")
@click.option(
    "-o",
    "--out",
    type=PATH,
    required=True,
    metavar="FILE",
    help="The private key; FILE.pub is the public one.",
)
@json_option
def keygen(out: Path, format_: str) -> None:
    """Make a pair of Ed25519 keys to sign runs with; nothing is written over.

    Keep FILE to yourself; give FILE.pub, or the fingerprint, to whoever verifies.

    \b
    Examples:
      auditor report keygen -o audit.key

    \b
    Exit codes: 0 made, 2 cannot be written, 64 a file is there already
    """  # noqa: D301
    from auditor.engine.signing import make_keys

    fingerprint = make_keys(out)
    paths = {"private": inert(str(out), 1000), "public": inert(f"{out}.pub", 1000)}
    if format_ == "json":
        click.echo(json.dumps({**paths, "fingerprint": fingerprint}, indent=2))
        return
    click.echo(f"private key  {paths['private']}\npublic key   {paths['public']}\nfingerprint  {fingerprint}")


@click.command("sign")
@click.argument("run", metavar="RUN", type=PATH)
@click.option(
    "--key", type=PATH, required=True, metavar="FILE", help="The private key (auditor report keygen)."
)
@click.option("--replace", is_flag=True, help="Sign a run again that is signed already.")
@json_option
def sign(run: Path, key: Path, replace: bool, format_: str) -> None:
    """Sign every file of a finished run: report, plan, events, evidence and pages.

    Write the formats that you want signed before you sign; a file that comes later is named by verify.

    \b
    Examples:
      auditor report sign run --key audit.key
      auditor report sign run --key audit.key --replace

    \b
    Exit codes: 0 signed, 2 cannot be signed, 64 not a run, not a key, or signed already
    """  # noqa: D301
    from auditor.engine.signing import loose_permissions, sign_run
    from reports.sign import SIGNATURE_FILE

    check = sign_run(run, key, replace=replace)
    if loose_permissions(key):
        click.echo(f"others can read the private key: chmod 600 '{inert(str(key), 300)}'", err=True)
    path = inert(str(run / SIGNATURE_FILE), 1000)
    if format_ == "json":
        told = {"signature": path, "key": check.signer, "files": check.signed, "created": check.created}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{path}\nsigned {check.signed:,} files with the key {check.signer}")


@click.command("verify")
@click.argument("run", metavar="RUN", type=PATH)
@click.option("--key", type=PATH, default=None, metavar="FILE", help="The public key that must have signed.")
@json_option
@click.pass_context
def verify(ctx: click.Context, run: Path, key: Path | None, format_: str) -> None:
    """Check a signed run: name every file that was changed, removed or added, and the key that signed.

    Without --key the files can be shown to fit together, but not whose they are: that is never 'verified'.

    \b
    Examples:
      auditor report verify run --key audit.key.pub
      auditor report verify run --key audit.key.pub --json

    \b
    Exit codes:
      0 verified                        1 tampered with: what differs is named
      2 no signature, or unreadable     3 intact, but the key is not verified
      64 not a run, or not a key
    """  # noqa: D301
    from auditor.engine.signing import verify_run

    found = verify_run(run, key)
    code = EXIT_FINDINGS if not found.intact else EXIT_PASS if found.check.expected else EXIT_INCONCLUSIVE
    if format_ == "json":
        click.echo(json.dumps(_document(found, code), indent=2))
    else:
        click.echo("\n".join(_lines(found, code)))
    ctx.exit(code)


_STATUS = {EXIT_PASS: "verified", EXIT_FINDINGS: "tampered", EXIT_INCONCLUSIVE: "unverified_key"}


def _document(found: Verified, code: int) -> dict[str, Any]:
    check = found.check
    return {
        "status": _STATUS[code],
        "verified": code == EXIT_PASS,
        "signature": "genuine" if check.genuine else "not genuine",
        "key": check.signer,
        "expected_key": check.expected,
        "created": inert(check.created),
        "tool": inert(check.tool),
        "files": check.signed,
        **{kind: [_name(path) for path in paths] for kind, paths in _differences(found)},
    }


def _lines(found: Verified, code: int) -> Iterator[str]:
    from reports.sign import SIGNATURE_FILE

    check = found.check
    if code == EXIT_FINDINGS:
        yield "TAMPERED: this is not the run that was signed"
    elif code == EXIT_INCONCLUSIVE:
        yield "NOT VERIFIED: the files are those that were signed, but the key is not one that you named"
    else:
        yield "VERIFIED: the files are those that were signed, by the key that you named"
    if not check.genuine and check.expected is not False:
        yield f"  changed   {SIGNATURE_FILE}: statement, key and signature do not belong together"
    if check.expected is False:
        yield f"  changed   {SIGNATURE_FILE}: signed by another key than the one that you named"
    for kind, paths in _differences(found):
        yield from (f"  {kind.replace('_', ' '):<9} {_name(path)}" for path in paths)
    yield f"signed by {check.signer} at {inert(check.created)} with {inert(check.tool)}; {check.signed:,} files"
    if code == EXIT_INCONCLUSIVE:
        yield "anybody can sign anew: name the signer's public key with --key"


def _differences(found: Verified) -> Iterator[tuple[str, tuple[str, ...]]]:
    check = found.check
    yield "changed", check.changed
    yield "missing", check.missing
    # A link or a pipe is no file: it was not opened.
    odd = set(found.odd)
    yield "added", tuple(path for path in check.added if path not in odd)
    yield "not_a_file", found.odd


def _name(path: str) -> str:
    return inert(path, 400)

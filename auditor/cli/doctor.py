"""``auditor doctor``: can this installation audit anything, and with what."""

from __future__ import annotations

import json

import click

from auditor.cli.options import json_option
from auditor.errors import EXIT_AUDIT_ERROR

__all__ = ["doctor"]


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, format_: str) -> None:
    """Check the installation: versions, device, memory, the embedded base, clashing folders, write access.

    \b
    Examples:
      auditor doctor
      auditor doctor --json

    \b
    Exit codes: 0 all checks are well, 2 one is not, 64 usage
    """  # noqa: D301
    from auditor.cli.checks import run_checks

    checks = run_checks()
    if format_ == "json":
        click.echo(json.dumps([check.document() for check in checks], indent=2, ensure_ascii=True))
    else:
        for check in checks:
            click.echo(f"{'ok' if check.ok else 'PROBLEM':<8} {check.name:<14} {check.told}")
            if check.remedy and not check.ok:
                click.echo(f"{'':<23} {check.remedy}")
    ctx.exit(0 if all(check.ok for check in checks) else EXIT_AUDIT_ERROR)

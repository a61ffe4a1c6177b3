"""``auditor policy``: what policies there are, what they say, and whether a file of your own is one."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING

import click

from auditor.cli.options import PATH, json_option
from auditor.errors import EXIT_USAGE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["policy"]


@click.group()
def policy() -> None:
    """List, show and check policies: what has to be tested, at which level, and what follows from it.

    \b
    Examples:
      auditor policy list
      auditor policy show hub-intake > mine.yaml
      auditor policy check mine.yaml
      auditor policy schema > policy.schema.json

    \b
    Exit codes: 0 shown or sound, 2 cannot be read, 64 no such policy, or a file that is none
    """  # noqa: D301


@policy.command("list")
@json_option
def list_policies(format_: str) -> None:
    """List the policies that come with this tool."""
    from auditor.policy import load_policy, shipped_policies

    found = [load_policy(name) for name in shipped_policies()]
    if format_ == "json":
        rows = [{"name": each.name, "description": each.description, "sha256": each.sha256} for each in found]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=True))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        click.echo(f"{each.name:<{width}}  {each.description}")


@policy.command()
@click.argument("name")
@json_option
def show(name: str, format_: str) -> None:
    """Print a policy as it is written, with its comments; with --json, every default is filled in."""
    from auditor.policy import load_policy, policy_path

    rules = load_policy(name)
    if format_ == "json":
        click.echo(json.dumps(rules.model_dump(mode="json"), indent=2, ensure_ascii=True))
        return
    click.echo(_inert_lines(policy_path(name).read_text(encoding="utf-8")), nl=False)


@policy.command()
@click.argument("file", type=PATH)
@json_option
@click.pass_context
def check(ctx: click.Context, file: Path, format_: str) -> None:
    """Say everything that is wrong with a policy file, and what in it will not do what it seems to.

    Warnings leave the exit code at 0.
    """
    from auditor.engine import SYSTEM_CLOCK
    from auditor.policy import check_policy, policy_path
    from auditor.probes.static.rules import RULES
    from auditor.text import inert

    path = policy_path(file)
    today = date.fromisoformat(SYSTEM_CLOCK.now()[:10])
    notices = check_policy(path, today=today, banks=_largest_banks(), rules=RULES)
    errors = sum(notice.level == "error" for notice in notices)
    shown = inert(str(path), 300)
    if format_ == "json":
        rows = [
            {"level": each.level, "line": each.line, "key": each.key, "text": each.text} for each in notices
        ]
        found = {"path": shown, "sound": not errors, "notices": rows}
        click.echo(json.dumps(found, indent=2, ensure_ascii=True))
    else:
        for each in notices:
            click.echo(f"{shown}, line {each.line}: {each.level}: {each.text}")
        warnings = len(notices) - errors
        ending = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
        click.echo(f"{shown}: {'no policy' if errors else 'a policy'} ({ending})")
    ctx.exit(EXIT_USAGE if errors else 0)


@policy.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors and other tools."""
    from auditor.policy.schema import render

    click.echo(render(), nl=False)


def _largest_banks() -> dict[str, int]:
    from auditor.banks import bank_directories, load_bank

    sizes: dict[str, int] = {}
    for folder in bank_directories():
        for path in sorted(folder.glob("*.json")):
            bank = load_bank(path)
            sizes[bank.probe] = max(sizes.get(bank.probe, 0), bank.reference().n)
    return sizes


def _inert_lines(text: str) -> str:
    from reports.text import inert_lines

    return inert_lines(text, len(text) * 10)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

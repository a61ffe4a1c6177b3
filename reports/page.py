"""What all HTML pages have in common: templates with escaping always on, and a content security policy.

The policy lets a page do one thing, show itself: no script, no frame, no form, no connection; pictures from
``data:`` URIs; one style sheet, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from reports import control_words, numbers, words
from reports.drawing import interval_svg, severity_svg, share_svg
from reports.text import inert, inert_lines, paragraphs

__all__ = ["content_security_policy", "render"]

_TEMPLATES = Path(__file__).parent / "templates"
_NAME_LIMIT = 300
_BLOCK_LIMIT = 20_000
_JOINT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|s|min)(?!\w))|(?<=\b[pn]) (?==)|(?<=\b[pn] =) (?=\d)")


def render(template: str, **values: Any) -> bytes:
    """Renders a page template; every value passes through :func:`reports.text.inert` and HTML escaping.

    Args:
        template: file name under ``reports/templates``.
        **values: what the template asks for; a missing name raises ``jinja2.UndefinedError``.

    Returns:
        UTF-8 HTML.
    """
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8").strip()
    policy = content_security_policy(style)
    text = _environment().get_template(template).render(style=Markup(style), policy=Markup(policy), **values)
    return text.encode("utf-8")


def content_security_policy(style: str) -> str:
    """The policy for a page whose only style element holds ``style`` exactly."""
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=numbers.number,
        p=numbers.p_value,
        percent=_together(numbers.percent),
        quantity=_together(numbers.quantity),
        interval=_together(numbers.interval),
        size=_together(numbers.bytes_size),
        duration=_together(numbers.duration),
        measurement=_together(words.measurement),
        baseline=_together(words.baseline),
        fpr=_together(numbers.realised_fpr),
        prose=_prose,
        block=_block,
        jsonblock=_json_block,
        tojson_inert=_json_line,
        uri=_uri,
        link=_link,
        short=_short,
        drawn=interval_svg,
        steps=severity_svg,
    )
    environment.globals.update(share=share_svg, words=words, control_words=control_words)
    return environment


def _finalize(value: object) -> object:
    # Runs on every value before escaping: nothing reaches a page without being made inert.
    return value if isinstance(value, Markup) else inert(str(value), _NAME_LIMIT)


def _together(show: Callable[..., str]) -> Callable[..., str]:
    """Keeps a percent sign, a unit of size or time, and ``p = 0.01`` on one line."""
    return lambda *values: _JOINT.sub("\u00a0", show(*values))


def _prose(text: str, limit: int = 4_000) -> Markup:
    lines = (_JOINT.sub("\u00a0", line) for line in paragraphs(text, limit))
    return Markup("").join(Markup("<p>{}</p>").format(line) for line in lines)


def _block(text: str) -> Markup:
    return escape(inert_lines(text, _BLOCK_LIMIT))


def _json_block(value: object) -> Markup:
    return _block(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False))


def _json_line(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _uri(uri: str) -> Markup:
    # Only our own data URIs come here; they are longer than the limit for names.
    if not uri.startswith("data:image/"):
        raise ValueError("a picture must be a data URI")
    return escape(uri)


def _link(href: str) -> Markup:
    if not href.startswith("./"):
        raise ValueError("a page links only to files beside it")
    return escape(href)


def _short(digest: str) -> Markup:
    shown = inert(digest, _NAME_LIMIT)
    if len(shown) <= 16:
        return Markup("<code>{}</code>").format(shown) if shown else Markup('<span class="none">–</span>')
    return Markup('<code class="hash" title="{}">{}<span aria-hidden="true">…</span></code>').format(
        shown, shown[:12]
    )

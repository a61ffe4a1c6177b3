import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.text import inert as auditor_inert
from reports.text import cells, fit, inert, inert_lines, paragraphs


def test_inert_agrees_with_the_auditor_on_every_assigned_block() -> None:
    # Planes 0 and 1, the tags and variation selectors, and the last block: between them nothing is assigned
    # but ideographs and private use.
    for first in (*range(0, 0x20000, 1024), 0xE0000, sys.maxunicode + 1 - 1024):
        block = "".join(map(chr, range(first, first + 1024)))
        assert inert(block, 20_000) == auditor_inert(block, 20_000)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(max_size=80), st.integers(2, 40))
def test_inert_agrees_with_the_auditor_on_any_text_and_limit(text: str, limit: int) -> None:
    assert inert(text, limit) == auditor_inert(text, limit)
    assert len(inert(text, limit)) <= limit


@pytest.mark.parametrize(
    "char", ["\x1b", "\x9b", "\u202e", "\u200b", "\u2066", "\ufeff", "\u2028", "\U000e0041", "\ud800", "\x00"]
)
def test_what_controls_hides_or_reorders_is_spelled_out(char: str) -> None:
    assert inert(char).startswith("\\u") or inert(char).startswith("\\U")


@pytest.mark.parametrize("mark", ["\u0301", "\u20dd", "\u0e49", "\ufe0f"])
def test_marks_piled_on_one_letter_do_not_reach_other_lines(mark: str) -> None:
    assert inert("e" + mark * 4) == "e" + mark * 4
    piled = inert("e" + mark * 400 + "x", 10_000)
    assert piled.count(mark) == 4 and piled.endswith("x") and "\\u" in piled
    assert inert("e" + mark * 400, 10_000) == auditor_inert("e" + mark * 400, 10_000)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text())
def test_lines_keep_only_line_feeds_and_tabs(text: str) -> None:
    shown = inert_lines(text)
    assert not [
        char
        for char in shown
        if char not in "\n\t" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn"}
    ]
    assert all(line == line.strip() and line for line in paragraphs(text))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(alphabet="ab漢字e\u0301 ", max_size=60), st.integers(3, 30))
def test_fit_never_exceeds_the_columns(text: str, width: int) -> None:
    assert cells(fit(text, width)) <= width
    assert cells(text) > width or fit(text, width) == text

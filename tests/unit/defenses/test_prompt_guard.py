import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.cli.main import run
from defenses.repair.prompt_guard import PromptGuard, guarded, look_alikes


@pytest.mark.parametrize(
    ("prompt", "cleaned", "why"),
    [
        ("a picture of a persоn", "a picture of a person", "looks like it"),
        ("a ρicture", "a picture", "looks like it"),
        ("a cat ı", "a cat i", "looks like it"),
        ("a pɑrk", "a park", "looks like it"),
        ("a\u200b cat", "a cat", "invisible"),
        ("a \u202ecat\u202c", "a cat", "invisible"),
        ("a ca\u00adt", "a cat", "invisible"),
        ("a c\ufe0fat", "a cat", "invisible"),
        ("a cat\x07", "a cat", "invisible"),
        ("a cat\U000e0041", "a cat", "invisible"),
        ("ａ ｃａｔ", "a cat", "compatibility form"),
        ("a 𝐜𝐚𝐭", "a cat", "compatibility form"),
        ("a ﬁne cat", "a fine cat", "compatibility form"),
        ("a\u00a0cat", "a cat", "compatibility form"),
    ],
)
def test_each_kind_of_character_becomes_what_it_looks_like(prompt, cleaned, why):
    found = guarded(prompt)
    assert found.text == cleaned
    assert {change.why for change in found.changes} == {why}


def test_changes_name_place_and_code_point():
    (change,) = guarded("a persоn").changes
    assert (change.position, change.code_points, change.names) == (6, ("U+043E",), ("CYRILLIC SMALL LETTER O",))
    assert change.became == "o"


def test_every_trigger_of_the_known_attack_is_made_harmless():
    for trigger in "оаесрοɑı":
        assert guarded(f"a {trigger} cat").text.isascii()


def test_ordinary_text_is_left_alone():
    for text in ("a picture of a red ball, 35mm (f/2.8)", "un café à Genève", "猫の絵", "straße"):
        assert guarded(text).changes == ()


def test_accents_go_only_where_asked():
    assert guarded("café").text == "café"
    assert guarded("café", PromptGuard(accents=True)).text == "cafe"


def test_words_of_another_script_are_spared_only_where_asked():
    spare = PromptGuard(spare_foreign_words=True)
    assert guarded("мост и cat", spare).text == "мост и cat"
    assert guarded("мост", PromptGuard()).text != "мост"
    # A word of look-alikes alone may be a trigger, and a mixed one is.
    assert guarded("сосна о cаt", spare).text.endswith("o cat")


@given(st.text(max_size=24), st.booleans(), st.booleans())
def test_what_comes_out_is_folded_visible_and_stays_as_it_is(text, accents, spare):
    params = PromptGuard(accents, spare)
    found = guarded(text, params)
    assert guarded(found.text, params).text == found.text
    assert unicodedata.normalize("NFKC", found.text) == found.text
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in found.text)
    assert (found.text == text) == (not found.changes)


@given(st.text(max_size=24))
def test_changes_account_for_every_difference(text):
    found = guarded(text)
    out, done = [], 0
    for change in found.changes:
        out += [text[done : change.position], change.became]
        done = change.position + len(change.code_points)
    assert "".join(out) + text[done:] == found.text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_ascii_is_never_changed(text):
    assert guarded(text).text == text


def test_the_table_leads_to_ascii_and_has_no_ascii_in_it():
    table = look_alikes()
    assert len(table) > 90
    assert all(not char.isascii() and plain.isascii() and len(plain) == 1 for char, plain in table.items())


def test_the_command_prints_the_prompt_and_what_changed(capsys):
    assert run(["defend", "prompt-guard", "--prompt", "a persоn"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == ["a person", "  at 6: U+043E CYRILLIC SMALL LETTER O -> 'o' (looks like it)"]
    assert run(["defend", "prompt_guard", "--prompt", "a persоn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "a person"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["prompt-guard"], "needs a --prompt"),
        (["prompt-guard", "file", "--prompt", "a"], "guards prompts, not files"),
        (["prompt-gard", "--prompt", "a"], "did you mean 'prompt_guard'"),
        (["attention_restoration", "--prompt", "a"], "--prompt is for guards"),
        (["attention_restoration"], "nothing to repair"),
        (["attention_restoration", "a", "b", "-o", "c"], "takes one adapter and 2 were named"),
        (["attention_restoration", "a"], "with -o"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, told, capsys):
    assert run(["defend", *arguments]) == 64
    assert told in capsys.readouterr().err

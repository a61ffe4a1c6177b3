import pytest

from auditor.cli import auditing
from auditor.cli.prompt_file import read_prompts
from auditor.errors import UsageError
from auditor.policy import load_policy


def test_prompts_are_read_as_they_stand(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\u200b a cat\n\n  \na line\u2028with a separator\n a cat \na cat\n".encode())
    assert read_prompts(path) == ["a cat", "\u200b a cat", "a line\u2028with a separator", " a cat "]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\n \n", "0 prompts"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"\n".join(b"%d" % i for i in range(501)), "501 prompts"),
        (b"a" * ((1 << 20) + 1), "larger than 1 MB"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(tmp_path, data, said):
    path = tmp_path / "prompts.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=said):
        read_prompts(path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_prompts(tmp_path / "nothing.txt")


@pytest.mark.parametrize("named", [None, ["static.claims"]])
def test_prompts_ask_for_the_screen_beside_what_is_planned(monkeypatch, tmp_path, named):
    asked = {}

    class Opened:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(auditing, "opened", lambda *_: Opened())
    monkeypatch.setattr(auditing, "write_page", lambda _: None)
    monkeypatch.setattr("auditor.engine.audit", lambda subject, **given: asked.update(given))
    policy = load_policy("hub-intake")
    for prompts in ((), ("a cat",)):
        auditing.run_audit(
            [tmp_path], auditing.BaseChoice(), policy=policy, out=tmp_path, display=None, probes=named, prompts=prompts
        )
        if not prompts:
            assert asked["probes"] == named and asked["params"] == {}
    planned = named or [*policy.probes, *policy.required]
    assert asked["probes"] == [*planned, auditing.SCREEN]
    assert asked["params"] == {auditing.SCREEN: {"prompts": ["a cat"]}}

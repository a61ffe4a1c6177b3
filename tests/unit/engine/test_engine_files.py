import pytest

from auditor.engine.files import whole_folder
from auditor.errors import OutputError


def test_a_folder_gets_its_name_when_everything_is_in_it(tmp_path):
    out = tmp_path / "above" / "out"
    with whole_folder(out) as part:
        assert (part.parent, part.suffix) == (out.parent, ".part")
        (part / "a").write_bytes(b"a")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "a").read_bytes() == b"a"


def test_an_exception_leaves_nothing_and_the_next_attempt_starts_afresh(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as part:
        (part / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    part.mkdir()
    (part / "half").touch()
    with whole_folder(out) as again:
        assert again == part
        assert not list(again.iterdir())


def test_what_another_process_made_meanwhile_is_kept_and_refused_where_it_is_not_the_same(tmp_path):
    out = tmp_path / "out"

    def beaten(shared):
        with whole_folder(out, shared=shared) as part:
            (part / "mine").touch()
            out.mkdir(exist_ok=True)
            (out / "theirs").touch()

    beaten(shared=True)
    with pytest.raises(OutputError, match="cannot write"):
        beaten(shared=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_a_file_in_the_way_is_said(tmp_path):
    out = tmp_path / "file" / "out"
    out.parent.touch()
    with pytest.raises(OutputError, match="a file is in the way"), whole_folder(out):
        pytest.fail("the block must not run")
    with (
        pytest.raises(OutputError, match="a file is in the way"),
        whole_folder(tmp_path / "file", shared=True),
    ):
        pass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.errors import EXIT_USAGE, PolicyError
from auditor.policy import Policy, load_policy, policy_from_document

GOOD = "name: mine\nrequired: [static.file_safety]\n"


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to_file


def test_a_small_policy_takes_the_recommended_values(write):
    policy = load_policy(write(GOOD + "alpha: 1e-2\ngates:\n  high: reject\n"))
    assert policy.alpha == 0.01
    assert policy.gates.high.value == "reject"
    assert policy.gates.medium.value == "review"


def test_a_policy_survives_the_plan(write):
    policy = load_policy(write(GOOD + "split: {a: 1, other: 0}\nsettle: reject\n"))
    again = policy_from_document(policy.document)
    assert again == policy and again.sha256 == policy.sha256


def test_any_change_changes_the_hash(write):
    assert load_policy(write(GOOD)).sha256 != load_policy(write(GOOD + "alpha: 0.04\n")).sha256


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (GOOD + "alhpa: 0.01\n", 3, "key 'alhpa' is unknown; did you mean 'alpha'"),
        (
            GOOD + "gates:\n  low: accept\n  hihg: reject\n",
            5,
            "key 'gates.hihg' is unknown; did you mean 'high'",
        ),
        (GOOD + "\n# comment\nalpha: 2\n", 5, "key 'alpha': input should be less than 1, not 2"),
        (GOOD + "alpha: .nan\n", 3, "key 'alpha'"),
        (GOOD + "alpha: often\n", 3, "key 'alpha'"),
        (GOOD + "gates:\n  high: rejcet\n", 4, "key 'gates.high'"),
        (GOOD + "gates:\n  high: accept\n", 3, "graver finding must not lead to a milder"),
        (
            GOOD + "gates: {critical: accept, high: accept, medium: accept, low: accept}\n",
            3,
            "critical finding must",
        ),
        (GOOD + "split: {a: -1}\n", 3, "key 'split.a'"),
        (GOOD + "failed_result: accept\n", 3, "key 'failed_result'"),
        (GOOD + "uncalibrated_at_most: inconclusive\n", 3, "key 'uncalibrated_at_most'"),
        (GOOD + "name: again\n", 3, "'name' occurs twice"),
        (GOOD + "1: a\n", 3, "key '1' is unknown"),
        (GOOD + "[a]: b\n", 3, "a key must be text"),
        ("name: x\n", 1, "key 'required' is missing"),
        ("name: x\nrequired: []\n", 2, "key 'required'"),
        ("- a\n", 1, "a mapping"),
        ("text", 1, "a mapping"),
        ("name: [\n", 2, "not YAML"),
        ("name: x\n\tb: 1\n", 2, "not YAML"),
        (GOOD + "split: &a {b: 1}\ngates: *a\n", 3, "anchors and aliases"),
        (GOOD + "description: !!python/object/apply:os.system ['true']\n", 3, "tag"),
        (GOOD + "description: !custom x\n", 3, "tag"),
        ("", 1, "key 'name' is missing"),
    ],
)
def test_bad_yaml_names_file_line_and_key(write, text, line, said):
    path = write(text)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert said in message
    assert "\n" not in message
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"name: \x00x", b"[" * 600, b"a: " * 100_000])
def test_what_is_no_text_is_refused_in_one_sentence(write, text):
    with pytest.raises(PolicyError) as caught:
        load_policy(write(text))
    assert "\n" not in str(caught.value)


def test_an_unknown_policy_names_the_closest(tmp_path):
    with pytest.raises(PolicyError, match="no policy or policy file 'strcit'; did you mean 'strict'"):
        load_policy("strcit")
    with pytest.raises(PolicyError, match="cannot read the policy"):
        load_policy(tmp_path)


@pytest.mark.parametrize("document", ["", "{}", "[]", '{"name": 1}'])
def test_a_damaged_policy_in_a_plan_is_a_policy_error(document):
    with pytest.raises(PolicyError):
        policy_from_document(document)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_policy_or_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(GOOD.encode() + data)
    try:
        assert isinstance(load_policy(path), Policy)
    except PolicyError as problem:
        assert "\n" not in str(problem)

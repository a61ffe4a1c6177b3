"""The rules of the file stage: what each is called, why it matters, what to do, where the field files it.

Plain data without dependencies, so that a scan can name them within its first tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RULES", "TaxonomyEntry", "Rule", "rule_for"]

_ATLAS, _CWE, _NIST, _OWASP = (
    ("MITRE ATLAS", "5.6.0"),
    ("CWE", "4.14"),
    ("NIST AI 100-2", "e2025"),
    ("OWASP ML", "2023"),
)


@dataclass(frozen=True, slots=True)
class TaxonomyEntry:
    """An entry of a public taxonomy with its edition."""

    scheme: str
    edition: str
    id: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        id: stable, ``PMA-FILE-001`` for example.
        title: what was found, as a heading.
        why: what it can lead to.
        remediation: what a person should do.
        refs: taxonomy entries, each with its edition.
        confidence: ``high`` where the bytes settle it, ``medium`` where an innocent reading is common.
    """

    id: str
    title: str
    why: str
    remediation: str
    refs: tuple[TaxonomyEntry, ...] = ()
    confidence: str = "high"


def _refs(*pairs: tuple[tuple[str, str], str]) -> tuple[TaxonomyEntry, ...]:
    return tuple(TaxonomyEntry(scheme, edition, id) for (scheme, edition), id in pairs)


_UNSAFE = _refs((_CWE, "CWE-502"), (_ATLAS, "AML.T0011.000"), (_OWASP, "ML06:2023"))
_EVADES = _refs((_CWE, "CWE-436"), (_ATLAS, "AML.T0076"))

PICKLE_GLOBALS = Rule(
    "PMA-FILE-001",
    "Loading this pickle would run code",
    "The file refers to functions or classes that no model weights need; unpickling calls them with "
    "whatever access the user has.",
    "Do not load it; delete it, tell whoever published it, and ask for safetensors.",
    _UNSAFE + _refs((_ATLAS, "AML.T0018.002")),
)
PICKLE_UNFINISHED = Rule(
    "PMA-FILE-002",
    "This pickle could not be examined to its end",
    "A stream that breaks or outgrows its limits can act before the point where an examination stops; what "
    "was not examined counts as unsafe.",
    "Do not load it; ask for safetensors.",
    _UNSAFE + _refs((_ATLAS, "AML.T0076")),
)
PICKLE_ODD = Rule(
    "PMA-FILE-003",
    "The pickle is built in an unusual way",
    "Nested, repeated or trailing streams are how payloads hide from scanners that read only the first one.",
    "Ask for safetensors, or convert the file in a throw-away environment and compare.",
    _EVADES,
)
CONTAINER = Rule(
    "PMA-FILE-004",
    "The archive contradicts itself",
    "Where directory and members disagree, two readers see two different files, and the one that scans "
    "need not be the one that loads.",
    "Do not load it; ask for a file written by an ordinary tool.",
    _EVADES,
)
POLYGLOT = Rule(
    "PMA-FILE-005",
    "The bytes can be read as more than one kind of file",
    "A loader that goes by another signature, or by the extension, opens something other than what was "
    "checked.",
    "Ask for a file that is one thing only.",
    _refs((_CWE, "CWE-436"), (_ATLAS, "AML.T0074")),
)
TENSOR_FILE = Rule(
    "PMA-FILE-006",
    "The tensor file is built in an unusual way",
    "Unusual headers, names or empty tensors are rarely written by trainers and can confuse other readers.",
    "Compare with a file of the same trainer; write it again if it is your own.",
    _refs((_CWE, "CWE-1286")),
    "medium",
)
NON_FINITE = Rule(
    "PMA-FILE-007",
    "Weights hold values that are not numbers",
    "NaN or infinity in one weight turns every image into noise, and hides whatever else the weights do.",
    "Ask for a repaired file; a training run that diverged usually leaves these behind.",
    _refs((_CWE, "CWE-1286"), (_NIST, "NISTAML.051")),
)
CODE = Rule(
    "PMA-FILE-008",
    "The model brings code or asks for code to be imported",
    "Loaders that trust remote code run it on load, with the access of the user.",
    "Do not load it with remote code enabled; review the code, or take the weights only.",
    _refs((_CWE, "CWE-94"), (_CWE, "CWE-829"), (_ATLAS, "AML.T0011.000"), (_ATLAS, "AML.T0010.003")),
)
HOSTILE_TEXT = Rule(
    "PMA-FILE-009",
    "Names or metadata hold text that acts on whoever shows it",
    "Markup, escape sequences, invisible or reordering characters in metadata attack web pages, terminals "
    "and readers.",
    "Strip the metadata before the file is shown or indexed anywhere.",
    _refs((_CWE, "CWE-116"), (_CWE, "CWE-1007")),
    "medium",
)
PICKLE_WEIGHTS = Rule(
    "PMA-FILE-010",
    "Weights are stored as a pickle",
    "This one is on the allow-list, but every later copy has to be checked again, and loaders may prefer "
    "it over safetensors beside it.",
    "Ask for safetensors, or convert it once in a place you can throw away.",
    _refs((_CWE, "CWE-502")),
)
CONFIGURATION = Rule(
    "PMA-FILE-011",
    "The folder or its configuration is unusual",
    "Links, unreadable configs or parts that loaders treat in different ways make what is loaded depend on "
    "who loads it.",
    "Have the folder written again by the library that made it.",
    _refs((_CWE, "CWE-59"), (_CWE, "CWE-829")),
    "medium",
)
LIMITS = Rule(
    "PMA-FILE-012",
    "The file asks for more than any real model needs",
    "Sizes beyond the limits stall or crash whoever opens the file, and keep an examination from reaching "
    "its end.",
    "Do not load it; ask for a file of ordinary size.",
    _refs((_CWE, "CWE-409"), (_CWE, "CWE-770")),
)
INCOMPLETE = Rule(
    "PMA-FILE-013",
    "Parts of the adapter were not understood",
    "What is not understood is not audited, and different loaders drop or apply it in different ways.",
    "Ask which tool wrote the file; treat results on it as incomplete.",
    _refs((_CWE, "CWE-436")),
    "medium",
)
ODD = Rule(
    "PMA-FILE-099",
    "Something about the file is unusual",
    "It is outside of what ordinary trainers and libraries write.",
    "Read the detail, and ask whoever published the file.",
    (),
    "medium",
)
CONTRADICTED = Rule(
    "PMA-CLAIM-001",
    "Metadata contradicts the tensors",
    "Whoever trusts the label puts the adapter on the wrong base or trusts a file that is not the one "
    "described.",
    "Go by what was measured; ask whoever published the file why the label differs.",
    _refs((_ATLAS, "AML.T0074"), (_CWE, "CWE-345")),
)
HASH_CONTRADICTED = Rule(
    "PMA-CLAIM-002",
    "The tensors are not the ones the file was hashed with",
    "The weights were changed after the hash was written, or the hash was copied from a trusted file.",
    "Compare with the original publication; treat the file as of unknown origin.",
    _refs((_ATLAS, "AML.T0074"), (_ATLAS, "AML.T0010.003"), (_CWE, "CWE-354")),
)
TRIGGER_TEXT = Rule(
    "PMA-CLAIM-003",
    "A declared trigger holds look-alike or invisible characters",
    "It cannot be typed as it reads, so whoever types it does not call what the file was trained on; "
    "homoglyphs are also a backdoor trigger in print.",
    "Copy the trigger by code point, and run the backdoor probes on it.",
    _refs((_ATLAS, "AML.T0043.004"), (_CWE, "CWE-1007"), (_NIST, "NISTAML.023")),
    "medium",
)
UNREADABLE = Rule(
    "PMA-CLAIM-004",
    "Claims cannot be read",
    "What cannot be read cannot be compared, and is often cut or edited by hand.",
    "Ask for the file as the trainer wrote it.",
    (),
    "medium",
)
MISFIT = Rule(
    "PMA-CLAIM-005",
    "The weights fit no single base",
    "An adapter whose parts fit different bases was merged or mislabelled, and applies in part only.",
    "Ask which base it was trained on, and audit it against that one.",
    _refs((_CWE, "CWE-345")),
    "medium",
)

RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        PICKLE_GLOBALS,
        PICKLE_UNFINISHED,
        PICKLE_ODD,
        CONTAINER,
        POLYGLOT,
        TENSOR_FILE,
        NON_FINITE,
        CODE,
        HOSTILE_TEXT,
        PICKLE_WEIGHTS,
        CONFIGURATION,
        LIMITS,
        INCOMPLETE,
        ODD,
        CONTRADICTED,
        HASH_CONTRADICTED,
        TRIGGER_TEXT,
        UNREADABLE,
        MISFIT,
    )
}

# The longest prefix of a problem's code decides.
_BY_CODE: dict[str, Rule] = {
    "pickle.broken": PICKLE_UNFINISHED,
    "pickle": PICKLE_ODD,
    "folder.other_weights": CONFIGURATION,
    "folder.refused_file": PICKLE_GLOBALS,
    "zip": CONTAINER,
    "sniff": POLYGLOT,
    "safetensors": TENSOR_FILE,
    "limit": LIMITS,
    "model.code": CODE,
    "model.remote_code": CODE,
    "model.custom_pipeline": CODE,
    "model.custom_component": CODE,
    "model.component": CODE,
    "model.pickle_weights": PICKLE_WEIGHTS,
    "model": CONFIGURATION,
    "text": HOSTILE_TEXT,
    "dialect": INCOMPLETE,
    "ordinal": INCOMPLETE,
    "peft.auto_mapping": CODE,
    "peft.megatron": CODE,
    "peft": CONFIGURATION,
    "claims.trigger_text": TRIGGER_TEXT,
    "claims": UNREADABLE,
    "card": UNREADABLE,
    "family": MISFIT,
}


def rule_for(code: str) -> Rule:
    """The rule under which a problem with this dotted code is reported; ``PMA-FILE-099`` for a new one."""
    parts = code.split(".")
    for length in range(len(parts), 0, -1):
        rule = _BY_CODE.get(".".join(parts[:length]))
        if rule is not None:
            return rule
    return ODD

"""Everything that is plugged in is complete: what it tests, against what, from where, and with which limits."""

import dataclasses
import json
import re

import pytest

from auditor.banks import params_document
from auditor.cli.catalogue import KINDS, rows
from auditor.cli.dataclass_options import attribute_help, build_params
from auditor.cli.main import run
from auditor.cli.writers import writer_named, writer_names
from auditor.contracts import Capability, Probe, Stage
from auditor.registry import ATTACKS, DEFENSES, METHODS, PROBES, WATERMARKS

REGISTRIES = {
    "probe": PROBES,
    "attack": ATTACKS,
    "defense": DEFENSES,
    "watermark": WATERMARKS,
    "method": METHODS,
}
ITEMS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
PROBE_NAMES = PROBES.names()


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_probe_states_everything(name):
    probe = PROBES.get(name)
    assert isinstance(probe, Probe)
    assert re.fullmatch(r"[a-z]+\.[a-z][a-z0-9_]*", probe.id)
    assert probe.version >= 1
    for text in (probe.goal, probe.null, probe.limits):
        assert len(text) > 20, text
    assert probe.refs
    assert probe.needs
    assert probe.needs <= set(Capability)
    assert probe.stage in Stage
    assert all(reference.edition for reference in probe.taxonomy)
    assert all(other in PROBE_NAMES for other in probe.consumes)
    assert probe.function.__doc__


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_probe_that_needs_only_the_file_says_so(name):
    probe = PROBES.get(name)
    assert (probe.stage is Stage.FILE) == (probe.needs == {Capability.FILE})


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_a_plugin_has_id_goal_and_references(kind, name):
    item = REGISTRIES[kind].get(name)
    assert item.id == name
    assert len(item.goal) > 15
    assert item.refs


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_parameters_are_frozen_documented_and_survive_json(kind, name):
    params = getattr(REGISTRIES[kind].get(name), "params", None)
    if params is None:
        pytest.skip("takes no parameters")
    assert dataclasses.is_dataclass(params)
    assert params.__dataclass_params__.frozen
    default = params()
    text = json.dumps(params_document(default), sort_keys=True)
    assert build_params(params, json.loads(text)) == default
    fields = {field.name for field in dataclasses.fields(params)}
    assert fields <= attribute_help(params).keys() | set((params.__doc__ or "").replace("`", " ").split())


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_explain_renders_it(kind, name, capsys):
    assert run(["explain", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{name} ({kind})")
    assert "References" in text


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_list_json_is_an_array_of_what_is_registered(kind, capsys):
    assert run(["list", kind, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    assert [row["id"] for row in found] == [row["id"] for row in rows(kind)]


@pytest.mark.parametrize("name", writer_names())
def test_a_writer_says_what_it_writes(name):
    writer = writer_named(name)
    assert name == writer.NAME
    assert re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", writer.MEDIA_TYPE)
    assert re.fullmatch(r"\.[a-z0-9.]+", writer.SUFFIX)
    assert writer.__doc__


def test_suffixes_of_writers_do_not_collide():
    suffixes = [writer_named(name).SUFFIX for name in writer_names()]
    assert len(set(suffixes)) == len(suffixes)


def test_what_ships_is_registered():
    assert {"static.file_safety", "static.claims", "backdoor.vocabulary_shift", "behaviour.drift"} <= set(
        PROBE_NAMES
    )
    assert "dreambooth-lora" in METHODS.names()
    assert "rickrolling" in ATTACKS.names()
    assert {"json", "html", "md", "text"} <= set(writer_names())
    assert {"sarif", "junit", "csv", "parquet", "card"} <= set(writer_names())

"""``adapter_config.json`` of a PEFT folder: parsed, and what in it goes beyond a plain LoRA."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from auditor.artifact.problems import Problem, problem
from auditor.errors import MalformedArtifact, UnsupportedArtifact
from auditor.text import inert

__all__ = ["config_problems", "read_config", "read_json_object"]

_LONGEST = 4 << 20
_METHODS = ("LORA", "LOHA", "LOKR", "IA3")
# Initialisations that also change the base weights, so that the factors alone are not the whole difference.
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "eva", "lora_ga")


def read_config(folder: Path) -> dict[str, Any]:
    """Reads ``adapter_config.json``.

    Raises:
        MalformedArtifact: it is no JSON object, or far too long.
        UnsupportedArtifact: it is for a method that is not read; the method is named.
    """
    config = read_json_object(folder / "adapter_config.json")
    kind = str(config.get("peft_type", "LORA"))
    if kind.upper() not in _METHODS:
        known = ", ".join(_METHODS[:-1])
        raise UnsupportedArtifact(
            f"this is a PEFT adapter of type '{inert(kind, 40)}', which is not supported: {known} and "
            f"{_METHODS[-1]} are read, of others the change has to be rebuilt from their own factors and settings"
        )
    return config


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a small JSON file that must hold an object.

    Raises:
        MalformedArtifact: it does not, or cannot be read.
    """
    shown = inert(path.name)
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        parsed = json.loads(data.decode("utf-8")) if len(data) <= _LONGEST else None
    except (OSError, ValueError, RecursionError) as error:
        raise MalformedArtifact(f"'{shown}' is not readable JSON; the folder is damaged") from error
    if not isinstance(parsed, dict):
        raise MalformedArtifact(f"'{shown}' should hold one JSON object of at most {_LONGEST} bytes")
    return parsed


def config_problems(config: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What a config asks for beyond low-rank factors: imports, changes of the base, other parameters."""
    return tuple(_config_problems(config))


def _config_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    mapping = config.get("auto_mapping")
    if mapping:
        library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
        yield problem("peft.auto_mapping", "medium", f"auto_mapping asks the loader to import '{library}'")
    if config.get("megatron_config") or config.get("megatron_core") not in (None, "megatron.core"):
        yield problem(
            "peft.megatron",
            "high",
            f"megatron_core asks the loader to import '{config.get('megatron_core')}'",
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        told = f"init_lora_weights is '{start}', which changes the base too: factors are not all of it"
        yield problem("peft.initialisation", "medium", told)
    for key in (
        "layer_replication",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
    ):
        if config.get(key):
            yield problem("peft.extra", "medium", f"{key} changes more than low-rank factors can show")
    if config.get("modules_to_save"):
        yield problem(
            "peft.modules_to_save",
            "info",
            f"whole modules are replaced: {str(config['modules_to_save'])[:120]}",
        )
    if config.get("fan_in_fan_out") is True:
        yield problem(
            "peft.fan_in_fan_out", "medium", "fan_in_fan_out: the base stores its weights transposed"
        )
    if config.get("bias", "none") != "none":
        yield problem("peft.bias", "info", f"biases were trained: '{config['bias']}'")

"""Everything that is plugged in, as plain JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from auditor.contracts import Probe
from auditor.registry import ATTACKS, DEFENSES, METHODS, PROBES, WATERMARKS, Registry

__all__ = ["KINDS", "params_of", "rows"]

Row = dict[str, Any]


def _probes() -> list[Row]:
    return [_probe(each) for each in PROBES]


def _probe(each: Probe) -> Row:
    return {
        "id": each.id,
        "kind": "probe",
        "version": each.version,
        "family": each.family,
        "stage": each.stage.value,
        "goal": each.goal,
        "null": each.null,
        "needs": sorted(need.value for need in each.needs),
        "on_request": "only where it is named, at the audit's level by itself" if each.on_request else "",
        "consumes": list(each.consumes),
        "bank": each.bank,
        "params": params_of(each.params),
        "refs": list(each.refs),
        "taxonomy": [reference.model_dump(mode="json") for reference in each.taxonomy],
        "remediation": each.remediation,
        "limits": each.limits,
    }


def _items(registry: Registry[Any]) -> Callable[[], list[Row]]:
    return lambda: [_item(registry.kind, item) for item in registry]


def _item(kind: str, item: Any) -> Row:
    row: Row = {"id": item.id, "kind": kind, "goal": item.goal, "refs": list(item.refs)}
    row |= {name: getattr(item, name) for name in ("limits", "embed_point") if hasattr(item, name)}
    if hasattr(item, "params"):
        row["params"] = params_of(item.params)
    return row


def _writers() -> list[Row]:
    from auditor.cli.writers import writer_named, writer_names

    found = []
    for name in writer_names():
        module = writer_named(name)
        goal = (module.__doc__ or "").strip().partition("\n")[0]
        found.append(
            {
                "id": name,
                "kind": "writer",
                "goal": goal,
                "media_type": module.MEDIA_TYPE,
                "suffix": module.SUFFIX,
            }
        )
    return found


def _mappings() -> list[Row]:
    from auditor.cli.mappings import mapping_rows

    return mapping_rows()


KINDS: dict[str, Callable[[], list[Row]]] = {
    "probes": _probes,
    "attacks": _items(ATTACKS),
    "defenses": _items(DEFENSES),
    "watermarks": _items(WATERMARKS),
    "methods": _items(METHODS),
    "writers": _writers,
    "mappings": _mappings,
}


def rows(kind: str) -> list[Row]:
    """One JSON object for each plugin of a kind of :data:`KINDS`, by name."""
    return KINDS[kind]()


def params_of(params: type) -> Row:
    """Defaults of a dataclass of parameters by field; a field without one has None."""
    return {field.name: _default(field) for field in dataclasses.fields(params)}


def _default(field: dataclasses.Field[Any]) -> Any:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return None
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, (bool, int, float, str, list, dict)) or value is None else str(value)

"""One registry for everything that plugs in: decorators, lazy loading by entry point, "did you mean".

Our own packages are named in ``pyproject.toml`` under the same entry-point groups that third parties use;
``auditor`` never imports a wing. A group's entry names a *package*, and every module below it is imported
when the group is first asked, so that a new probe is one new file and nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from auditor.contracts import (
    Attack,
    Capability,
    Defense,
    Method,
    NoParams,
    Probe,
    ProbeFunction,
    Stage,
    Watermark,
)
from auditor.errors import UsageError
from auditor.text import did_you_mean, inert
from reports.model import Reference

__all__ = ["ATTACKS", "DEFENSES", "METHODS", "PROBES", "Registry", "WATERMARKS", "probe", "register"]

T = TypeVar("T")
PLUGIN_GROUP = "auditor.plugins"


class Registry(Generic[T]):
    """Named things of one kind, loaded on first use.

    Args:
        kind: singular noun for messages, and the entry-point name prefix: the group's entries called
            ``kind`` or ``kind.anything`` name the packages to walk.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, item: T) -> None:
        """Registers; raises ``ValueError`` if the name is taken by something else."""
        known = self._items.get(name)
        if known is not None and known != item:
            raise ValueError(f"two {self.kind}s are called {name!r}")
        self._items[name] = item

    def get(self, name: str) -> T:
        """Looks up by name. Raises :class:`UsageError` with the closest known name."""
        self.load()
        if name not in self._items:
            raise UsageError(
                f"unknown {self.kind} '{inert(name)}'{did_you_mean(name, self._items)} (auditor list {self.kind}s)"
            )
        return self._items[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self.load()
        return sorted(self._items)

    def __iter__(self) -> Iterator[T]:
        return (self._items[name] for name in self.names())

    def load(self) -> None:
        """Imports every module of every package that an entry point names for this kind, once."""
        if self._loaded:
            return
        self._loaded = True
        for point in entry_points(group=PLUGIN_GROUP):
            if point.name.partition(".")[0] == self.kind:
                _import_all(point.value)


PROBES: Registry[Probe] = Registry("probe")
ATTACKS: Registry[Attack] = Registry("attack")
DEFENSES: Registry[Defense] = Registry("defense")
WATERMARKS: Registry[Watermark] = Registry("watermark")
METHODS: Registry[Method] = Registry("method")


def probe(
    *,
    id: str,
    version: int,
    goal: str,
    null: str,
    needs: Iterable[Capability],
    stage: Stage,
    consumes: Iterable[str] = (),
    bank: str = "",
    screen: bool = False,
    refs: Iterable[str] = (),
    taxonomy: Iterable[Reference] = (),
    remediation: str = "",
    limits: str = "",
    on_request: bool = False,
) -> Callable[[ProbeFunction], ProbeFunction]:
    """Registers a probe function; see :mod:`auditor.contracts`."""

    def keep(function: ProbeFunction) -> ProbeFunction:
        PROBES.add(
            id,
            Probe(
                id=id, version=version, goal=goal, null=null, needs=frozenset(needs), stage=stage, function=function,
                params=_params_of(function), consumes=tuple(consumes), bank=bank, screen=screen, refs=tuple(refs),
                taxonomy=tuple(taxonomy), remediation=remediation, limits=limits, on_request=on_request,
            ),
        )  # fmt: skip
        return function

    return keep


def register(registry: Registry[T], name: str) -> Callable[[Callable[[], T]], Callable[[], T]]:
    """Registers an instance of the decorated class under ``name``."""

    def keep(build: Callable[[], T]) -> Callable[[], T]:
        registry.add(name, build())
        return build

    return keep


def _params_of(function: ProbeFunction) -> type:
    hints = typing.get_type_hints(function, localns=_typing_only())
    second = list(inspect.signature(function).parameters)[1]
    found = hints.get(second, NoParams)
    return found if isinstance(found, type) else NoParams


def _typing_only() -> dict[str, object]:
    # Probes annotate their subject under TYPE_CHECKING so that listing them stays torch-free.
    return {"Subject": object, "Identified": object}


def _import_all(package: str) -> None:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), package + "."):
        importlib.import_module(found.name)

"""What a probe is given: seeds, units of work done once, evidence, results of others, progress, budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from auditor.banks import Pool
from auditor.contracts import JsonValue
from auditor.engine.display import Display
from auditor.engine.plan import PlanNode
from auditor.engine.ports import Clock
from auditor.engine.seeds import derive_seed
from auditor.engine.store import Event, Store
from auditor.engine.values import encode
from auditor.text import inert
from reports.model import Evidence, Outcome, Result

__all__ = ["BudgetStop", "Ledger", "ProbeRun"]

LARGEST_INLINE = 64 * 1024


class BudgetStop(Exception):
    """The budget was spent before a unit of work that was not done yet. The engine catches it."""


class Ledger:
    """The events of a run, read once: which units are done, which probes are finished, what was spent.

    Only completed work is charged, so that a stop depends on the log alone and a resumed run stops at the
    same unit.
    """

    def __init__(self, store: Store, budget: float | None) -> None:
        self.store = store
        self.budget = budget
        self.spent = 0.0
        self.units: dict[tuple[str, str], Event] = {}
        self.finished: dict[str, Event] = {}
        self.stops: dict[str, str] = {}
        for event in store.events:
            self._note(event)

    @property
    def exhausted(self) -> bool:
        """Whether nothing more may be begun."""
        return self.budget is not None and self.spent >= self.budget

    def record(self, event: Event) -> Event:
        """Appends the event and takes note of it."""
        self.store.append(event)
        self._note(event)
        return event

    def of_type(self, kind: str) -> Event | None:
        """The first event of a type."""
        return next((event for event in self.store.events if event["type"] == kind), None)

    def _note(self, event: Event) -> None:
        self.spent += event.get("charged", 0.0)
        if event["type"] == "unit":
            self.units[event["probe"], event["name"]] = event
        elif event["type"] == "probe_finished":
            self.finished[event["probe"]] = event
        elif event["type"] == "budget_stop":
            self.stops[event["probe"]] = event["unit"]


class ProbeRun:
    """The :class:`auditor.contracts.Run` of one probe.

    Attributes:
        alpha: level that this probe may spend.
        pool: the banks that it is judged by together with other probes.
        stopped: whether the budget ended before the probe did.
        seconds: work of this probe, that of an earlier, killed process included.
        calls: denoiser calls, counted the same way.
    """

    def __init__(
        self,
        node: PlanNode,
        seed: int,
        ledger: Ledger,
        others: Mapping[str, Sequence[Result]],
        clock: Clock,
        display: Display,
        pool: Pool | None = None,
        meter: Callable[[], int] = int,
    ) -> None:
        self.alpha = node.alpha
        self.pool = pool
        self._meter = meter
        self.stopped = False
        self.calls = 0
        self._probe = node.probe
        self._seed = seed
        self._ledger = ledger
        self._others = others
        self._clock = clock
        self._display = display
        self._names: set[str] = set()
        self._started = clock.monotonic()
        self._replayed = 0.0
        self._charged = 0.0

    @property
    def seconds(self) -> float:
        """Seconds worked for this probe so far."""
        return self._replayed + self._clock.monotonic() - self._started

    @property
    def uncharged(self) -> float:
        """Seconds worked for this probe outside its units."""
        return max(0.0, self.seconds - self._charged)

    def seed(self, *names: str | int) -> int:
        """A seed in [0, 2**63) from the run's seed, the probe's id and ``names``."""
        return derive_seed(self._seed, self._probe.id, *names)

    def rng(self, *names: str | int) -> np.random.Generator:
        """A generator seeded by :meth:`seed`."""
        return np.random.default_rng(self.seed(*names))

    def unit(self, name: str, work: Callable[[], JsonValue]) -> JsonValue:
        """Does ``work`` unless the log has its value already; see :meth:`auditor.contracts.Run.unit`.

        Raises:
            BudgetStop: nothing is left to spend on a unit that is not done.
            ValueError: a name used twice, or a value with NaN or infinity.
        """
        if name in self._names:
            raise ValueError(f"probe {self._probe.id} has two units called {name!r}")
        self._names.add(name)
        done = self._ledger.units.get((self._probe.id, name))
        if done is None:
            self._stop_if_spent(name)
            return self._work(name, work)
        self._replayed += done["charged"]
        self._charged += done["charged"]
        self.calls += done["calls"]
        return self._stored(done)

    def evidence(
        self, name: str, data: bytes, media_type: str, caption: str = "", sensitive: bool = False
    ) -> Evidence:
        """Stores bytes by content and returns the reference to put into a result."""
        sha256 = self._ledger.store.put_evidence(data, media_type)
        return Evidence(name=name, sha256=sha256, media_type=media_type, caption=caption, sensitive=sensitive)

    def results_of(self, probe_id: str) -> Sequence[Result]:
        """Results of a probe named in ``consumes``; empty when it was skipped or failed.

        Raises:
            ValueError: the probe does not declare that it consumes the other.
        """
        if probe_id not in self._probe.consumes:
            raise ValueError(f"probe {self._probe.id} asks for {probe_id}, which it does not consume")
        unused = (Outcome.SKIPPED, Outcome.ERROR)
        return tuple(r for r in self._others.get(probe_id, ()) if r.outcome not in unused)

    def progress(self, done: int, total: int, label: str = "") -> None:
        """Shows progress within this probe."""
        self._display.progress(self._probe.id, done, total, label)

    def count(self, calls: int) -> None:
        """Adds denoiser calls (one per image and step) to the cost of this probe."""
        self.calls += calls

    def _stop_if_spent(self, name: str) -> None:
        stopped_at = self._ledger.stops.get(self._probe.id)
        if stopped_at is None and self._ledger.exhausted:
            self._ledger.record({"type": "budget_stop", "probe": self._probe.id, "unit": name})
            stopped_at = name
        if stopped_at is not None:
            self.stopped = True
            raise BudgetStop(f"the budget was spent before '{inert(name)}'")

    def _work(self, name: str, work: Callable[[], JsonValue]) -> JsonValue:
        before, calls, counted = self._clock.monotonic(), self.calls, self._meter()
        text = encode(work())
        self.calls += self._meter() - counted
        event: Event = {"type": "unit", "probe": self._probe.id, "name": name}
        if len(text) > LARGEST_INLINE:
            event["blob"] = self._ledger.store.put_blob(text.encode())
        else:
            event["value"] = json.loads(text)
        event["charged"] = round(self._clock.monotonic() - before, 6)
        event["calls"] = self.calls - calls
        self._charged += event["charged"]
        self._ledger.record(event)
        return json.loads(text)

    def _stored(self, event: Event) -> JsonValue:
        if "blob" in event:
            return json.loads(self._ledger.store.get_blob(event["blob"]))
        return json.loads(encode(event["value"]))  # a copy: the probe may change what it is given

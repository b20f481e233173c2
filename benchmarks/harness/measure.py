"""A setup run: its sides opened, then one repetition of each in turn, with the machine's limits measured in each round.

In: a `Setup` and where the files are. Out: `Found`, everything that was seen. All sides stay open where memory allows;
otherwise each is opened for every repetition. Not done here: figures and ratios (`report`).
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cases import LOADED, PEERS, Setup
from harness.files import ready
from harness.others import Others
from harness.processes import Failed, Worker, available_gib, can_import
from harness.sides import Run

OURS, LIMITS, NANO = "ours", "limits", "nano"
LIMITS_GIB = 1.0


@dataclass
class Seen:
    """Of one side: its answers, or why there are none."""

    opened: list[dict[str, Any]] = field(default_factory=list)
    warmed: dict[str, Any] | None = None
    repetitions: list[dict[str, Any]] = field(default_factory=list)
    missing: str | None = None


@dataclass
class Found:
    """Of a setup.

    Attributes:
        sides: by name. others, stolen: cores of other programs, and of other machines, on average.
        together: whether all sides were open at a time. preferred: whether ours had priority.
    """

    setup: Setup | None
    sides: dict[str, Seen] = field(default_factory=dict)
    others: float = 0.0
    stolen: float = 0.0
    together: bool = True
    preferred: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class How:
    """`rounds` at most, and none is begun that would end after `seconds`."""

    directory: Path
    rounds: int
    seconds: float
    threads: int
    priority: int = 0
    peer_python: str = sys.executable


class Bench:
    """One setup's run."""

    def __init__(self, setup: Setup | None, how: How):
        self.setup, self.how = setup, how
        self.found = Found(setup)
        self.open: dict[str, Worker] = {}
        self.parts: dict[str, tuple[str, Run, str]] = {}  # name -> kind of side, what it is told, its interpreter

    def run(self) -> Found:
        self._choose()
        began, others = time.perf_counter(), Others()
        try:
            longest = 0.0
            for number in range(self.how.rounds):
                start = time.perf_counter()
                if number and start - began + longest > self.how.seconds:
                    break
                names = [name for name in self.parts if self.found.sides[name].missing is None]
                for name in names[:1] + (names[1:] if number % 2 == 0 else names[:0:-1]):  # limits first
                    self._turn(name, others)
                longest = max(longest, time.perf_counter() - start)
        finally:
            others.count(list(self.open.values()))
            for worker in self.open.values():
                worker.stop()
        self.found.others, self.found.stolen = others.cores()
        self.found.seconds = time.perf_counter() - began
        return self.found

    def _turn(self, name: str, others: Others) -> None:
        """One repetition of one side."""
        seen = self.found.sides[name]
        try:
            worker = self.open.get(name) or self._start(name)
            if worker is None:
                return
            seen.repetitions.append(worker.ask("once"))
        except Failed as reason:
            seen.missing = f"failed: {reason}"
            _say(f"{name} {seen.missing}")
            return
        _say(f"  {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in _short(seen.repetitions[-1]).items()))
        if not self.found.together:
            others.count([worker])
            del self.open[name]
            worker.stop()

    def _start(self, name: str) -> Worker | None:
        side, run, python = self.parts[name]
        seen = self.found.sides[name]
        worker = Worker(side, run, python=python, threads=self.how.threads, priority=self.how.priority)
        self.open[name] = worker
        self.found.preferred = worker.preferred
        if "not_yet" in worker.opened:
            seen.missing = f"not yet: {worker.opened['not_yet']}"
            _say(f"  {name} {seen.missing}")
            return None
        seen.opened.append(worker.opened)
        warmed = worker.ask("warm")
        seen.warmed = seen.warmed or warmed
        return worker

    def _choose(self) -> None:
        """Which sides there are, where their files lie, and whether they fit together."""
        setup = self.setup
        types = ["bf16"] if setup is None else list(dict.fromkeys([tower_type(setup), LOADED[setup.precision].matrix]))
        nothing = Run(path="", image_size_px=0, prompts=[], answers=[])
        self._add(LIMITS, "limits", Run(**{**vars(nothing), "options": {"types": types}}))
        if setup is None:
            self._add(OURS, NANO, nothing)
            return
        told = {"image_size_px": setup.image_size_px, "prompts": list(setup.prompts), "answers": list(setup.answers)}
        loaded, free = LOADED[setup.precision], available_gib()
        needs = {OURS: loaded.gib} | {name: PEERS[name].gib for name in setup.peers}
        for name, gib in needs.items():
            peer = PEERS.get(name)
            if peer and not can_import(self.how.peer_python, peer.needs):
                self._leave_out(name, f"absent: {peer.install}")
            elif gib + LIMITS_GIB > free:
                self._leave_out(name, f"no room: it holds {gib:.3g} GiB, and {free:.3g} are free")
            elif peer:
                path = ready(self.how.directory, peer.layout, setup.image_size_px)
                self._add(name, peer.side, Run(path=str(path), options=peer.options, **told), self.how.peer_python)
            else:
                path = ready(self.how.directory, "hf", setup.image_size_px)
                self._add(name, "ours", Run(path=str(path), options=loaded.options, **told))
        self.found.together = LIMITS_GIB + sum(needs[name] for name in needs if name in self.parts) < free

    def _leave_out(self, name: str, why: str) -> None:
        self.found.sides[name] = Seen(missing=why)
        _say(f"  {name}: {why}")

    def _add(self, name: str, side: str, run: Run, python: str = sys.executable) -> None:
        self.found.sides[name] = Seen()
        self.parts[name] = side, run, python


def tower_type(setup: Setup) -> str:
    """The type the image tower computes in."""
    return "fp32" if setup.precision == "fp32" else "bf16"


def _short(repetition: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in repetition.items() if key.endswith("_s") and value is not None}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

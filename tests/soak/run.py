"""A whole soak: a server, a line and a place for each worker, faults while the time lasts, then quiet, and what the checker says."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from soak.checker import Verdict, check
from soak.crew import CrewError, Member
from soak.diary import recall
from soak.faults import REPLICATES, Misfortune, Stage
from soak.history import READ, History, Trouble
from soak.origin import Origin
from soak.report import stories, table
from support.proxy import Proxy
from support.servers import Server

SHAPES: Final = ("threads", "loop", "both")
PROGRESS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a soak is run. ``seconds`` of traffic, ``every`` so many a fault; ``limit`` is the longest that a call may take.

    ``only`` names the faults that may happen; empty: all. ``chaos``: layers, codecs and origins fail too.
    """

    seconds: float = 120.0
    seed: int = 0
    workers: int = 6
    max_lag: float = 0.5
    slack: float = 0.0
    every: float = 0.7
    limit: float = 10.0
    flavour: str = "valkey9"
    only: frozenset[str] = frozenset()
    chaos: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    history: History
    verdict: Verdict

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept, and nothing happened that nobody expected."""
        return not self.verdict.count and not self.history.troubles


class Soak:
    """One run. What is written down stays in ``folder``; ``say`` is told how it goes."""

    def __init__(self, wanted: Wanted, folder: Path, say: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._folder = folder
        self._say = say
        self._troubles: list[Trouble] = []

    def run(self) -> Outcome:
        """Play it and judge it."""
        wanted = self._wanted
        with ExitStack() as stack:
            crew, misfortune = self._play(stack)
        history = recall(self._folder, max_lag=wanted.max_lag, slack=wanted.slack)
        history.faults, history.failovers = misfortune.happened, misfortune.stage.failovers
        killed = {life: at for member in crew for life, at in member.killed.items()}
        history.lives = [replace(life, killed=killed.get((life.slot, life.life))) for life in history.lives]
        history.troubles += [*self._troubles, *self._complaints()]
        verdict = check(history)
        self._say(table(history, verdict))
        outcome = Outcome(history, verdict)
        if not outcome.is_clean:
            told = self._folder / "stories.txt"
            told.write_text(stories(history, verdict.violations))
            self._say(f"\nthe stories: {told}")
        return outcome

    def _play(self, stack: ExitStack) -> tuple[list[Member], Misfortune]:
        wanted, slots = self._wanted, self._wanted.workers
        Origin.create(self._folder, slots=slots + 1)
        server = stack.enter_context(Server(wanted.flavour, options=REPLICATES))
        lines = [stack.enter_context(Proxy("127.0.0.1", server.port)) for _ in range(slots)]
        bounds = ("--slots", str(slots + 1), "--max-lag", str(wanted.max_lag), "--limit", str(wanted.limit))
        options = (str(wanted.seed), *bounds, *(("--chaos",) if wanted.chaos else ()))
        crew = [
            Member(self._folder, slot, url=line.url, shape=SHAPES[slot % len(SHAPES)], options=options) for slot, line in enumerate(lines)
        ]
        for member in crew:
            stack.callback(member.dismiss)
            member.start()
        for member in crew:
            member.wait_for("ready")
        how = ", in chaos" if wanted.chaos else ""
        self._say(f"{slots} workers on {server.flavour} {server.version}, seed {wanted.seed}: {wanted.seconds:g} s{how}")
        stage = Stage(server, lines, crew, random.Random(wanted.seed), wanted.max_lag)
        stack.callback(stage.end)
        misfortune = Misfortune(stage, every=wanted.every, only=wanted.only)
        self._suffer(crew, misfortune)
        misfortune.end()
        self._say("all faults are healed; quiet")
        cold = Member(self._folder, slots, url=server.url, shape="cold", options=options)
        stack.callback(cold.dismiss)
        try:
            self._settle(crew, cold)
        except CrewError as error:
            self._troubles.append(Trouble(slot=-1, life=0, at=time.monotonic(), what="crew", detail=str(error)))
        return crew, misfortune

    def _suffer(self, crew: list[Member], misfortune: Misfortune) -> None:
        """Faults while the time lasts."""
        began = told = time.monotonic()
        while (now := time.monotonic()) < began + self._wanted.seconds:
            misfortune.turn()
            for member in crew:
                if member.ended is not None and (member.slot, member.life) not in member.killed:
                    says = f"worker {member.slot}.{member.life} ended with {member.ended}, and nobody had killed it"
                    self._troubles.append(Trouble(slot=member.slot, life=member.life, at=now, what="crew", detail=says))
                    return
            if now >= told + PROGRESS:
                told = now
                self._say(f"{now - began:5.0f} s  {self._progress()}, faults {len(misfortune.happened)}")
            time.sleep(0.02)

    def _progress(self) -> str:
        reads = sum(path.stat().st_size for path in self._folder.glob("*.reads")) // READ.size
        notes = [path.read_bytes() for path in self._folder.glob("*.notes")]
        cuts, troubles = (sum(text.count(b'["%b"' % kind) for text in notes) for kind in (b"cut", b"trouble"))
        return f"shown {reads:,}, cuts {cuts:,}, troubles {troubles}"

    def _settle(self, crew: list[Member], cold: Member) -> None:
        """The traffic ends, what waited is announced, every process may hear of it; then everything is read once more."""
        for member in crew:
            member.order("quiet")
        for member in crew:
            member.wait_for("quiet")
        time.sleep(self._wanted.max_lag)
        cold.start()
        for members in ([cold], crew):  # first what Redis holds as valid, as a process sees it that never computes
            for member in members:
                member.order("final")
            for member in members:
                member.wait_for("final")
        for member in (cold, *crew):
            member.order("end")
        for member in (cold, *crew):
            member.wait_for("end")
            member.end()

    def _complaints(self) -> list[Trouble]:
        """What workers wrote where nobody reads."""
        found: list[Trouble] = []
        for path in sorted(self._folder.glob("*.err")):
            slot, life, _ = path.name.split(".")
            if text := path.read_text(errors="replace").strip():
                found.append(Trouble(slot=int(slot), life=int(life), at=0.0, what="written to stderr", detail=text))
        return found

"""What each process writes down, and how a history is read back.

Reads are many and small: they are packed, and written a hundred at a time. Everything else is a line of JSON and written at once, so
that it survives SIGKILL.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from cachesync import Stamp
from soak.history import HOWS, READ, Cut, History, Life, Read, Shown, Slow, Trouble, maker_number


class Diary:
    """What one process writes."""

    def __init__(self, folder: Path, *, slot: int, life: int) -> None:
        self._slot, self._life = slot, life
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._reads = os.open(folder / f"{slot}.{life}.reads", flags)
        self._notes = os.open(folder / f"{slot}.{life}.notes", flags)
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        self._serial = 0
        self.reads = 0

    def next_maker(self) -> int:
        """A number that no other value has."""
        with self._lock:
            self._serial += 1
            return maker_number(self._slot, self._life, self._serial)

    def read(
        self,
        how: str,
        via: int,
        shown: Sequence[Shown],
        *,
        began: float,
        ended: float,
        at_least: Stamp | None = None,
        is_stale: bool = False,
        is_final: bool = False,
    ) -> None:
        epoch, number = (int(at_least.epoch, 16), at_least.number) if at_least is not None else (0, 0)
        packed = [
            READ.pack(
                *(began, ended, one.began, one.maker, epoch, number, one.version, one.thing, via),
                *(self._life, self._slot, HOWS.index(how), one.given, is_stale, is_final),
            )
            for one in shown
        ]
        with self._lock:
            self.reads += 1
            self._waiting += packed
            if len(self._waiting) >= 100:
                self._flush()

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        os.write(self._reads, b"".join(self._waiting))
        self._waiting.clear()

    def life(self, *, began: float, shape: str) -> None:
        self._note("life", asdict(Life(slot=self._slot, life=self._life, began=began, shape=shape)))

    def cut(self, cut: Cut) -> None:
        self._note("cut", asdict(cut))

    def trouble(self, what: str, detail: str) -> None:
        self._note("trouble", asdict(Trouble(slot=self._slot, life=self._life, at=time.monotonic(), what=what, detail=detail)))

    def counts(self, counts: dict[str, int]) -> None:
        """Numbers that are added up over all processes."""
        self._note("counts", counts)

    def slowest(self, slow: Slow) -> None:
        """The slowest call of this process."""
        self._note("slowest", slow._asdict())

    def _note(self, kind: str, said: dict[str, Any]) -> None:
        os.write(self._notes, json.dumps([kind, said]).encode() + b"\n")


def recall(folder: Path, *, max_lag: float, slack: float) -> History:
    """Read what all processes wrote. A last line or record that was torn by SIGKILL is left out."""
    history = History(reads=Reads(folder), max_lag=max_lag, slack=slack)
    for path in sorted(folder.glob("*.notes")):
        for line in path.read_bytes().splitlines():
            try:
                kind, said = cast("tuple[str, dict[str, Any]]", json.loads(line))
            except ValueError:
                continue
            match kind:
                case "cut":
                    history.cuts.append(_cut(said))
                case "life":
                    history.lives.append(Life(**said))
                case "trouble":
                    history.troubles.append(Trouble(**said))
                case "slowest":
                    history.slowest = max(history.slowest, Slow(**said))
                case _:
                    history.counts.update(said)
    return history


def _cut(said: dict[str, Any]) -> Cut:
    """JSON knows no tuples."""
    for name in ("patterns", "tags", "versions"):
        said[name] = tuple(said[name])
    return Cut(**said)


class Reads:
    """All reads, from the files, as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __iter__(self) -> Iterator[Read]:
        for path in sorted(self._folder.glob("*.reads")):
            packed = path.read_bytes()
            yield from map(Read._make, READ.iter_unpack(packed[: len(packed) - len(packed) % READ.size]))

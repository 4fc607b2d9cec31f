"""The demonstration on a screen: each scene as a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, TextIO

from cachesync.cli import wants_colour
from cachesync.demo.story import Asked, Changed, Crowd, Scene, Spread, Traffic, Verdict
from cachesync.demo.traffic import ZIPF

COLOURS: Final = {
    "computed": "33",
    "Redis hit": "36",
    "local hit": "32",
    "waited": "34",
    "bold": "1",
    "dim": "2",
    "good": "1;32",
    "bad": "1;31",
}
WIDTH: Final = 28
FASTEST: Final = 0.001
SLOWEST: Final = 1000.0
"""The ends of the bars in ms; their scale is logarithmic."""


def took(ms: float) -> str:
    """A time with the unit that suits it, nine characters wide."""
    if ms < 1:
        return f"{1000 * ms:6.1f} µs" if ms < 0.1 else f"{1000 * ms:6.0f} µs"
    return f"{ms:6.1f} ms" if ms < 1000 else f"{ms / 1000:6.2f} s "


class Screen:
    """Writes scenes to a stream as they come."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._coloured = wants_colour(stream)
        encoding = (stream.encoding or "ascii").replace("-", "").casefold()
        self._block, self._rest, self._micro = ("█", "·", "µ") if encoding.startswith("utf") else ("#", ".", "u")

    def say(self, *lines: str) -> None:
        """Write lines, at once."""
        self._stream.writelines(line.replace("µ", self._micro) + "\n" for line in lines)
        self._stream.flush()

    def paint(self, text: str, colour: str) -> str:
        """The text in a colour of `COLOURS`, where colours are wanted."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self._coloured else text

    def heading(self, text: str) -> None:
        """Begin a scene."""
        self.say("", self.paint(text, "bold"))

    def show(self, scene: Scene) -> None:
        """Write one scene."""
        match scene:
            case Asked():
                self._asked(scene)
            case Crowd():
                self._crowd(scene)
            case Changed():
                self._changed(scene)
            case Traffic():
                self._traffic(scene)
            case Verdict():
                self._verdict(scene)

    def _asked(self, scene: Asked) -> None:
        self.heading(f"{scene.title}: GET {scene.path} at {scene.worker}")
        self.say(self._timed(scene.source, scene.function_ms, scene.client_ms))

    def _timed(self, source: str, function_ms: float, client_ms: float) -> str:
        share = math.log(max(function_ms, FASTEST) / FASTEST) / math.log(SLOWEST / FASTEST)
        bar = self.paint(self._block * max(1, min(WIDTH, round(WIDTH * share))), source)
        return f"  {self.paint(f'{source:10}', source)} in the function {took(function_ms)}  client {took(client_ms)}  {bar}"

    def _crowd(self, scene: Crowd) -> None:
        self.heading(f"{scene.callers} callers at once at both workers, nothing cached: GET {scene.path}")
        times = self.paint("once", "good") if scene.computed == 1 else self.paint(f"{scene.computed} times", "bad")
        self.say(
            self._timed("computed", scene.function_ms, scene.slowest_ms),
            f"  computed {times} over both; the client's time is that of the slowest caller",
        )

    def _changed(self, scene: Changed) -> None:
        self.heading('An administrator renames the store at A: POST /admin/sync, then cache.invalidate("stores:*")')
        self.say(f"  announced  {took(scene.announce_ms)}  for the call of invalidate(): applied at A, written to the log")
        for name, answered in scene.names.items():
            inside = f"{took(scene.function_ms[name]).strip()} of it in the function"
            self.say(f"  fresh at {name} {took(scene.fresh_ms[name])}  after that call, {inside}: {answered}")
        old = f"{scene.old_answers} old answers" if scene.old_answers else "no old answer"
        self.say(f"  B was asked all the while: {old} after A had its acknowledgement")

    def _traffic(self, scene: Traffic) -> None:
        per_second = scene.requests / scene.seconds if scene.seconds else 0.0
        self.heading(
            f"Traffic: {scene.requests:,} requests over both workers, popularity after Zipf (exponent {ZIPF}),"
            f" {scene.changes} changes of a store"
        )
        labels = {"local_hits": "local hit", "shared_hits": "Redis hit", "joined": "waited", "computed": "computed"}
        total = sum(scene.sources.values()) or 1
        for name, label in labels.items():
            share = scene.sources[name] / total
            filled = round(WIDTH * share)
            bar = self.paint(self._block * filled, label) + self.paint(self._rest * (WIDTH - filled), "dim")
            self.say(f"  {self.paint(f'{label:10}', label)} {scene.sources[name]:7,}  {share:6.1%}  {bar}")
        saved = f"{scene.computing_ms / 1000:.0f} s waited for SQLite instead of about {scene.uncached_ms / 1000:.0f} s"
        self.say(f"  hit rate   {self.paint(f'{scene.hit_rate:.1%}', 'good')}, {per_second:,.0f} requests/s, {saved}")
        self.say(self.paint(f"  {'':22}{'p50':>9}   {'p99':>9}", "dim"), *self._spreads(scene))

    def _spreads(self, scene: Traffic) -> Iterator[str]:
        rows: dict[str, Spread] = {
            "client": scene.client,
            "function": scene.function,
            "function, when cached": scene.hits,
            "function, computed": scene.computations,
        }
        for label, spread in rows.items():
            yield f"  {label:22}{took(spread.p50)}   {took(spread.p99)}"

    def _verdict(self, scene: Verdict) -> None:
        if scene.problems:
            self.heading(self.paint(f"WRONG: {len(scene.problems)} of {scene.answers:,} answers were not what they had to be", "bad"))
            self.say(*(f"  {problem}" for problem in scene.problems[:10]))
            return
        self.heading(self.paint(f"All {scene.answers:,} answers were fresh", "good") + ": each was held against the log of changes.")
        if scene.behind:
            self.say(
                f"  {scene.behind} were asked for within {scene.longest_behind_ms:.1f} ms of a change, before their worker had heard of it."
            )

"""Switches: how caching is turned down in a running system, and what settings from several places mean together.

``all`` and each policy have a mode: ``full`` is everything as the policies say. ``ttl`` serves copies and entries by their lifetimes
alone: no invalidation is looked at, and the log need not be heard. ``headers`` leaves HTTP validators only, which for a function is as
``off``: it is called each time. The layers ``local`` and ``redis`` are ``on`` or ``off``. Of settings that meet, the most cautious
counts.

As text a target is ``all``, ``local``, ``redis`` or ``policy.NAME``, and whatever is not named is ``full`` or ``on``. The state for all
processes is one JSON object, ``{"v":1767225600000,"s":{"all":"ttl"}}``: ``v`` is its version, which only grows, and ``s`` what is switched.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, cast

import xxhash

from cachesync.core.rules import listed, nearest
from cachesync.core.units import as_written
from cachesync.errors import SwitchError

Mode = Literal["off", "headers", "ttl", "full"]
MODES: Final[tuple[Mode, ...]] = ("off", "headers", "ttl", "full")
"""The most cautious first."""
BYPASSES: Final = frozenset[Mode](("off", "headers"))
"""Modes in which a function is called each time."""
POSITIONS: Final = ("off", "on")
ALL: Final = "all"
LOCAL: Final = "local"
REDIS: Final = "redis"
LAYERS: Final = (LOCAL, REDIS)
_POLICY: Final = "policy."
_USUAL: Final = frozenset(("full", "on"))
NAMES_SHOWN: Final = 10


class Thrown(NamedTuple):
    """What is switched for all processes, by target, in the order of the targets. ``version`` is 0 where nothing ever was."""

    version: int
    switched: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """As it is written in a shared layer, and on the log's channel."""
        return json.dumps({"v": self.version, "s": dict(self.switched)}, separators=(",", ":"))


NOTHING_THROWN: Final = Thrown(0)


def is_thrown(message: str) -> bool:
    """Whether a message of the log's channel tells what is switched, and is no record."""
    return message.startswith('{"v":')


def read_thrown(text: str) -> Thrown:
    """Read what is switched for all. Raises ``ValueError`` for what does not say it."""
    try:
        fields = cast("dict[str, Any]", json.loads(text))
        if type(fields["v"]) is not int:
            raise ValueError("a version is a whole number")
        return Thrown(fields["v"], tuple(sorted((str(target), str(value)) for target, value in fields["s"].items())))
    except (TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"this does not say what is switched: {error!r}") from error


# --- what is asked for ------------------------------------------------------------------------------------------------------------


def switchable(policies: Iterable[str]) -> tuple[str, ...]:
    """All that can be switched, in full, where these are the names of policies."""
    return (ALL, *LAYERS, *(_POLICY + name for name in policies))


def read_switch(target: str, value: str, policies: Collection[str], switched: Collection[str] = ()) -> tuple[str, str]:
    """One switch as somebody wrote it: the target in full, and the value. Raises `SwitchError`, which says what would be right.

    A policy may be named without ``policy.`` in front, unless it is called as one of the others. ``switched`` are the targets that are
    switched now: they can be taken back, also where there is no policy of that name any more.
    """
    full = _read_target(target, policies, switched)
    known: tuple[str, ...] = POSITIONS if full in LAYERS else MODES
    if value not in known:
        right = nearest(value, known) or ("off" if value in {"false", "0", "no"} else known[-1])
        raise SwitchError(f"{as_written(value)} is nothing that {as_written(target)} can be: {listed(known)}; write {as_written(right)}")
    return full, value


def _read_target(target: str, policies: Collection[str], switched: Collection[str]) -> str:
    if target == ALL or target in LAYERS:
        return target
    name = target.removeprefix(_POLICY)
    if name in policies or _POLICY + name in switched:
        return _POLICY + name
    likely = nearest(name, (ALL, *LAYERS, *policies))
    shown = listed((ALL, *LAYERS, *sorted(policies)[:NAMES_SHOWN])) + (", ..." if len(policies) > NAMES_SHOWN else "")
    raise SwitchError(f"{as_written(target)} is nothing to switch: {shown}" + (f"; write {as_written(likely)}" if likely else ""))


def read_switches(text: str, policies: Collection[str]) -> dict[str, str]:
    """Several as one text: ``all=ttl,stores=off``. Raises `SwitchError` with every mistake in it, one on a line."""
    found: dict[str, str] = {}
    mistakes: list[str] = []
    for part in text.split(","):
        target, equals, value = (word.strip() for word in part.partition("="))
        try:
            if not equals:
                raise SwitchError(f'{as_written(part.strip())} is no switch; write TARGET=VALUE, such as "all=ttl,redis=off"')
            full, value = read_switch(target, value, policies)
            if full in found:
                raise SwitchError(f"{as_written(target)} is switched twice; write it once")
            found[full] = value
        except SwitchError as mistake:
            mistakes.append(str(mistake))
    if mistakes:
        raise SwitchError("\n".join(mistakes))
    return found


def changed(switched: Mapping[str, str], changes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What is switched after some changes. What is as usual is not named."""
    return {target: value for target, value in {**switched, **dict(changes)}.items() if value not in _USUAL}


# --- what holds -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Switches:
    """What is switched, by target, for one process: by its ``environment``, by calls in it (``here``), and for all (``everywhere``).

    ``version`` is that of ``everywhere``. A value that this version does not know counts as ``off``, the safe side. ``is_enabled``: what
    CACHESYNC_ENABLED says of this process; where that is false, everything is off, whatever is switched.
    """

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    here: Mapping[str, str] = field(default_factory=dict[str, str])
    everywhere: Mapping[str, str] = field(default_factory=dict[str, str])
    version: int = 0
    is_enabled: bool = True
    effective: Mapping[str, str] = field(init=False)
    """What counts of it, by target: what is as usual is left out."""
    local: bool = field(init=False)
    """Whether local memory is used."""
    redis: bool = field(init=False)
    """Whether the shared layer is asked for entries and leases."""
    is_usual: bool = field(init=False)
    """Whether everything is as the policies say: nothing is switched."""
    _mode: Mode = field(init=False, repr=False)
    _modes: Mapping[str, Mode] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        effective: dict[str, str] = {}
        for target, value in (pair for found in (self.environment, self.here, self.everywhere) for pair in found.items()):
            known: tuple[str, ...] = POSITIONS if target in LAYERS else MODES
            value = value if value in known else "off"
            before = effective.get(target, known[-1])
            effective[target] = min(before, value, key=known.index)
        mode = cast("Mode", effective.get(ALL, MODES[-1])) if self.is_enabled else MODES[0]
        modes = {
            target.removeprefix(_POLICY): min(mode, cast("Mode", value), key=MODES.index)
            for target, value in effective.items()
            if target.startswith(_POLICY)
        }
        found = {target: effective[target] for target in sorted(effective) if effective[target] not in _USUAL}
        is_usual = self.is_enabled and not found
        layers = {"local": LOCAL not in found, "redis": REDIS not in found}
        parts = {"effective": found, "is_usual": is_usual, **layers, "_mode": mode, "_modes": modes}
        for name, part in parts.items():
            object.__setattr__(self, name, part)

    def mode_of(self, policy: str) -> Mode:
        """How the values of a policy are cached now, by its name."""
        return self._modes.get(policy, self._mode)

    def are_usual(self, policies: Iterable[str]) -> bool:
        """Whether the values of these policies, by their names, are all cached as the policies say."""
        return self.is_usual or all(self.mode_of(name) == MODES[-1] for name in policies)

    def of_policies(self, names: Iterable[str]) -> list[str]:
        """What is switched of the policies of these names, such as ``policy.stores=off``."""
        targets = (_POLICY + name for name in names)
        return [f"{target}={self.effective[target]}" for target in targets if target in self.effective]

    @property
    def thrown(self) -> Thrown:
        """What is switched for all, as it is written."""
        return Thrown(self.version, tuple(sorted(self.everywhere.items())))

    def switched_here(self, *changes: tuple[str, str]) -> Switches:
        """The same after a call in this process."""
        return replace(self, here=changed(self.here, changes))

    def told(self, thrown: Thrown) -> Switches:
        """The same with what is switched for all now."""
        return replace(self, everywhere=dict(thrown.switched), version=thrown.version)


# --- ramps ------------------------------------------------------------------------------------------------------------------------


def place_of(key: str) -> float:
    """Where a key stands among all keys, from 0 up to 1: a policy with ``ramp = 0.1`` caches those below 0.1.

    It is the XXH3 hash of the key's UTF-8, 64 bits with seed 0, divided by 2**64: the same in every process and every release.
    """
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) / 2**64

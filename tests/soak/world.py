"""What is cached: functions, keys, tags, and which invalidation concerns which of them.

Everything that a value shows is a `Thing`: it has a version at the origin, and an invalidation concerns it by one of its texts or
tags. A value may show several things: a page shows itself and the items it was made of. Matching is written here anew, so that the
checker does not believe the package.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

Family = Literal["items", "exact", "short", "pages", "books", "reports"]

GROUPS: Final = ("a", "ab", "z")
"""The first is a prefix of the second, and must not be taken for it."""
NUMBERS: Final = 4
EXACT: Final = 3
SHORT: Final = 3
PAGES: Final = 3
BOOKS: Final = 1
REPORTS: Final = 3
SHORT_TTL: Final = 1.0
LONG_TTL: Final = 300.0
STALE_WINDOW: Final = 0.3
"""How long items may be served stale after a soft invalidation, and short-lived values after their ttl or unheard of the log."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that values show. ``number`` is its place in `THINGS`, ``cell`` where the origin has its version.

    ``ttl`` is seconds. So are ``stale_window``, how long a value may be served after that or a soft invalidation, and ``deaf_window``,
    how long beyond ``max_lag`` it may be served where the log can not be heard. ``is_strict``: its policy makes every read confirm the
    head of the log. ``is_whole``: it is the value of a key, not only a part of one.
    """

    number: int
    family: Family
    args: tuple[str | int, ...]
    texts: frozenset[str]
    tags: frozenset[str]
    ttl: float
    cell: int
    is_strict: bool = False
    is_whole: bool = True
    stale_window: float = 0.0
    deaf_window: float = 0.0

    @property
    def text(self) -> str:
        """Its key, or that of the value it is a part of."""
        return key_of(self.family, self.args)


def key_of(family: Family, args: tuple[str | int, ...]) -> str:
    """The key of one call, as the templates of the worker's functions make it."""
    return ":".join((family, *map(str, args)))


def _things() -> tuple[Thing, ...]:
    things: list[Thing] = []

    def add(
        family: Family, *args: str | int, texts: Iterable[str] = (), tags: Iterable[str], ttl: float = LONG_TTL, of: Thing | None = None
    ) -> Thing:
        number = len(things)
        thing = Thing(
            number,
            family,
            args,
            frozenset((key_of(family, args), *texts)),
            frozenset(tags),
            ttl,
            number if of is None else of.cell,
            is_strict=family == "exact",
            is_whole=of is None,
            stale_window=STALE_WINDOW if family in {"items", "short"} else 0.0,
            deaf_window=STALE_WINDOW if family == "short" else 0.0,
        )
        things.append(thing)
        return thing

    for group in GROUPS:
        for number in range(NUMBERS):
            add("items", group, number, tags=(f"group:{group}", f"number:{number}", "items"))
    for number in range(EXACT):
        add("exact", number, tags=("exact", f"number:{number}"))
    for number in range(SHORT):
        add("short", number, tags=("short",), ttl=SHORT_TTL)
    items = {thing.args: thing for thing in things if thing.family == "items"}
    # A page is dead when what it was made of is: it inherits the keys and tags of the items it calls.
    pages: list[Thing] = []
    for number in range(PAGES):
        inside = [items[group, number] for group in GROUPS]
        inherited = {tag for item in inside for tag in item.tags}
        pages.append(add("pages", number, texts=[item.text for item in inside], tags={"pages", *inherited}))
    for number in range(BOOKS):
        inside = pages[number : number + 2]
        inherited = {text for page in inside for text in page.texts}
        add("books", number, texts=inherited, tags={"books", *(tag for page in inside for tag in page.tags)})
    # A report reads the origin of two items itself and says so: by their keys, by their tags, or by tags taken from the result.
    for number in range(REPORTS):
        inside = [items["a", NUMBERS - 1], items["ab", number]]
        by_key = number == 0
        texts = [item.text for item in inside] if by_key else []
        tags = ("reports",) if by_key else ("reports", *(tag for item in inside for tag in item.tags))
        add("reports", number, texts=texts, tags=tags)
        for item in inside:
            add("reports", number, texts=texts, tags=tags, of=item)
    return tuple(things)


THINGS: Final = _things()
WHOLES: Final = tuple(thing for thing in THINGS if thing.is_whole)
BY_TEXT: Final = {thing.text: thing for thing in WHOLES}
ITEMS: Final = tuple(thing for thing in WHOLES if thing.family == "items")


def parts_of(thing: Thing) -> tuple[Thing, ...]:
    """The other things that the value of a report shows."""
    return tuple(other for other in THINGS if other.text == thing.text and other is not thing)


@lru_cache(maxsize=4096)
def concerned(patterns: tuple[str, ...], tags: tuple[str, ...]) -> frozenset[int]:
    """The numbers of all things that an invalidation concerns: ``*`` in a pattern stands for any text."""
    expressions = [re.compile(".*".join(map(re.escape, pattern.split("*")))) for pattern in patterns]
    wanted = frozenset(tags)
    return frozenset(
        thing.number
        for thing in THINGS
        if thing.tags & wanted or any(expression.fullmatch(text) for expression in expressions for text in thing.texts)
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """An invalidation that is going to be made: ``how`` is its row in the table of counts."""

    how: str
    patterns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def plan(draw: random.Random, thing: Thing) -> Plan:
    """One of the ways to invalidate ``thing``."""
    family, text = thing.family, thing.text
    group = f"items:{thing.args[0]}" if family == "items" else family
    roll = draw.random()
    if roll < 0.40:
        return Plan("key of the function", (text,))
    if roll < 0.60:
        return Plan("key as text", (text,))
    if roll < 0.75:
        return Plan("tag", tags=(draw.choice(sorted(thing.tags)),))
    if roll < 0.84:
        return Plan("prefix", (draw.choice((f"{group}:*", f"{group}*", f"{text[:-1]}*")),))
    if roll < 0.92:
        return Plan("glob", (draw.choice((f"*{text[2:]}", f"{text[:3]}*:{thing.args[-1]}")),))
    if roll < 0.98:
        other = draw.choice(WHOLES)
        return Plan("several at once", (text, other.text, f"{group}:*"), (draw.choice(sorted(other.tags)),))
    return Plan("everything", ("*",))

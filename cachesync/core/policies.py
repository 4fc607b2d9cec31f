"""Several policies, and the one that a key or a key template gets: of the patterns that match, the most specific."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Final

from cachesync.core.patterns import DIGITS, HOLE, Pattern, covers, intersects
from cachesync.core.policy import Policy
from cachesync.core.rules import Problem, dotted, listed
from cachesync.core.units import as_written
from cachesync.errors import KeyTemplateError, PolicyError

_MEMO: Final = 4096
MOST_TIES: Final = 1000
"""So many ties are told at once; whoever has more has another problem."""


def ties(patterns: Mapping[str, Pattern]) -> list[tuple[str, str]]:
    """Pairs of names whose patterns are equally specific while one key can match both, in their order, at most `MOST_TIES`.

    Patterns with as many literal characters are sorted by prefix, the text before the first star. So each is compared only with those
    whose prefix begins its own: none of the others can have a key with it. Tens of thousands of ``<kind>:*`` take no time; patterns
    that begin with a star are still compared in pairs.
    """
    ranks: dict[int, list[tuple[str, Pattern]]] = {}
    for name, pattern in patterns.items():
        ranks.setdefault(pattern.literals, []).append((name, pattern))
    order = {name: place for place, name in enumerate(patterns)}
    found = ((min(pair, key=order.__getitem__), max(pair, key=order.__getitem__)) for rank in ranks.values() for pair in _ties_of(rank))
    return sorted(islice(found, MOST_TIES), key=lambda pair: (order[pair[1]], order[pair[0]]))


def _ties_of(rank: list[tuple[str, Pattern]]) -> Iterator[tuple[str, str]]:
    """The pairs of one rank that tie, in any order."""
    begun: list[tuple[str, Pattern]] = []
    """Those whose prefix begins the one at hand, the shortest first."""
    for name, pattern in sorted(rank, key=lambda named: named[1].prefix):
        while begun and not pattern.prefix.startswith(begun[-1][1].prefix):
            begun.pop()
        for other, rival in begun:
            if pattern.overlaps(rival):
                yield other, name
        begun.append((name, pattern))


def tie(pattern: Pattern, name: str, rival: Pattern, other: str, where: str = "") -> Problem:
    """Says that the ``pattern`` of policy ``name`` ties with the ``rival`` of policy ``other``, which stands ``where``."""
    return Problem(
        ("policy", name, "match"),
        f"{as_written(pattern.text)} ties with {as_written(rival.text)} of {dotted(('policy', other))}{where}:"
        f" both have the same number of literal characters ({rival.literals}) and one key can match both; make one of them more specific",
    )


class Policies:
    """The policies of one file, in its order. A name stands once, and no key has two equally specific policies (``PolicyError``)."""

    __slots__ = ("_by_name", "_memo", "_ranked")

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        given = tuple(policies)
        self._by_name: Mapping[str, Policy] = {policy.name: policy for policy in given}
        self._ranked = tuple(sorted(given, key=lambda policy: -policy.pattern.literals))
        self._memo: dict[str, Policy | None] = {}
        problems = [
            Problem(("policy", name), f"this name stands {count} times; give each policy its own")
            for name, count in Counter(policy.name for policy in given).items()
            if count > 1
        ]
        patterns = {name: policy.pattern for name, policy in self._by_name.items()}
        problems += [tie(patterns[name], name, patterns[other], other) for other, name in ties(patterns)]
        if problems:
            raise PolicyError(*map(str, problems))

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policies) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Policies({list(self)!r})"

    def get(self, name: str) -> Policy | None:
        """The policy of that name."""
        return self._by_name.get(name)

    def match(self, key_text: str) -> Policy | None:
        """The policy of a key: of the patterns that match, the one with the most literal characters. Answers are remembered."""
        memo = self._memo
        try:
            return memo[key_text]
        except KeyError:  # not asked for by `in`: another thread may clear the memo in between
            pass
        found = next((policy for policy in self._ranked if policy.pattern.matches(key_text)), None)
        if len(memo) >= _MEMO:
            memo.clear()
        memo[key_text] = found
        return found

    def for_shape(self, shape: str) -> Policy:
        """The policy of every key of a template (see `patterns`). Raises ``KeyTemplateError`` if there is none, or more than one."""
        readable = shape.replace(HOLE, "{}").replace(DIGITS, "{}")
        for policy in self._ranked:
            if covers(policy.pattern, shape):
                return policy
            if intersects(policy.match, shape):
                raise KeyTemplateError(
                    f"policy.{policy.name} (match = {as_written(policy.match)}) matches only a part of the keys of the template"
                    f" {as_written(readable)}; write a pattern that matches all of them, or another template for the rest"
                )
        if not self._ranked:
            raise KeyTemplateError(f"no policy matches the keys of the template {as_written(readable)}: there is no policy at all")
        patterns = [policy.match for policy in self]
        near = next(iter(get_close_matches(readable, patterns, 1, 0.0)), patterns[0])
        tried = listed(patterns[:20]) + (f" and {len(patterns) - 20} more" if len(patterns) > 20 else "")
        raise KeyTemplateError(
            f"no policy matches the keys of the template {as_written(readable)}; tried {tried}; the nearest is {as_written(near)}"
        )

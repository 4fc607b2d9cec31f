"""Groups: opaque names by which an answer and an invalidation find each other (``Cache-Groups``, RFC 9875; events).

An answer is given the groups of what it depends on. An invalidation is turned into the groups that it concerns, without knowing any
answer. More may be concerned than is out of date, never less. In plain, a group is one of these:

=============== ==========================================================================================================
group           of an answer, and which invalidations name it
=============== ==========================================================================================================
``k:<key>``     depends on this key; an invalidation of the key
``p:<prefix>``  depends on a key that begins so; one of this prefix, which ends at a colon
``t:<tag>``     depends on this tag; one of the tag
``y:<policy>``  depends on a key of this policy; one of a pattern, or of very many texts, that may concern such keys
``f:<policy>``  the same, for an answer that would have too many groups; every one that may concern keys of the policy
``t:``          depends on tags, for such an answer; every one of a tag
``a:``          depends on more than is told apart; every one
``*``           every answer; one of everything, or of nearly everything
=============== ==========================================================================================================

A key that no policy matches belongs to the policy ``""``. What is sent is a keyed hash of a plain group and a *scope*: the identity of
the caller whom private data belongs to, or ``""`` for public data. So groups tell nothing about keys, and those of two users can not be
compared.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from cachesync.core.entry import Dependency
from cachesync.core.patterns import Pattern, covers
from cachesync.core.policies import Policies
from cachesync.core.policy import Policy
from cachesync.core.records import EVERYTHING, KEY, PREFIX, TAG, Targets

NO_POLICY: Final = ""
PUBLIC: Final = ""
"""The scope of public data."""
EVERY_ANSWER: Final = "*"
ANYTHING: Final = "a:"
TAGS: Final = "t:"
"""No tag is empty."""
MOST_OF_ANSWER: Final = 32
"""Groups of one answer."""
MOST_TEXTS: Final = 128
"""Texts of one record that are named one by one."""
MOST_CONCERNS: Final = 512
"""Groups of one invalidation. Where it would have more, it names every answer."""
LENGTH: Final = 12
"""Characters of an opaque group: 60 bits in base32 (RFC 4648, 6), in lower case."""
_MEMO: Final = 8192


def is_public(policy: Policy) -> bool:
    """May its data be shown to everybody?"""
    return policy.http is not None and policy.http.visibility == "public"


class Concern(NamedTuple):
    """A plain group that an invalidation names, and the policies whose data it is about; ``None`` for any."""

    plain: str
    policies: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Audience:
    """A caller, and of which policies' data they may hear. ``identity`` is ``""`` for a caller who is nobody in particular.

    The policy ``""`` is in either set that is not empty.
    """

    identity: str
    public: frozenset[str]
    private: frozenset[str]

    @classmethod
    def of(cls, policies: Policies, identity: str | None, entitled: Callable[[str | None, str], bool]) -> Audience:
        """``entitled`` is asked once for each policy, with the identity (``None`` for nobody) and the policy's name."""
        heard = [policy for policy in policies if entitled(identity or None, policy.name)]
        public = {policy.name for policy in heard if is_public(policy)}
        private = {policy.name for policy in heard if not is_public(policy)}
        return cls(identity or "", *(frozenset({*names, NO_POLICY}) if names else frozenset[str]() for names in (public, private)))


def by_identity(policies: Policies) -> Callable[[str | None, str], bool]:
    """Who may hear of what where nobody says otherwise: of public data everybody, of private data whoever has an identity."""
    public = {policy.name for policy in policies if is_public(policy)}
    return lambda identity, policy: identity is not None or policy in public


def concerns_of(policies: Policies, targets: Iterable[Targets]) -> tuple[Concern, ...]:
    """The plain groups of an invalidation. Very many become fewer that say more."""
    found: dict[Concern, None] = {}
    touched: set[str] | None = set()
    for one in targets:
        names = touched_by(policies, one)
        touched = None if touched is None or names is None else touched | names
        if one.kind == EVERYTHING:
            return (Concern(EVERY_ANSWER, None),)
        if len(one.texts) <= MOST_TEXTS:
            found |= dict.fromkeys(_named(policies, one))
        else:
            found |= _of_each("y:", _all_names(policies) if names is None else names)
        if one.kind == TAG:
            found[Concern(TAGS, None)] = None
        elif names is not None:
            found |= _of_each("f:", names)
    about = None if touched is None else frozenset(touched)
    if len(found) > MOST_CONCERNS:
        return (Concern(EVERY_ANSWER, about),)
    return (*found, Concern(ANYTHING, about)) if found else ()


def _of_each(kind: str, names: Iterable[str]) -> dict[Concern, None]:
    return {Concern(f"{kind}{name}", frozenset({name})): None for name in sorted(names)}


def _all_names(policies: Policies) -> set[str]:
    return {NO_POLICY, *(policy.name for policy in policies)}


def _named(policies: Policies, targets: Targets) -> Iterator[Concern]:
    """Each text for itself."""
    for text in targets.texts:
        if targets.kind == TAG:
            yield Concern(f"t:{text}", None)
        elif targets.kind == KEY:
            yield Concern(f"k:{text}", frozenset({_name_of(policies, text)}))
        elif targets.kind == PREFIX and text.endswith(":"):
            yield Concern(f"p:{text}", frozenset(_overlapping(policies, text + "*")))
        else:
            yield from _of_each("y:", _overlapping(policies, text + "*" if targets.kind == PREFIX else text))


def touched_by(policies: Policies, targets: Targets) -> set[str] | None:
    """The policies whose keys are concerned. Of a tag nobody knows, nor of everything: ``None``."""
    if targets.kind in (TAG, EVERYTHING):
        return None
    if targets.kind == KEY:
        return {_name_of(policies, text) for text in targets.texts}
    end = "*" if targets.kind == PREFIX else ""
    return {name for text in targets.texts for name in _overlapping(policies, text + end)}


def _name_of(policies: Policies, key: str) -> str:
    policy = policies.match(key)
    return NO_POLICY if policy is None else policy.name


def _overlapping(policies: Policies, text: str) -> set[str]:
    pattern = Pattern.parse(text)
    names = {policy.name for policy in policies if policy.pattern.overlaps(pattern)}
    return names if any(covers(policy.pattern, pattern.text) for policy in policies) else {*names, NO_POLICY}


class Groups:
    """Makes plain groups opaque, with a key that is made from ``secret``. The same in every process that has the same secret."""

    __slots__ = ("name",)

    def __init__(self, secret: str) -> None:
        key = hashlib.blake2b(secret.encode("utf-8", "surrogatepass")).digest()

        @lru_cache(_MEMO)
        def name(scope: str, plain: str) -> str:
            text = f"{len(scope)}:{scope}{plain}".encode("utf-8", "surrogatepass")
            return base64.b32encode(hashlib.blake2b(text, digest_size=8, key=key).digest())[:LENGTH].decode("ascii").lower()

        self.name: Callable[[str, str], str] = name
        """The opaque group of a scope and a plain group."""

    def of_answer(self, policies: Policies, dependencies: Iterable[Dependency], identity: str | None = None) -> tuple[str, ...]:
        """The groups of an answer: at most `MOST_OF_ANSWER`. Its ``dependencies`` are the keys that were read and all that those values
        depend on; ``identity`` is the caller's, ``None`` for a caller who is nobody in particular.
        """
        keys: dict[str, Policy | None] = {}
        tags: dict[str, None] = {}
        is_anything = False
        for kind, text in dependencies:
            if kind == KEY:
                keys[text] = policies.match(text)
            elif kind == TAG:
                tags[text] = None
            else:
                is_anything = True
        owners = [policy for policy in keys.values() if policy is not None]
        own = PUBLIC if all(map(is_public, owners or policies)) else identity or ""  # the scope of what belongs to no policy

        def scope(policy: Policy | None) -> str:
            return own if policy is None else PUBLIC if is_public(policy) else identity or ""

        names = {NO_POLICY if policy is None else policy.name: scope(policy) for policy in keys.values()} or {NO_POLICY: own}
        always = [(own, ANYTHING), (PUBLIC, EVERY_ANSWER)] if is_anything else [(PUBLIC, EVERY_ANSWER)]

        def told_apart() -> Iterator[tuple[str, str]]:
            yield from ((scope(policy), f"k:{key}") for key, policy in keys.items())
            yield from ((own, f"t:{tag}") for tag in tags)
            yield from ((where, f"y:{name}") for name, where in names.items())
            yield from ((scope(policy), f"p:{prefix}") for key, policy in keys.items() for prefix in _prefixes(key))

        folded = [*((where, f"f:{name}") for name, where in names.items()), *([(own, TAGS)] if tags else [])]
        room = MOST_OF_ANSWER - len(always)
        plain = next((few for few in (_few(told_apart(), room), _few(folded, room)) if few is not None), [(own, ANYTHING)])
        return tuple(self.name(where, text) for where, text in dict.fromkeys((*plain, *always)))

    def of_invalidation(self, concerns: Iterable[Concern], audience: Audience) -> tuple[str, ...]:
        """The groups of an invalidation that a caller may hear of; none where it concerns nothing of theirs."""
        return tuple(self.name(scope, plain) for scope, plain in dict.fromkeys(heard_of(concerns, audience)))


def heard_of(concerns: Iterable[Concern], audience: Audience) -> Iterator[tuple[str, str]]:
    """The scopes and plain groups of an invalidation that a caller may hear of."""
    for plain, policies in concerns:
        for names, scope in ((audience.public, PUBLIC), (audience.private, audience.identity)):
            if names if policies is None else not names.isdisjoint(policies):
                yield (PUBLIC if plain == EVERY_ANSWER else scope), plain


def _few(found: Iterable[tuple[str, str]], room: int) -> list[tuple[str, str]] | None:
    """Each of them once, ``None`` if they are more than there is room for."""
    distinct: dict[tuple[str, str], None] = {}
    for one in found:
        distinct[one] = None
        if len(distinct) > room:
            return None
    return list(distinct)


def _prefixes(key: str) -> Iterator[str]:
    return (key[: at + 1] for at, character in enumerate(key) if character == ":")

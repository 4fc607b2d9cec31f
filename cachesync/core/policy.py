"""Policies as values: how long each kind of data may live where, and what may happen when it is old.

A class here is one table of the policy file. Its ``rules`` are the only place that says what a setting takes, what it means and
whether it has an effect in this version; the constructor, the model of the file and the JSON Schema all read them. What two settings
say about each other stands in ``conflicts``. Durations are seconds and sizes are bytes; both may be given as texts (``ttl="5m"``).
All mistakes are raised together, as one ``PolicyError``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import ClassVar, Final, Literal, NamedTuple, cast
from urllib.parse import urlsplit

from cachesync.core.patterns import DIGITS, HOLE, Pattern, covers, intersects
from cachesync.core.units import SIZE_PATTERN, as_written, read_duration, read_size
from cachesync.errors import KeyTemplateError, PolicyError

DYNAMIC: Final = "dynamic"
_MEMO: Final = 4096

SettingPath = tuple[str | int, ...]


class Problem(NamedTuple):
    """One mistake: the setting's path, and what is wrong with it."""

    path: SettingPath
    says: str


def dotted(path: SettingPath) -> str:
    """``policy.stores.tags[0]``; a name that is no bare word is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part) else as_written(part))
    return text


class ItemsError(ValueError):
    """Some items of a list are wrong: the index of each, and what is wrong with it."""

    def __init__(self, *items: tuple[int, str]) -> None:
        super().__init__("; ".join(f"[{index}]: {says}" for index, says in items))
        self.items = items


def told(wrong: ValueError, path: SettingPath) -> list[Problem]:
    """What a rule says about the setting at ``path``, one problem for each wrong item of a list."""
    if isinstance(wrong, ItemsError):
        return [Problem((*path, index), says) for index, says in wrong.items]
    return [Problem(path, str(wrong))]


# --- what one setting takes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """What one setting takes.

    ``read`` turns what was given into what is kept, leaves alone what it has read before, and raises ``ValueError`` saying what would
    be right. ``schema`` is the same for an editor. ``works`` is False while this version accepts the setting but does not act on it.
    """

    read: Callable[[object], object]
    schema: Mapping[str, object]
    about: str
    works: bool = True

    @property
    def is_duration(self) -> bool:
        """Does the setting take a duration, and so a name of one in the file?"""
        return self.schema is _DURATION_SCHEMA


_DURATION_SCHEMA: Final[Mapping[str, object]] = {
    "type": ["string", "number"],
    "minimum": 0,
    "examples": ["250ms", "30s", "5m", "1h30m", "2d"],
}


def _duration(about: str, *, zero: bool = False, optional: bool = False, dynamic: bool = False, works: bool = True) -> Rule:
    def read(value: object) -> float | None:
        if (value is None and (optional or dynamic)) or (dynamic and value == DYNAMIC):
            return None
        seconds = read_duration(value)
        if not seconds and not zero:
            raise ValueError(f'{as_written(value)} is not a duration above zero; write a longer one, such as "1s"')
        return seconds

    return Rule(read, _DURATION_SCHEMA, about, works)


def _number(
    about: str, low: float, high: float, *, open_low: bool = False, open_high: bool = False, optional: bool = False, works: bool = True
) -> Rule:
    span = f"{'above' if open_low else 'from'} {low:g} {'and below' if open_high else 'to'} {high:g}"

    def read(value: object) -> float | None:
        if value is None and optional:
            return None
        inside = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if not inside or (open_low and value == low) or (open_high and value == high):
            raise ValueError(f"{as_written(value)} is not a number {span}; write one, such as {(low + high) / 10:g}")
        return float(cast(float, value))

    bounds = {"exclusiveMinimum" if open_low else "minimum": low, "exclusiveMaximum" if open_high else "maximum": high}
    return Rule(read, {"type": "number", **bounds}, about, works)


def _whole(about: str, low: int, high: int) -> Rule:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{as_written(value)} is not a whole number from {low} to {high}; write one, such as {low}")
        return value

    return Rule(read, {"type": "integer", "minimum": low, "maximum": high}, about)


def _size(about: str, *, optional: bool = False, least: int = 0) -> Rule:
    def read(value: object) -> int | None:
        if value is None and optional:
            return None
        size = read_size(value)
        if size < least:
            raise ValueError(f'{as_written(value)} is too small; write at least "{least}B"')
        return size

    return Rule(read, {"type": ["string", "integer"], "minimum": least, "pattern": SIZE_PATTERN, "examples": ["16KiB", "256MiB"]}, about)


def _choice(about: str, *known: str, works: bool = True) -> Rule:
    def read(value: object) -> str:
        if isinstance(value, str) and value in known:
            return value
        raise ValueError(f"{as_written(value)} is not one of {_listed(known)}; write {as_written(nearest(value, known) or known[0])}")

    return Rule(read, {"enum": list(known)}, about, works)


def _flag(about: str, *, works: bool = True, refused: str = "") -> Rule:
    def read(value: object) -> bool:
        if isinstance(value, bool) and not (value and refused):
            return value
        likely = "true" if as_written(value).strip('"').casefold() in ("1", "yes", "on", "true") and not refused else "false"
        raise ValueError(refused if value is True else f"{as_written(value)} is not true or false; write {likely}, without quotes")

    return Rule(read, {"const": False} if refused else {"type": "boolean"}, about, works)


def _texts(about: str, *, works: bool = True) -> Rule:
    def read(value: object) -> tuple[str, ...]:
        items = _items(value)
        if items is None:
            example = as_written(value) if isinstance(value, str) else '"stores"'
            raise ValueError(f"{as_written(value)} is not a list of texts; write one, such as [{example}]")
        wrong = [index for index, item in enumerate(items) if not isinstance(item, str) or not item.isprintable() or not item.strip()]
        if wrong:
            hint = 'is not a text for this list; write a printable one, such as "stores"'
            raise ItemsError(*((index, f"{as_written(items[index])} {hint}") for index in wrong))
        return cast("tuple[str, ...]", items)

    return Rule(read, {"type": "array", "items": {"type": "string", "minLength": 1}}, about, works)


def _items(value: object) -> tuple[object, ...] | None:
    return tuple(cast("Collection[object]", value)) if isinstance(value, (list, tuple)) else None


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(map(as_written, texts))


def nearest(value: object, known: Iterable[str]) -> str | None:
    """The known word that is spelled most like ``value``, if any is."""
    return next(iter(get_close_matches(value[:100].casefold(), list(known), 1, 0.6)), None) if isinstance(value, str) else None


def _read_name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[a-z0-9_-]+", value):
        return value
    right = re.sub(r"[^a-z0-9_-]+", "-", as_written(value).casefold()).strip("-") or "stores"
    raise ValueError(f"{as_written(value)} is not a name; write {as_written(right)} (a-z, 0-9, _ and -)")


def _read_ttl_name(value: object) -> str:
    name = _read_name(value)
    if name == DYNAMIC or name[0].isdigit():
        raise ValueError(f'{as_written(name)} is not a name for a duration: it means something else; write one such as "short"')
    return name


def _read_match(value: object) -> str:
    if isinstance(value, str):
        return Pattern.parse(value).text
    raise ValueError(f'{as_written(value)} is not a pattern; write a text such as "stores:*"')


def _read_namespace(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and value.strip() == value != "" and len(value) <= 200:
        return value
    raise ValueError(f'{as_written(value)} is not a namespace; write 1 to 200 printable characters, such as "dashboard"')


def _read_http(value: object) -> HttpPolicy | None:
    if value is None or isinstance(value, HttpPolicy):
        return value
    raise ValueError(f"{as_written(value)} is not an HTTP policy; write HttpPolicy(...)")


REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
_LATER_SCHEMES: Final = tuple(f"{scheme}+{kind}" for kind in ("cluster", "sentinel") for scheme in ("redis", "rediss"))


def _read_redis_url(value: object) -> str:
    """The URL, unchanged. No message shows more of it than its scheme: the rest may hold a password."""
    hint = 'write one such as "redis://localhost:6379/0"'
    scheme, mark, _ = value.partition("://") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or not mark or not re.fullmatch(r"[a-z][a-z0-9+.-]{0,30}", scheme):
        raise ValueError(f"this is not a Redis URL; {hint}")
    if scheme in _LATER_SCHEMES:
        raise ValueError(f'"{scheme}://..." arrives in a later version; in this one, {hint}')
    if scheme not in REDIS_SCHEMES:
        raise ValueError(f'"{scheme}://..." is not a Redis URL; {hint}')
    if not value.isprintable() or " " in value or "#" in value:
        raise ValueError(f'"{scheme}://..." is not a Redis URL: a space or "#" in it must be written "%20" or "%23"')
    if not _is_address(scheme, value):
        raise ValueError(
            f'"{scheme}://..." is not a Redis URL: its host, port or database is wrong, or a "/", "?" or "@" in its password'
            f' is not written "%2F", "%3F" or "%40"; {hint}'
        )
    return value


def _is_address(scheme: str, url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message may quote the password
        return False
    if parts.netloc.count("@") > 1:
        return False
    if scheme == "unix":
        return len(parts.path) > 1
    return bool(parts.hostname) and port != 0 and bool(re.fullmatch(r"/?[0-9]{0,5}", parts.path))


NAMESPACE: Final = Rule(_read_namespace, {"type": "string", "minLength": 1, "maxLength": 200}, "Begins the name of everything in Redis.")
TTL_NAME: Final = Rule(_read_ttl_name, {"type": "string", "pattern": "^[a-z_-][a-z0-9_-]*$"}, "A name for a duration.")
TTL: Final = _duration("A duration that policies can name.")


# --- the tables -----------------------------------------------------------------------------------------------------------------


class Section:
    """One table of the policy file: every setting read by its rule, all mistakes reported together."""

    __slots__ = ()
    rules: ClassVar[Mapping[str, Rule]]

    @classmethod
    def defaults(cls) -> Mapping[str, object]:
        """What each setting is when it is left out; those that can not be left out are missing here."""
        parameters = inspect.signature(cls).parameters
        return {name: found.default for name, found in parameters.items() if found.default is not found.empty}

    @classmethod
    def conflicts(cls, values: Mapping[str, object], given: Collection[str]) -> Iterator[Problem]:
        """What is wrong between the settings. ``values`` holds those that were read; ``given`` names all, the wrong ones too."""
        return iter(())

    @classmethod
    def examine(cls, given: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
        """Read what was given: the values that are right, and every problem. Names without a rule are left out."""
        values: dict[str, object] = {}
        problems: list[Problem] = []
        for name, rule in cls.rules.items():
            if name in given:
                try:
                    values[name] = rule.read(given[name])
                except ValueError as wrong:
                    problems += told(wrong, (name,))
        problems += cls.conflicts(values, given.keys())
        return values, problems

    def without_effect(self) -> tuple[str, ...]:
        """The settings that differ from their default and that this version accepts without acting on them."""
        usual = self.defaults()
        return tuple(name for name, rule in self.rules.items() if not rule.works and getattr(self, name) != usual.get(name))

    def _settle(self, where: SettingPath, given: Mapping[str, object]) -> None:
        values, problems = self.examine(given)
        if problems:
            raise PolicyError(*(f"{dotted((*where, *problem.path))}: {problem.says}" for problem in problems))
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy(Section):
    """What browsers and proxies are told about answers made from this data. ``max_age=None`` means the policy's ``ttl``."""

    visibility: Literal["private", "public"]
    max_age: float | None
    stale_while_revalidate: float
    vary: tuple[str, ...]
    query_key: tuple[str, ...]
    etag: Literal["content", "stamp"]

    rules: ClassVar[Mapping[str, Rule]] = {
        "visibility": _choice(
            'Who may keep the answer: "private" the user\'s browser only, "public" shared caches too.', "private", "public", works=False
        ),
        "max_age": _duration(
            "What remains of it is what the browser is told; 0: ask every time, with an ETag.", zero=True, optional=True, works=False
        ),
        "stale_while_revalidate": _duration("How long a browser may show the old answer while it refreshes.", zero=True, works=False),
        "vary": _texts("Request headers that change the answer.", works=False),
        "query_key": _texts("How TanStack Query knows this data.", works=False),
        "etag": _choice(
            'What an ETag is made from: the "content", or the "stamp", which answers before the handler runs.',
            "content",
            "stamp",
            works=False,
        ),
    }

    def __init__(
        self,
        *,
        visibility: Literal["private", "public"] = "private",
        max_age: float | str | None = None,
        stale_while_revalidate: float | str = 0.0,
        vary: Collection[str] = (),
        query_key: Collection[str] = (),
        etag: Literal["content", "stamp"] = "content",
    ) -> None:
        self._settle(("http",), {name: value for name, value in locals().items() if name != "self"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Section):
    """What may happen to the values of one kind of key. ``ttl=None`` (or ``"dynamic"``): the decorated function decides.

    ``local_ttl`` is never longer than the value may live. ``pattern`` is ``match``, parsed.
    """

    name: str
    match: str
    ttl: float | None
    min_ttl: float | None
    max_ttl: float | None
    local_ttl: float | None
    stale_while_revalidate: float
    stale_if_error: float
    early_refresh: float | None
    jitter: float
    soft_timeout: float | None
    hard_timeout: float | None
    negative_ttl: float | None
    errors: float | None
    version: int
    tags: tuple[str, ...]
    consistency: Literal["bounded", "strict"]
    on_disconnect: Literal["bypass", "serve"]
    compress_over: int | None
    encrypt: bool
    shadow: float
    ramp: float
    mask: tuple[str, ...]
    copy: bool
    warm: tuple[str, ...]
    http: HttpPolicy | None
    pattern: Pattern = field(init=False, repr=False, compare=False)

    rules: ClassVar[Mapping[str, Rule]] = {
        "name": Rule(_read_name, {"type": "string"}, "The policy's name."),
        "match": Rule(
            _read_match, {"type": "string", "minLength": 1, "examples": ["stores:*"]}, "Which keys; the most specific pattern wins."
        ),
        "ttl": _duration('How long a value is fresh. "dynamic": the decorated function decides.', dynamic=True),
        "min_ttl": _duration("The least a dynamic ttl can be.", optional=True),
        "max_ttl": _duration("The most a dynamic ttl can be.", optional=True),
        "local_ttl": _duration("At most this long in one process without asking Redis.", zero=True, optional=True),
        "stale_while_revalidate": _duration(
            "After the ttl: answer with the old value, refresh behind the caller's back.", zero=True, works=False
        ),
        "stale_if_error": _duration("After the ttl: the old value, but only when the computation fails.", zero=True, works=False),
        "early_refresh": _number(
            "Refresh in the background from this fraction of the ttl on.", 0, 1, open_low=True, open_high=True, optional=True, works=False
        ),
        "jitter": _number("Spread expiry by this fraction, up and down.", 0, 1, open_high=True),
        "soft_timeout": _duration(
            "Longer than this, with a stale value at hand: answer with it, finish behind.", optional=True, works=False
        ),
        "hard_timeout": _duration("The longest a computation may take.", optional=True, works=False),
        "negative_ttl": _duration("None is cached this long.", optional=True),
        "errors": _duration("A failing function is left alone this long.", optional=True, works=False),
        "version": _whole("The schema of the value; raise it and older entries are never read again.", 1, 2**32 - 1),
        "tags": _texts("Tags added to what the decorator says."),
        "consistency": _choice('"strict": every read confirms the head of the log.', "bounded", "strict", works=False),
        "on_disconnect": _choice('What local copies are worth when the log can not be heard: "bypass" or "serve" them.', "bypass", "serve"),
        "compress_over": _size("Values larger than this are compressed.", optional=True),
        "encrypt": _flag(
            "Values at rest in Redis are encrypted.", refused="true is refused: encrypt is not available in this version; write false"
        ),
        "shadow": _number("This share of hits is recomputed behind the caller's back and compared.", 0, 1, works=False),
        "ramp": _number("Cache only this share of keys, the same in every process.", 0, 1, works=False),
        "mask": _texts("Key fields that logs, metrics, audit and the dashboard never show.", works=False),
        "copy": _flag("Hits return a private copy of the value."),
        "warm": _texts("Keys to compute after a start.", works=False),
        "http": Rule(_read_http, {}, "What browsers and proxies are told."),
    }

    def __init__(
        self,
        *,
        name: str,
        match: str,
        ttl: float | str | None,
        min_ttl: float | str | None = None,
        max_ttl: float | str | None = None,
        local_ttl: float | str | None = None,
        stale_while_revalidate: float | str = 0.0,
        stale_if_error: float | str = 0.0,
        early_refresh: float | None = None,
        jitter: float = 0.0,
        soft_timeout: float | str | None = None,
        hard_timeout: float | str | None = None,
        negative_ttl: float | str | None = None,
        errors: float | str | None = None,
        version: int = 1,
        tags: Collection[str] = (),
        consistency: Literal["bounded", "strict"] = "bounded",
        on_disconnect: Literal["bypass", "serve"] = "bypass",
        compress_over: int | str | None = None,
        encrypt: bool = False,
        shadow: float = 0.0,
        ramp: float = 1.0,
        mask: Collection[str] = (),
        copy: bool = False,
        warm: Collection[str] = (),
        http: HttpPolicy | None = None,
    ) -> None:
        self._settle(("policy", str(name)), {name: value for name, value in locals().items() if name != "self"})
        object.__setattr__(self, "pattern", Pattern.parse(self.match))
        if self.local_ttl is not None and self.local_ttl > self._longest_ttl:
            object.__setattr__(self, "local_ttl", self._longest_ttl)

    @classmethod
    def conflicts(cls, values: Mapping[str, object], given: Collection[str]) -> Iterator[Problem]:
        """Bounds belong to a dynamic ttl and only there; the lower of two is not above the higher."""
        bounds = {name: values.get(name) for name in ("min_ttl", "max_ttl")}
        for name, bound in bounds.items() if "ttl" in values else ():
            if values["ttl"] is None and bound is None and (name in values or name not in given):
                yield Problem(
                    (name,), f'missing; ttl = "dynamic" needs min_ttl and max_ttl, write {name} = "{"10s" if name == "min_ttl" else "1h"}"'
                )
            if values["ttl"] is not None and bound is not None:
                yield Problem((name,), 'only a dynamic ttl has bounds; leave it out, or write ttl = "dynamic"')
        for low, high in (("min_ttl", "max_ttl"), ("soft_timeout", "hard_timeout")):
            least, most = values.get(low), values.get(high)
            if isinstance(least, float) and isinstance(most, float) and least > most:
                yield Problem((low,), f"{least:g} seconds are more than the {most:g} seconds of {high}; write at most as much")

    def without_effect(self) -> tuple[str, ...]:
        """The policy's own settings, and those of its HTTP table as ``http.vary``; ``http`` for a table that changes nothing."""
        names = Section.without_effect(self)
        if self.http is None:
            return names
        return (*names, *(f"http.{name}" for name in self.http.without_effect())) if self.http.without_effect() else (*names, "http")

    @property
    def is_dynamic(self) -> bool:
        """Does the decorated function decide how long a value is fresh?"""
        return self.ttl is None

    @property
    def _longest_ttl(self) -> float:
        return cast(float, self.max_ttl if self.ttl is None else self.ttl)

    def lifetime(self, wanted: float | None = None) -> float:
        """Seconds a value is fresh: the ``ttl``, or what a dynamic one wanted within its bounds (nothing, or NaN: the least)."""
        if self.ttl is not None:
            return self.ttl
        least, most = cast(float, self.min_ttl), cast(float, self.max_ttl)
        return min(wanted, most) if wanted is not None and wanted >= least else least

    @property
    def longest_life(self) -> float:
        """Seconds after which no copy is served any more, whatever happened: longest freshness and the larger stale window."""
        fresh = max(self._longest_ttl * (1 + self.jitter), self.negative_ttl or 0.0)
        return fresh + max(self.stale_while_revalidate, self.stale_if_error)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings(Section):
    """Where Redis is. The URL may hold a password, so it is not shown by ``repr``."""

    url: str = field(repr=False)

    rules: ClassVar[Mapping[str, Rule]] = {
        "url": Rule(
            _read_redis_url,
            {"type": "string", "pattern": "^(rediss?|unix)://", "examples": ["redis://localhost:6379/0"]},
            "CACHESYNC_REDIS_URL wins.",
        )
    }

    def __init__(self, url: str) -> None:
        self._settle(("redis",), {"url": url})


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinationSettings(Section):
    """How processes keep in step. Durations in seconds."""

    max_lag: float
    budget: float
    lease: float
    durable: bool

    rules: ClassVar[Mapping[str, Rule]] = {
        "max_lag": _duration("Local copies are trusted this long without hearing the log."),
        "budget": _duration("What Redis may cost one call, all its steps together."),
        "lease": _duration("How long a computation holds its lease; extended while its holder lives."),
        "durable": _flag("true: wait for a replica on every invalidation.", works=False),
    }

    def __init__(self, *, max_lag: float | str = 2.0, budget: float | str = 0.25, lease: float | str = 10.0, durable: bool = False) -> None:
        self._settle(("coordination",), {"max_lag": max_lag, "budget": budget, "lease": lease, "durable": durable})


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings(Section):
    """How much local memory may hold, over all functions of one process."""

    max_entries: int
    max_bytes: int

    rules: ClassVar[Mapping[str, Rule]] = {
        "max_entries": _whole("Entries in one process.", 1, 10**9),
        "max_bytes": _size("Bytes in one process.", least=1),
    }

    def __init__(self, *, max_entries: int = 100_000, max_bytes: int | str = 268_435_456) -> None:
        self._settle(("local",), {"max_entries": max_entries, "max_bytes": max_bytes})


# --- the whole ------------------------------------------------------------------------------------------------------------------


def ties(patterns: Mapping[str, Pattern]) -> Iterator[tuple[str, str]]:
    """Pairs of names, in order, whose patterns are equally specific while one key can match both."""
    ranks: dict[int, list[tuple[str, Pattern]]] = {}
    for name, pattern in patterns.items():
        rank = ranks.setdefault(pattern.literals, [])
        for other, rival in rank:
            shorter, longer = sorted((pattern.prefix, rival.prefix), key=len)
            if longer.startswith(shorter) and intersects(rival.text, pattern.text):
                yield other, name
        rank.append((name, pattern))


def tie_text(pattern: Pattern, name: str, rival: Pattern, where: str = "") -> str:
    """Says that ``pattern`` ties with the one of policy ``name``."""
    return (
        f"{as_written(pattern.text)} ties with {as_written(rival.text)} of {dotted(('policy', name))}{where}:"
        f" both have the same number of literal characters ({rival.literals}) and one key can match both; make one of them more specific"
    )


class Policies:
    """The policies of one file, in its order. A name stands once, and no key has two equally specific policies (``PolicyError``)."""

    __slots__ = ("_by_name", "_memo", "_ranked")

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        given = tuple(policies)
        self._by_name: Mapping[str, Policy] = {policy.name: policy for policy in given}
        self._ranked = tuple(sorted(given, key=lambda policy: -policy.pattern.literals))
        self._memo: dict[str, Policy | None] = {}
        names = [policy.name for policy in given]
        problems = [
            f"policy.{name}: this name stands {names.count(name)} times; give each policy its own"
            for name in self._by_name
            if names.count(name) > 1
        ]
        patterns = {name: policy.pattern for name, policy in self._by_name.items()}
        problems += [f"policy.{name}.match: {tie_text(patterns[name], other, patterns[other])}" for other, name in ties(patterns)]
        if problems:
            raise PolicyError(*problems)

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
        if key_text in memo:
            return memo[key_text]
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
        tried = _listed(patterns[:20]) + (f" and {len(patterns) - 20} more" if len(patterns) > 20 else "")
        raise KeyTemplateError(
            f"no policy matches the keys of the template {as_written(readable)}; tried {tried}; the nearest is {as_written(near)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole policy file. ``redis=None``: one process, and everything still works. ``enabled=False``: every layer is bypassed.

    ``ttl`` holds the named durations in seconds; ``file`` is where it was read from.
    """

    namespace: str = "cachesync"
    redis: RedisSettings | None = None
    coordination: CoordinationSettings = field(default_factory=CoordinationSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    ttl: Mapping[str, float] = field(default_factory=dict[str, float])
    policies: Policies = field(default_factory=Policies)
    file: str | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        problems: list[str] = []
        try:
            NAMESPACE.read(self.namespace)
        except ValueError as wrong:
            problems.append(f"namespace: {wrong}")
        for name, seconds in self.ttl.items():
            try:
                TTL_NAME.read(name)
                TTL.read(seconds)
            except ValueError as wrong:
                problems.append(f"{dotted(('ttl', name))}: {wrong}")
        if problems:
            raise PolicyError(*problems)
        object.__setattr__(self, "ttl", MappingProxyType({name: cast(float, TTL.read(seconds)) for name, seconds in self.ttl.items()}))

    def without_effect(self) -> tuple[str, ...]:
        """The full names of all settings that were given and have no effect in this version."""
        found = [f"coordination.{name}" for name in self.coordination.without_effect()]
        return (*found, *(f"policy.{policy.name}.{name}" for policy in self.policies for name in policy.without_effect()))

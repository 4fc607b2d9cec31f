"""One policy as a value: how long one kind of data may live where, and what may happen when it is old.

Durations are seconds and sizes are bytes; both may be given as texts (``ttl="5m"``). All mistakes are raised together, as one
``PolicyError``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, cast

from cachesync.core.patterns import Pattern
from cachesync.core.rules import ItemsError, Problem, Rule, choice, duration, field_names, flag, number, or_word, size, texts, whole
from cachesync.core.section import Section
from cachesync.core.units import as_written


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy(Section):
    """What browsers and proxies are told about answers made from this data. ``max_age=None``: to ask each time."""

    visibility: Literal["private", "public"]
    max_age: float | None
    stale_while_revalidate: float
    vary: tuple[str, ...]
    query_key: tuple[str, ...]
    etag: Literal["content", "stamp"]
    respond_from_cache: bool

    rules: ClassVar[Mapping[str, Rule]] = {
        "visibility": choice(
            'Who may keep the answer: "private" the user\'s browser only, "public" shared caches too.', "private", "public"
        ),
        "max_age": duration("What remains of it is what the browser is told; 0 or left out: ask every time.", zero=True, optional=True),
        "stale_while_revalidate": duration("How long a browser may show the old answer while it refreshes.", zero=True),
        "vary": field_names("Request headers that change the answer."),
        "query_key": texts("How TanStack Query knows this data."),
        "etag": choice(
            'What confirms an ETag: the "content" of an answer, or the "stamp" of its data too, before the handler runs.',
            "content",
            "stamp",
        ),
        "respond_from_cache": flag("Whole answers are kept under this policy, by the response cache; its ttl is dynamic."),
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
        respond_from_cache: bool = False,
    ) -> None:
        self._settle(("http",), {name: value for name, value in locals().items() if name != "self"})


def _read_name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[a-z0-9_-]+", value):
        return value
    right = re.sub(r"[^a-z0-9_-]+", "-", as_written(value).casefold()).strip("-") or "stores"
    raise ValueError(f"{as_written(value)} is not a name; write {as_written(right)} (a-z, 0-9, _ and -)")


_KEYS: Final = texts("")
_PROVIDER: Final = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
"""``module:function``, as entry points are written."""


def _read_warm(value: object) -> tuple[str, ...] | str:
    if isinstance(value, str):
        if re.match(_PROVIDER, value, re.ASCII):
            return value
        likely = as_written([value]) if value.strip() else '["stores:JKT"]'
        raise ValueError(
            f'{as_written(value)} is not a function; write one such as "myapp.caches:popular", or keys in a list, such as {likely}'
        )
    if not isinstance(value, (list, tuple)):
        raise ValueError(
            f'{as_written(value)} is not a list of keys; write one, such as ["stores:JKT"], or a function: "myapp.caches:popular"'
        )
    keys = cast("tuple[str, ...]", _KEYS.read(cast("object", value)))
    hint = "is a pattern, and only whole keys can be computed; name the keys, or a function that returns them"
    patterns = [(index, f"{as_written(key)} {hint}") for index, key in enumerate(keys) if "*" in key]
    if patterns:
        raise ItemsError(*patterns)
    return keys


PROBABILISTIC: Final = "probabilistic"
"""An ``early_refresh`` that is the likelier the nearer the end is, and the longer the computation takes."""


def _read_match(value: object) -> str:
    if isinstance(value, str):
        return Pattern.parse(value).text
    raise ValueError(f'{as_written(value)} is not a pattern; write a text such as "stores:*"')


def _read_http(value: object) -> HttpPolicy | None:
    if value is None or isinstance(value, HttpPolicy):
        return value
    raise ValueError(f"{as_written(value)} is not an HTTP policy; write HttpPolicy(...)")


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
    early_refresh: float | Literal["probabilistic"] | None
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
    warm: tuple[str, ...] | str
    http: HttpPolicy | None
    pattern: Pattern = field(init=False, repr=False, compare=False)

    rules: ClassVar[Mapping[str, Rule]] = {
        "name": Rule(_read_name, {"type": "string"}, "The policy's name."),
        "match": Rule(
            _read_match, {"type": "string", "minLength": 1, "examples": ["stores:*"]}, "Which keys; the most specific pattern wins."
        ),
        "ttl": duration('How long a value is fresh. "dynamic": the decorated function decides.', dynamic=True),
        "min_ttl": duration("The least a dynamic ttl can be.", optional=True),
        "max_ttl": duration("The most a dynamic ttl can be.", optional=True),
        "local_ttl": duration("At most this long in one process without asking Redis.", zero=True, optional=True),
        "stale_while_revalidate": duration("After the ttl: answer with the old value, refresh behind the caller's back.", zero=True),
        "stale_if_error": duration("After the ttl: the old value, but only when the computation fails or takes too long.", zero=True),
        "early_refresh": or_word(
            PROBABILISTIC,
            number("Refresh in the background from this fraction of the ttl on.", 0, 1, open_low=True, open_high=True, optional=True),
        ),
        "jitter": number("Spread expiry by this fraction, up and down.", 0, 1, open_high=True),
        "soft_timeout": duration("Longer than this, with a stale value at hand: answer with it, finish behind.", optional=True),
        "hard_timeout": duration("Nobody waits longer for a computation; it goes on, and its result is stored.", optional=True),
        "negative_ttl": duration("None is cached this long.", optional=True),
        "errors": duration("A function that has failed is left alone this long, by every process.", optional=True),
        "version": whole("The schema of the value; raise it and older entries are never read again.", 1, 2**32 - 1),
        "tags": texts("Tags added to what the decorator says."),
        "consistency": choice('"strict": every read confirms the head of the log.', "bounded", "strict"),
        "on_disconnect": choice('What local copies are worth when the log can not be heard: "bypass" or "serve" them.', "bypass", "serve"),
        "compress_over": size("Values larger than this are compressed.", optional=True),
        "encrypt": flag("Values at rest in Redis are encrypted, with keys from CACHESYNC_ENCRYPTION_KEYS."),
        "shadow": number("This share of hits is recomputed behind the caller's back and compared.", 0, 1),
        "ramp": number("Cache only this share of keys, the same in every process.", 0, 1),
        "mask": texts("Key fields that events, logs, errors and the command line never show."),
        "copy": flag("Hits return a private copy of the value."),
        "warm": Rule(
            _read_warm,
            {"anyOf": [{"type": "array", "items": {"type": "string", "minLength": 1}}, {"type": "string", "pattern": _PROVIDER}]},
            'Keys to compute before anybody asks, as texts; or "module:function", which returns them.',
        ),
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
        early_refresh: float | Literal["probabilistic"] | None = None,
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
        warm: Collection[str] | str = (),
        http: HttpPolicy | None = None,
    ) -> None:
        self._settle(("policy", str(name)), {name: value for name, value in locals().items() if name != "self"})
        object.__setattr__(self, "pattern", Pattern.parse(self.match))
        if self.local_ttl is not None and self.local_ttl > self._longest_ttl:
            object.__setattr__(self, "local_ttl", self._longest_ttl)

    @classmethod
    def conflicts(cls, values: Mapping[str, object], given: Collection[str]) -> Iterator[Problem]:
        """Bounds belong to a dynamic ttl and only there; the lower of two is not above the higher. Keys to warm are the policy's own."""
        for name, example in (("min_ttl", "10s"), ("max_ttl", "1h")) if "ttl" in values else ():
            is_wrong = name in given and name not in values
            if values["ttl"] is not None and values.get(name) is not None:
                yield Problem((name,), 'only a dynamic ttl has bounds; leave it out, or write ttl = "dynamic"')
            if values["ttl"] is None and values.get(name) is None and not is_wrong:
                yield Problem((name,), f'missing; ttl = "dynamic" needs min_ttl and max_ttl, write {name} = "{example}"')
        if values.get("on_disconnect") == "serve" and not (values.get("stale_while_revalidate") or values.get("stale_if_error")):
            problem = '"serve" needs stale_while_revalidate or stale_if_error, which say for how long; write one, such as "10m"'
            yield Problem(("on_disconnect",), problem)
        http = values.get("http")
        if isinstance(http, HttpPolicy) and http.respond_from_cache and values.get("ttl") is not None:
            problem = 'each answer says how long it is fresh; write ttl = "dynamic", with min_ttl and max_ttl'
            yield Problem(("http", "respond_from_cache"), problem)
        match, warm = values.get("match"), values.get("warm")
        pattern = Pattern.parse(match) if isinstance(match, str) else None
        for index, key in enumerate(cast("tuple[str, ...]", warm) if isinstance(warm, tuple) else ()):
            if pattern is not None and not pattern.matches(key):
                problem = f"{as_written(key)} is no key of this policy, whose match is {as_written(match)}; name it where it belongs"
                yield Problem(("warm", index), problem)
        for low, high in (("min_ttl", "max_ttl"), ("soft_timeout", "hard_timeout")):
            least, most = values.get(low), values.get(high)
            if isinstance(least, float) and isinstance(most, float) and least > most:
                yield Problem((low,), f"{least:g} seconds are more than the {most:g} seconds of {high}; write at most as much")

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

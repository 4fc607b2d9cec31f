"""The cache: what an application makes once, and asks for everything.

Every method that may wait has two colours: ``get`` for ``def``, ``aget`` for ``async def``. Both may be used on one object, from
threads and event loops at once.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast, overload

from cachesync.batch import MOST, AsyncCachedMany, CachedMany, dress_many
from cachesync.coordination.answers import LARGEST, Answers
from cachesync.coordination.engine import Engine
from cachesync.coordination.entries import Entries
from cachesync.coordination.events import Events
from cachesync.coordination.gathering import gathering
from cachesync.coordination.health import Health
from cachesync.coordination.items import Asked, AsyncAsked, Batch, plan_items
from cachesync.coordination.keeper import Keeper
from cachesync.coordination.operations import PAGE, Operations, Wanted, own_copy, value_of
from cachesync.coordination.own_thread import in_thread
from cachesync.coordination.policy_file import load_settings
from cachesync.coordination.policy_watcher import PolicyWatcher
from cachesync.coordination.registry import Registry, fit
from cachesync.coordination.reloading import Reloader, bounds_of
from cachesync.coordination.remembered import REMEMBERED
from cachesync.coordination.replacing import Block
from cachesync.coordination.request_scope import RequestScope
from cachesync.coordination.results import tags_of
from cachesync.coordination.site import Site
from cachesync.coordination.stats import FunctionStats, LogStats, RefreshStats, SharedStats, Stats, WarmingStats, log_stats, stats_of
from cachesync.coordination.streams import Hub
from cachesync.coordination.warmable import Calls
from cachesync.coordination.wrapper import Blueprint, plan
from cachesync.core.encryption_keys import EncryptionKeys
from cachesync.core.entry import MAX_DEPENDENCIES, Dependency, Entry
from cachesync.core.envelope import check_dependencies, digest_of
from cachesync.core.flows import Ask, Result
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import managed, terms_of
from cachesync.core.keys import MAX_KEY_LENGTH, check_key, written
from cachesync.core.policies import Policies
from cachesync.core.policy import Policy
from cachesync.core.records import HARD, KEY, SOFT, Targets, targets_of
from cachesync.core.reloads import Changes
from cachesync.core.settings import RedisSettings, Settings
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Called, Flow
from cachesync.core.sweeping import Swept
from cachesync.core.switches import Switches, read_switch
from cachesync.core.warming import Warmed
from cachesync.decorator import AsyncCachedFunction, CachedFunction, dress, stamp_of
from cachesync.errors import CodecError, KeyArgumentError, KeyTemplateError, PolicyError, SwitchError
from cachesync.invalidates import Invalidates, check_named
from cachesync.layers.codecs import codec_for, return_annotation
from cachesync.layers.local import LocalMemory
from cachesync.layers.redis import RedisShared
from cachesync.layers.redis_cluster import ClusterShared, redis_layer
from cachesync.protocols import Clock, Codec, Listener, LocalLayer, Shared, Watcher

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
M = TypeVar("M", bound="Mapping[Any, Any] | Sequence[Any]")
"""What a function of many arguments returns."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "nothing is cached"

    def __bool__(self) -> Literal[False]:
        """It is false in a condition."""
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing.MISSING
"""What ``get`` answers where nothing is cached. ``None`` is a value, and may be cached."""


class SystemClock:
    """The clock of the process: ``time.monotonic``. Where it stops while the machine sleeps, local copies live longer by that."""

    monotonic = staticmethod(time.monotonic)


class Cache:
    """Local memory and Redis as one cache, under the lifetimes of one policy file.

    Made from a file with `from_file`, or from objects: ``Cache(policies=[Policy(name="stores", match="stores:*", ttl="5m")])``.
    What is given besides ``settings`` takes the place of what they say.

    ``redis`` is a url; left out, and without ``shared``, everything works in one process. ``namespace`` keeps caches that use one
    Redis apart. ``shared`` is another shared layer, ``local`` another local one (any cachetools cache through ``CachetoolsMemory``),
    ``clock`` another clock (seconds; for tests). ``on_event`` is told of every event. With ``listen=False`` no thread reads the log
    of invalidations: those of other processes are learned of with each trip to the shared layer only. ``encryption_keys`` is what
    the variable CACHESYNC_ENCRYPTION_KEYS is beside a file: ``"2:base64,1:base64"``, the first encrypts and all decrypt. ``secret``
    is what CACHESYNC_SECRET is beside a file: groups of answers are made opaque with it. ``watch`` reloads the policy file when it
    changes, as `reload` does. Raises ``PolicyError`` for settings that are wrong or do not go together.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        policies: Iterable[Policy] | None = None,
        namespace: str | None = None,
        redis: str | None = None,
        shared: Shared | None = None,
        local: LocalLayer | None = None,
        clock: Clock | None = None,
        on_event: Listener | None = None,
        listen: bool = True,
        encryption_keys: str | None = None,
        secret: str | None = None,
        watch: bool = False,
    ) -> None:
        if settings is not None and not isinstance(settings, Settings):  # pyright: ignore[reportUnnecessaryIsInstance] - a path, mostly
            raise PolicyError(f"settings: {settings!r} is none; a policy file is read by Cache.from_file(path)")
        if isinstance(shared, str):
            raise PolicyError("shared: a text is no layer; a url is given as redis=...")  # it may hold a password
        settings = settings or Settings()
        given = {
            "policies": None if policies is None else Policies(policies),
            "namespace": namespace,
            "redis": None if redis is None else RedisSettings(url=redis),
            "encryption_keys": None if encryption_keys is None else EncryptionKeys(encryption_keys),
            "secret": secret,
        }
        self._given: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        settings = replace(settings, **self._given)
        if not len(settings.policies):
            raise PolicyError("policies: there is none, so no key could be cached; give a file or policies=[Policy(...)]")
        self._file = None if settings.file is None else os.path.abspath(settings.file)  # the process may go elsewhere
        if watch and self._file is None:
            raise PolicyError("watch: there is no file to watch; make the cache by Cache.from_file(path, watch=True)")
        self._events = Events()
        if on_event is not None:
            self._events.add(on_event)
        asked = bounds_of(settings)
        if shared is None and settings.redis is not None and settings.enabled:
            shared = redis_layer(settings.redis.url, namespace=settings.namespace, bounds=asked)
        if clock is not None and isinstance(shared, RedisShared | ClusterShared):
            raise PolicyError("clock: Redis is waited for by the system's clock; beside another give shared=MemoryShared(clock.monotonic)")
        bounds = settings.local
        ticking = clock or SystemClock()
        memory = None
        if local is None:
            local = memory = LocalMemory(max_entries=bounds.max_entries, max_bytes=bounds.max_bytes, clock=ticking.monotonic)
        self._engine = Engine(settings, local=local, shared=shared, clock=ticking, events=self._events)
        self._registry = Registry(settings.policies, local, self._engine.lock)
        if self._registry.masking.is_needed:
            self._events.masking = self._registry.masking
        self._operations = Operations(self._engine, self._registry, listen=listen)
        self._reloader = Reloader(self._engine, self._registry, bounds=asked, memory=memory)
        if watch and self._file is not None:
            self._operations.watcher = PolicyWatcher(self._file, self.reload, self._events)
        if settings.switches:
            self._engine.tell_switches("the environment")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **others: Any) -> Cache:
        """A cache under the policies of a TOML or JSON file. ``CACHESYNC_REDIS_URL`` wins over the file.

        ``others`` are the keywords of `Cache`. Raises ``PolicyError`` with every mistake in the file at once.
        """
        return cls(load_settings(path), **others)

    @property
    def settings(self) -> Settings:
        """The settings now: `reload` changes them."""
        return self._engine.settings

    # --- decorating ---------------------------------------------------------------------------------------------------------------

    def cached(
        self,
        key: str,
        *,
        tags: Sequence[str] = (),
        ignore: Sequence[str] = (),
        tags_from: Callable[[Any], Iterable[str]] | None = None,
        ttl: Callable[[Any], Any] | None = None,
        codec: Codec | None = None,
        same_as: Callable[..., Any] | None = None,
        warm: Calls | Callable[[], Any] | None = None,
    ) -> Decorate:
        """Cache a function's results under a key template such as ``"stores:{code}"``, with the policy whose pattern matches.

        Every parameter stands in the template, whole (``{code}``) or in part (``{user.id}``), or in ``ignore``. ``tags`` are names
        to invalidate by, with the same placeholders; ``tags_from`` is given the result and names more. ``ttl`` is given the result
        and returns its lifetime, where the policy says ``ttl = "dynamic"``. ``codec`` turns results into bytes; left out, the return
        annotation decides. ``same_as`` names another cached function that returns the same values under the same template, such as
        the ``async def`` beside a ``def``. ``warm`` is a list of calls to compute before anybody asks, each a tuple of arguments or a
        dict of named ones, or a function that returns such a list; see `warm`.

        The decorator raises ``KeyTemplateError`` or ``CodecError`` when something does not fit.
        """
        tags, ignore = _texts(key, "tags", tags), _texts(key, "ignore", ignore)
        _check_function(key, "tags_from", tags_from)
        _check_function(key, "ttl", ttl)
        if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
            raise KeyTemplateError(f"{key!r}: codec is an object with encode and decode, not {codec!r}")
        return Decorate(self, key, tags, ignore, tags_from, ttl, codec, same_as, warm)

    def cached_many(
        self,
        key: str,
        *,
        tags: Sequence[str] = (),
        ignore: Sequence[str] = (),
        tags_from: Callable[[Any], Iterable[str]] | None = None,
        ttl: Callable[[Any], Any] | None = None,
        codec: Codec | None = None,
        same_as: Callable[..., Any] | None = None,
        warm: Calls | Callable[[], Any] | None = None,
        page: int = PAGE,
    ) -> DecorateMany:
        """Cache what a function of many arguments returns, each item for itself: ``def stores(codes: Sequence[str]) -> dict[str, Store]``
        under ``"stores:{code}"``. It is called once, with just the items that are not cached and that nobody computes already.

        The one parameter that the template leaves out holds the items, and the one name of the template that is no parameter stands for
        one of them. The function returns a dict of items to results, and what it leaves out counts as ``None``; or a list with a result
        for each item in their order. Any other answer is a ``BatchError``. ``tags_from`` and ``ttl`` are given the result of one item. The
        rest is as in `cached`; with ``same_as`` a function of one item shares its entries with one of many.

        Up to ``page`` items are fetched, leased, computed and stored at once; more are several pages, each with a call and a budget of
        its own.
        """
        tags, ignore = _texts(key, "tags", tags), _texts(key, "ignore", ignore)
        how = self.cached(key, tags=tags, ignore=ignore, tags_from=tags_from, ttl=ttl, codec=codec, same_as=same_as, warm=warm)
        if type(page) is not int or not 1 <= page <= MOST:
            raise KeyTemplateError(f"{key!r}: page is a whole number from 1 to {MOST:,}, not {page!r}")
        return DecorateMany(how, page)

    def decorate(self, function: Any, how: Decorate) -> Any:
        """What the decorator made by `cached` does with its function."""
        if isinstance(function, classmethod | staticmethod):
            kind: Any = type(cast("object", function))
            return kind(self.decorate(cast("Any", function).__func__, how))
        blueprint = plan(function, how.key, tags=how.tags, ignore=how.ignore)
        site = self._site(blueprint, how, blueprint.call, lambda: how.codec or codec_for(return_annotation(function)))
        self._check_codec(site, function)
        return self._enter(site, dress(site, blueprint, self._operations, warm=how.warm))

    def decorate_many(self, function: Any, how: Decorate, page: int) -> Any:
        """What the decorator made by `cached_many` does with its function."""
        if isinstance(function, classmethod | staticmethod):
            kind: Any = type(cast("object", function))
            return kind(self.decorate_many(cast("Any", function).__func__, how, page))
        items = plan_items(function, how.key, tags=how.tags, ignore=how.ignore)
        batch = items.batch
        site = self._site(items.one, how, batch, lambda: how.codec or codec_for(batch.answers.value))
        self._check_codec(site, function, batch)
        return self._enter(site, dress_many(site, items, self._operations, page, warm=how.warm))

    def _site(self, blueprint: Blueprint, how: Decorate, call: Callable[..., Any], make_codec: Callable[[], Codec]) -> Site:
        policy, hidden = fit(self._registry.policies, blueprint.template, blueprint.name, is_dynamic=how.ttl is not None)
        twin = self._registry.twin(blueprint, how.same_as)
        return Site(
            name=blueprint.name,
            policy=policy,
            shelf=twin.shelf if twin else self._engine.local.shelf(),
            make_codec=make_codec,
            call=call,
            template=blueprint.template,
            fields=blueprint.fields,
            quick=blueprint.quick,
            tags=blueprint.tags,
            tag_indexes=blueprint.tag_indexes,
            lifetime=how.ttl,
            tags_from=how.tags_from,
            hidden=hidden,
            has_own_codec=how.codec is not None,
            is_async=blueprint.is_async,
        )

    def _enter(self, site: Site, wrapper: Any) -> Any:
        site.function = weakref.ref(wrapper)
        self._registry.add(site)
        return wrapper

    def _check_codec(self, site: Site, function: Callable[..., Any], batch: Batch | None = None) -> None:
        """Find out at decoration whether results can be stored. A name that is defined further down is looked for again later."""
        try:
            if batch is not None:
                _ = batch.answers
            if self._engine.shared is not None:
                _ = site.codec
        except CodecError:
            hint = getattr(inspect.unwrap(function), "__annotations__", {}).get("return")
            if not isinstance(hint, str):
                raise
            try:
                return_annotation(function)
            except CodecError:
                return  # it can not be resolved yet
            raise

    # --- keys as text -------------------------------------------------------------------------------------------------------------

    def _ask(self, key: str, compute: Callable[[], Any] | None = None) -> Ask:
        """The question for a key that was written as text: that of the function it belongs to, or of its policy."""
        site, address = self._registry.find(check_key(key, self._registry.masking.pattern))
        return self._engine.ask(site, address, (), compute)

    def get(self, key: str, default: Any = MISSING, *, at_least: Stamp | None = None) -> Any:
        """The cached value of a key, or ``default``. Never computes. Raises ``KeyArgumentError`` for what is no key.

        With ``at_least``, nothing that an invalidation up to this stamp concerns, whichever process has made it; what can not be
        confirmed counts as missing.
        """
        ask = self._ask(key)
        found = self._operations.run(self._operations.looking(ask, at_least))
        return own_copy(ask.policy, found.value) if isinstance(found, Called) else default

    async def aget(self, key: str, default: Any = MISSING, *, at_least: Stamp | None = None) -> Any:
        """As `get`."""
        ask = self._ask(key)
        found = await self._operations.arun(self._operations.looking(ask, at_least))
        return own_copy(ask.policy, found.value) if isinstance(found, Called) else default

    def set(self, key: str, value: Any) -> Stamp:
        """Store a value under a key and let the other processes drop their copies. Returns the position in the log.

        Raises ``CodecError`` if the value can not be stored; then nothing has changed.
        """
        return stamp_of(self._operations.run(self._operations.putting(self._ask(key), (value,))))

    async def aset(self, key: str, value: Any) -> Stamp:
        """As `set`."""
        return stamp_of(await self._operations.arun(self._operations.putting(self._ask(key), (value,))))

    def get_or_compute(self, key: str, compute: Callable[[], T], *, at_least: Stamp | None = None) -> T:
        """The cached value of a key, or what ``compute`` returns, stored for the next caller; computed once, whoever asks.

        ``at_least`` as in `get`; where it can not be confirmed, ``compute`` is called and nothing is stored.
        """
        ask, operations = self._ask(key, compute), self._operations
        result = operations.obtain(ask) if at_least is None else operations.run(operations.obtaining(ask, at_least))
        return cast("T", value_of(ask.policy, result))

    async def aget_or_compute(self, key: str, compute: Callable[[], Awaitable[T]], *, at_least: Stamp | None = None) -> T:
        """As `get_or_compute`, for a coroutine function."""

        async def computed() -> T:
            found = compute()
            if not inspect.isawaitable(found):
                raise TypeError(f"{key}: what aget_or_compute calls is awaited; a plain function is for get_or_compute")
            return await found

        ask, operations = self._ask(key, computed), self._operations
        result = await (operations.aobtain(ask) if at_least is None else operations.arun(operations.obtaining(ask, at_least)))
        return cast("T", value_of(ask.policy, result))

    def keeper(self) -> Keeper:
        """What a door that keeps whole answers asks of this cache, as `cachesync.response_cache` does."""
        return Keeper(self._engine, self._operations, self._ask)

    def get_many(self, keys: Iterable[str], *, at_least: Stamp | None = None) -> dict[str, Any]:
        """The cached values of several keys, in one trip to Redis: a dict that has those which were found. Never computes.

        ``at_least`` as in `get`. The keys stand in the dict as they were given. Raises ``KeyArgumentError`` for what is no key.
        """
        wanted = self._want(keys)
        return self._found(wanted, self._operations.run(self._operations.looking_many(list(wanted.values()), at_least)))

    async def aget_many(self, keys: Iterable[str], *, at_least: Stamp | None = None) -> dict[str, Any]:
        """As `get_many`."""
        wanted = self._want(keys)
        return self._found(wanted, await self._operations.arun(self._operations.looking_many(list(wanted.values()), at_least)))

    def get_or_compute_many(
        self, keys: Iterable[str], compute: Callable[[list[str]], Mapping[str, T]], *, at_least: Stamp | None = None
    ) -> dict[str, T | None]:
        """The cached values of several keys. What is not cached is asked of ``compute``, in one call: it is given those keys, and returns
        a dict. What that leaves out is ``None``, and is cached as ``None``.

        Each key is computed once, whoever asks. ``at_least`` as in `get_or_compute`. Raises ``BatchError`` for an answer with other keys.
        """
        wanted = self._want(keys, Asked(compute))
        return self._computed(wanted, self._operations.run(self._obtaining(wanted, at_least, self._operations.refresher.start)))

    async def aget_or_compute_many(
        self, keys: Iterable[str], compute: Callable[[list[str]], Awaitable[Mapping[str, T]]], *, at_least: Stamp | None = None
    ) -> dict[str, T | None]:
        """As `get_or_compute_many`, for a coroutine function."""
        wanted = self._want(keys, AsyncAsked(compute))
        return self._computed(wanted, await self._operations.arun(self._obtaining(wanted, at_least, self._operations.refresher.start_task)))

    def _want(self, keys: Iterable[str], compute: Callable[..., Any] | None = None) -> dict[str, Wanted]:
        """What is wanted for each key, as it was given."""
        if isinstance(keys, str) or not isinstance(keys, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - no type checker
            raise KeyArgumentError(f"keys are a list of texts, not {keys!r}")
        wanted: dict[str, Wanted] = {}
        for key in keys:
            site, address = self._registry.find(check_key(key))
            wanted[key] = Wanted(site, address, (key,), compute)
        return wanted

    def _obtaining(self, wanted: Mapping[str, Wanted], least: Stamp | None, refresh: Callable[..., None]) -> Flow:
        asks = list(wanted.values())
        return self._operations.obtaining_many(asks, lambda asks: refresh(*asks), least=least, at_once=True)

    def _found(self, wanted: Mapping[str, Wanted], found: Mapping[str, Called]) -> dict[str, Any]:
        there = ((key, one) for key, one in wanted.items() if one.address.key in found)
        return {key: own_copy(one.site.policy, found[one.address.key].value) for key, one in there}

    def _computed(self, wanted: Mapping[str, Wanted], answers: Mapping[str, Result]) -> dict[str, Any]:
        return {key: value_of(one.site.policy, answers[one.address.key]) for key, one in wanted.items()}

    def peek(self, key: str) -> Entry[Any] | None:
        """What is cached under a key, without computing; ``None`` where nothing is."""
        return cast("Entry[Any] | None", self._operations.run(self._operations.peeking(self._ask(key))))

    async def apeek(self, key: str) -> Entry[Any] | None:
        """As `peek`."""
        return cast("Entry[Any] | None", await self._operations.arun(self._operations.peeking(self._ask(key))))

    def update(self, key: str) -> Update:
        """Replace a value that is obtained meanwhile: ``with cache.update(key) as update: ...; update.set(value)``.

        An invalidation that comes between the beginning and ``set`` wins: then the value is not stored. What the block reads from this
        cache is what the value is made of, as in a cached function. A bare `set` takes the caller's word that its value is current.
        """
        return Update(self._operations, self._ask(key))

    def aupdate(self, key: str) -> AsyncUpdate:
        """As `update`: ``async with cache.aupdate(key) as update: ...; await update.set(value)``."""
        return AsyncUpdate(self._operations, self._ask(key))

    def request(self) -> RequestScope:
        """The block of one request: ``with cache.request():``, also ``async with``. Inside of it each key is read once, and what is read is
        not older than what the request has seen already.

        A repeated read is the same answer, from nobody but the request, whatever others change meanwhile; a change that the request makes
        itself is seen by it. Tasks, ``asyncio.to_thread`` and `in_context` belong to the request in which they were begun. Inside of
        another one of this cache it is part of that. It is entered once: for the next request ask for another.
        """
        return RequestScope(self._engine)

    def answers(self, *, require_match: Collection[str] = (), largest: int = LARGEST, remember: int = REMEMBERED) -> Answers:
        """HTTP as this cache sees it: what the doors for ASGI, WSGI and Django are made with. See `CacheMiddleware` for the arguments.

        Raises ``TypeError`` for a ``require_match`` that is one text: its letters are no methods.
        """
        if isinstance(require_match, str):
            raise TypeError(f"require_match is a list of methods; write [{require_match!r}]")
        methods = frozenset(method.upper() for method in require_match)
        return Answers(self._operations, now=time.time, remember=remember, largest=largest, require_match=methods)

    def etag(self, value: Any) -> str:
        """A strong entity tag of a value, with its quotes (RFC 9110, 8.8.3): the content hash of its bytes, the same in every process.

        For a handler that sets ``ETag`` itself; it has to be other than that of any other representation at the same URL. Raises
        ``CodecError`` for what has no bytes.
        """
        payload = value if isinstance(value, bytes) else codec_for(cast("object", value.__class__)).encode(value)
        return f'"{digest_of(payload).hex()}"'

    def headers(self, value: Any, policy: str, *keys: str, tags: Iterable[str] = (), age: float = 0.0) -> dict[str, str]:
        """The headers of an answer that is made of one value of a policy, for handlers written by hand: ETag, Cache-Control, Vary, and the
        lifetime for the managed client.

        ``keys`` and ``tags`` are what it depends on: with these it has groups, too. ``age`` is how old the value is, in seconds (`peek`
        knows). The stamp is missing: it is read before the data, by whoever reads the data (`stamp`). Raises ``PolicyError`` for a policy
        that there is not, and ``CodecError`` for a value without bytes.
        """
        chosen = next((one for one in self.settings.policies if one.name == policy), None)
        if chosen is None:
            names = ", ".join(one.name for one in self.settings.policies)
            raise PolicyError(f"policy.{policy}: no such policy; there are: {names}")
        groups: tuple[str, ...] = ()
        found = (*(Dependency(KEY, check_key(key)) for key in keys), *tags_of(tags))
        if found:
            groups = self._engine.groups.of_answer(self.settings.policies, found)
        terms = terms_of([chosen], remains=chosen.lifetime() - age, age=age, groups=groups)
        fields = managed(terms, HeaderFields(), HeaderFields()).without((b"cache-status",))
        return {"ETag": self.etag(value)} | {name.decode("ascii").title(): text.decode("latin-1") for name, text in fields}

    def depends_on(self, *keys: str, tags: Iterable[str] = ()) -> None:
        """Say inside of a computation what its result depends on: it ends with an invalidation of these ``keys`` or ``tags``.

        The block of `update` counts as one. Outside of any it does nothing. Raises ``KeyArgumentError`` for what is no key or no tag.
        """
        try:
            found = (*(Dependency(KEY, check_key(key, self._registry.masking.pattern)) for key in keys), *tags_of(tags))
            check_dependencies(found[:MAX_DEPENDENCIES])
        except (TypeError, ValueError) as error:
            raise KeyArgumentError(str(error)) from error
        inside = gathering.get()
        if inside is not None:
            inside.add(found)

    def entries(self, prefix: str) -> Entries:
        """What other frameworks' caches are made of, such as `cachesync.django`: entries under the keys ``prefix:*`` that the program
        stores itself, each with a lifetime of its own, and changes in one piece.

        Raises ``PolicyError`` unless these keys have one policy, with ``ttl = "dynamic"``.
        """
        return Entries(self._operations, self._registry, prefix)

    # --- invalidating -------------------------------------------------------------------------------------------------------------

    def invalidate(self, *patterns: str, tags: Iterable[str] = (), soft: bool = False) -> Stamp:
        """Make copies out of date, everywhere: by key (``"stores:JKT"``), prefix (``"stores:*"``), glob (``"*:stats"``), all (``"*"``)
        or ``tags``.

        Returns the position in the log. Once it has returned, no value whose computation began before the call is served as fresh
        by this process, nor by any other that has applied the position. ``stamp.pending`` says that the shared layer could not be
        told yet and will be. With ``soft``, the old value may be served stale while it is refreshed, for as long as its policy's
        ``stale_while_revalidate`` says. Raises ``KeyArgumentError`` where nothing is named, or what is named can not be a pattern.
        """
        return cast("Stamp", self._operations.run(self._operations.invalidating(_targets(patterns, tags, soft))))

    async def ainvalidate(self, *patterns: str, tags: Iterable[str] = (), soft: bool = False) -> Stamp:
        """As `invalidate`."""
        return cast("Stamp", await self._operations.arun(self._operations.invalidating(_targets(patterns, tags, soft))))

    def invalidates(self, *patterns: str, tags: Sequence[str] = (), soft: bool = False) -> Invalidates:
        """Let a function or a route invalidate what it changes: ``@cache.invalidates("stores:{code}", "stats:{code}:*")``.

        Keys, patterns and ``tags`` are templates over its parameters. They are invalidated once, after the function has returned: not where
        it raised, nor where it returned an answer with a status from 400 on. ``soft`` as in `invalidate`. Behind `CacheMiddleware`
        the answer says what was invalidated (``Cache-Group-Invalidation``; RFC 9875, 3) and has the stamp. In an application put it right
        above the function, below the route's decorator.

        The decorator raises ``KeyTemplateError`` where a template names what is no parameter. A call raises ``KeyArgumentError`` before
        the function is called where an argument can not stand in a key.
        """
        texts = _texts("invalidates", "patterns", patterns), _texts("invalidates", "tags", tags)
        check_named(*texts)
        return Invalidates(self, *texts, soft)

    def stamp(self) -> Stamp:
        """The position now: up to there, this process has applied the log."""
        return cast("Stamp", self._operations.run(self._operations.standing()))

    async def astamp(self) -> Stamp:
        """As `stamp`."""
        return cast("Stamp", await self._operations.arun(self._operations.standing()))

    def sweep(self, progress: Callable[[Swept], object] | None = None) -> Swept:
        """Delete from Redis what was invalidated and is refused already, and count it. It costs time, and is never needed for
        correctness.

        ``progress`` is told the sums after each page. Raises ``LayerError`` if Redis can not be asked.
        """
        return cast("Swept", self._operations.run(self._operations.sweeping(progress)))

    async def asweep(self, progress: Callable[[Swept], object] | None = None) -> Swept:
        """As `sweep`."""
        return cast("Swept", await self._operations.arun(self._operations.sweeping(progress)))

    # --- reloading ----------------------------------------------------------------------------------------------------------------

    def reload(self, settings: Settings | None = None, *, policies: Iterable[Policy] | None = None) -> Changes:
        """Take other policies over while the cache is in use. Returns what has changed.

        Without arguments the policy file is read again. A cache that was made from objects is given ``policies``, or ``settings``. All
        of it is taken over; or it raises ``PolicyError`` with every mistake, and nothing has changed. It is a mistake, too, to leave a
        function without a policy, and to change what needs a restart (namespace, Redis, keys). Events say what became of it:
        ``policies_reloaded`` or ``policies_refused``.

        Once it has returned, new calls are under the new policies, and what is held or stored is shortened where they say less. Nothing is
        lengthened. In ``async def`` code use `areload`, which reads the file and asks Redis without blocking the loop.
        """
        try:
            changes, keys = self._reloader.reload(self._to_reload(settings, policies))
        except PolicyError as error:
            self._events.forget("policies_refused")
            self._events.send("policies_refused", problems=list(error.problems))
            raise
        was_refused = self._events.lasts("policies_refused") is not None
        self._events.forget("policies_refused")
        if keys:  # they are stored as they may not lie there any more: unlinked after it, or refused before it
            self._operations.run(self._operations.invalidating((Targets(KEY, keys),)))
        if changes or was_refused:
            self._events.forget("policies_reloaded")
            self._events.send("policies_reloaded", added=list(changes.added), removed=list(changes.removed), settings=changes.names())
        if idle := self._engine.switches.of_policies(changes.removed):
            self._events.forget("switch_without_effect")
            self._events.send("switch_without_effect", switched=idle)
        return changes

    async def areload(self, settings: Settings | None = None, *, policies: Iterable[Policy] | None = None) -> Changes:
        """As `reload`."""
        return await asyncio.to_thread(self.reload, settings, policies=policies)

    def _to_reload(self, settings: Settings | None, policies: Iterable[Policy] | None) -> Settings:
        if policies is not None:
            return replace(settings or self.settings, policies=Policies(policies))
        if settings is not None:
            return replace(settings, **{name: value for name, value in self._given.items() if name != "policies"})
        if self._file is None:
            raise PolicyError("there is no file to read again: this cache was made from objects; give it reload(policies=[...])")
        return replace(load_settings(self._file), **self._given)

    # --- switching ----------------------------------------------------------------------------------------------------------------

    def switch(self, target: str, value: str) -> None:
        """Turn caching down, or up again, in every process: ``cache.switch("all", "ttl")``, ``cache.switch("redis", "off")``.

        ``target`` is ``"all"`` or a policy's name, with the modes ``"full"``, ``"ttl"``, ``"headers"`` and ``"off"``; or a layer,
        ``"local"`` or ``"redis"``, which is ``"on"`` or ``"off"``. It has returned when the processes are told: those that read the log
        obey at once, and those that start later too. Raises `SwitchError` for what can not be switched, and ``LayerError`` where Redis
        can not be told; then nothing is switched.
        """
        self._operations.switch(self._read_switch(target, value))

    async def aswitch(self, target: str, value: str) -> None:
        """As `switch`."""
        await self._operations.aswitch(self._read_switch(target, value))

    def switch_here(self, target: str, value: str) -> None:
        """As `switch`, in this process alone, and until it ends. Nobody is asked. Of what is switched here, by the environment and for all,
        the most cautious counts.
        """
        self._engine.switch(self._read_switch(target, value))

    def switches(self) -> Switches:
        """What is switched now, by whom, and what that comes to, as far as this process knows."""
        return self._engine.switches

    def _read_switch(self, target: str, value: str) -> tuple[str, str]:
        if not all(isinstance(text, str) for text in cast("tuple[object, ...]", (target, value))):  # callers without a type checker
            raise SwitchError(f'what is switched, and how, are texts, such as "all" and "ttl", not {target!r} and {value!r}')
        switches = self._engine.switches
        return read_switch(target, value, [policy.name for policy in self.settings.policies], {*switches.here, *switches.everywhere})

    # --- warming ------------------------------------------------------------------------------------------------------------------

    def warm(
        self,
        *policies: str,
        progress: Callable[[Warmed], object] | None = None,
        concurrency: int | None = None,
        dry_run: bool = False,
    ) -> Warmed:
        """Compute what is declared to be warmed and is not fresh, in threads, and wait for the end: what the ``warm`` of policies and of
        decorators names, of all ``policies`` or of some.

        ``progress`` is told the sums after each key (of a function of many arguments: after each page), ``concurrency`` is how many are
        computed at once (left out: what the settings say), and with ``dry_run`` nothing is computed: what would be counts as skipped. A
        key that fails ends nothing. An ``async def`` is warmed by `awarm`; here it counts as failed. Raises ``PolicyError`` for a policy
        that there is not.
        """
        warmer = self._operations.warmer
        return warmer.warm(warmer.sources(policies), warmer.manner(progress, concurrency, dry_run=dry_run))

    async def awarm(
        self,
        *policies: str,
        progress: Callable[[Warmed], object] | None = None,
        concurrency: int | None = None,
        dry_run: bool = False,
    ) -> Warmed:
        """As `warm`, for ``async def``, which is awaited in tasks, and for ``def``, which is called in threads."""
        warmer = self._operations.warmer
        return await warmer.awarm(warmer.sources(policies), warmer.manner(progress, concurrency, dry_run=dry_run))

    def warm_behind(self) -> None:
        """Warm what is declared in the background, and again where that is out of date as a whole: the log was begun anew, everything was
        invalidated, another ``version`` or another list is declared, or a switch or a reload has it cached in another way. One process of
        all does it at a time.

        Called in an event loop, it warms in tasks of it, and ``def`` in threads; elsewhere it warms in threads, and no ``async def``. To be
        called once in each process that serves, when the modules with the cached functions are imported.
        """
        self._operations.warmer.start()

    # --- looking ------------------------------------------------------------------------------------------------------------------

    def ttl(self, name: str) -> float:
        """A named duration of the policy file's ``[ttl]`` table, in seconds. Raises ``PolicyError`` for an unknown name."""
        try:
            return self.settings.ttl[name]
        except KeyError:
            known = ", ".join(sorted(self.settings.ttl)) or "none"
            raise PolicyError(f"ttl.{name}: no such duration; the policy file has: {known}") from None

    def stats(self) -> Stats:
        """What this process has done so far, by function and by policy, and how it stands with either layer and the log."""
        log = log_stats(self._engine, is_read=self._operations.reader.is_alive)
        return stats_of(self._engine, self._registry.sites(), self._operations.refresher, log, self._operations.warmer.stats())

    def health(self) -> Health:
        """How this process's cache is, in a word and the reasons for it. Nobody is asked: it takes microseconds."""
        return self._operations.health()

    def check(self) -> Health:
        """As `health`, after a round trip to the shared layer, which takes the ``budget`` at most. It is asked whatever the breaker says,
        and an answer closes it.
        """
        return self._operations.check()

    async def acheck(self) -> Health:
        """As `check`."""
        return await self._operations.acheck()

    def on_event(self, listener: Listener) -> Listener:
        """Tell ``listener`` of every `Event` from now on. Returns it, so that it may decorate.

        It is called in the thread where the event happens, while no lock of ours is held, and must not block. What it raises is an event
        too, and harms nobody. Raises ``TypeError`` for a coroutine function, which nobody would await.
        """
        self._events.add(listener)
        return listener

    def off_event(self, listener: Listener) -> bool:
        """Tell ``listener`` of no more events. True if it was told until now."""
        return self._events.remove(listener)

    def on_span(self, watcher: Watcher) -> Watcher:
        """Let ``watcher`` stand around what takes time, from now on. Returns it, so that it may decorate.

        It is given a `Span` and returns a context manager, which is entered where the span begins and left where it is over: a generator
        function under ``contextlib.contextmanager`` does. For the rest it is as a listener of `on_event`.
        """
        self._events.add_watcher(watcher)
        self._operations.notice_watchers()
        return watcher

    def off_span(self, watcher: Watcher) -> bool:
        """Let ``watcher`` stand around no more. True if it did until now."""
        removed = self._events.remove_watcher(watcher)
        self._operations.notice_watchers()
        return removed

    @property
    def hub(self) -> Hub:
        """What tells event streams of this process what is out of date: for doors."""
        with self._engine.lock:
            if self._engine.hub is None:
                self._engine.hub = Hub(self._engine)
            return self._engine.hub

    # --- ending -------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the log's reader and the connections of threads. Invalidations that are queued get a last chance to be announced."""
        self._operations.finish()
        if self._engine.shared is not None:
            self._engine.shared.close()

    async def aclose(self) -> None:
        """As `close`, and end the connections of the running loop."""
        await self._operations.warmer.aclose()
        await in_thread(self._operations.finish, "cachesync-close")
        await self._engine.tasks.aclose(self._engine.budget)
        if self._engine.shared is not None:
            await self._engine.shared.aclose()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Cache:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _NobodyReturnsThis:
    """Tells functions that return Any from those that return something."""

    _unlike: int


@dataclass(frozen=True, slots=True)
class Decorate:
    """The decorator that `Cache.cached` returns: it picks the colour once, from the function it is given."""

    cache: Cache
    key: str
    tags: tuple[str, ...]
    ignore: tuple[str, ...]
    tags_from: Callable[[Any], Iterable[str]] | None
    ttl: Callable[[Any], Any] | None
    codec: Codec | None
    same_as: Callable[..., Any] | None
    warm: Calls | Callable[[], Any] | None = None

    # The first that fits is meant. A function that returns Any would fit the one for coroutines; only Any fits a class that nobody
    # returns. A coroutine function is a function too, whose result is a coroutine.
    @overload
    def __call__(self, function: Callable[P, _NobodyReturnsThis], /) -> CachedFunction[P, Any]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """The cached function. Raises `KeyTemplateError` or `CodecError` when something does not fit."""
        return self.cache.decorate(function, self)


@dataclass(frozen=True, slots=True)
class DecorateMany:
    """The decorator that `Cache.cached_many` returns."""

    how: Decorate
    page: int

    @overload
    def __call__(self, function: Callable[P, _NobodyReturnsThis], /) -> CachedMany[P, Any]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, M]], /) -> AsyncCachedMany[P, M]: ...
    @overload
    def __call__(self, function: Callable[P, M], /) -> CachedMany[P, M]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """The cached function. Raises `KeyTemplateError` or `CodecError` when something does not fit."""
        return self.how.cache.decorate_many(function, self.how, self.page)


class Update:
    """A value that is being replaced. The lease is taken and the position noted when the ``with`` block begins."""

    def __init__(self, operations: Operations, ask: Ask) -> None:
        self._operations = operations
        self._ask = ask
        self._block: Block | None = None

    def __enter__(self) -> Update:
        self._block = cast("Block", self._operations.run(self._operations.seizing(self._ask)))
        return self

    def set(self, value: Any) -> Stamp:
        """Store the value, unless an invalidation came since the block began, and let the other processes drop their copies.

        Raises ``CodecError`` if it can not be stored, and ``RuntimeError`` outside of the block or for a second value.
        """
        if self._block is None:
            raise RuntimeError("update.set() belongs into its with block")
        return stamp_of(self._operations.run(self._operations.replacing(self._ask, self._block, value)))

    def __exit__(self, *_: object) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.leave()
            self._operations.run(self._operations.giving_up(block))


class AsyncUpdate:
    """As `Update`, for ``async with``."""

    def __init__(self, operations: Operations, ask: Ask) -> None:
        self._operations = operations
        self._ask = ask
        self._block: Block | None = None

    async def __aenter__(self) -> AsyncUpdate:
        self._block = cast("Block", await self._operations.arun(self._operations.seizing(self._ask)))
        return self

    async def set(self, value: Any) -> Stamp:
        """As `Update.set`."""
        if self._block is None:
            raise RuntimeError("update.set() belongs into its async with block")
        return stamp_of(await self._operations.arun(self._operations.replacing(self._ask, self._block, value)))

    async def __aexit__(self, *_: object) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.leave()
            await self._operations.arun(self._operations.giving_up(block))


def _texts(key: str, name: str, given: Any) -> tuple[str, ...]:
    texts: tuple[Any, ...] = (None,) if isinstance(given, str) or not hasattr(given, "__iter__") else tuple(given)
    if not all(isinstance(text, str) for text in texts):
        raise KeyTemplateError(f'{key!r}: {name} is a list of texts; write {name}=["stores"], not {given!r}')
    return texts


def _check_function(key: str, name: str, given: Any) -> None:
    if given is not None and (not callable(given) or any(map(inspect.iscoroutinefunction, (given, type(given).__call__)))):
        raise KeyTemplateError(f"{key!r}: {name} is a plain function that is given the result, not {given!r}")


def _targets(patterns: Sequence[str], tags: Iterable[str], soft: bool) -> tuple[Targets, ...]:
    if not isinstance(tags, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise KeyArgumentError(f"tags are a list of texts, not {type(tags).__name__}")
    tags = (tags,) if isinstance(tags, str) else tuple(tags)
    for text in (*patterns, *tags):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise KeyArgumentError(f"keys, patterns and tags are texts, not {type(text).__name__}")
        if len(text) > MAX_KEY_LENGTH:
            raise KeyArgumentError(f"a text of {len(text):,} characters; at most {MAX_KEY_LENGTH:,} are allowed")
    try:
        targets = targets_of(map(written, patterns), map(written, tags), SOFT if soft else HARD)
    except ValueError as error:
        raise KeyArgumentError(str(error)) from error
    if not targets:
        raise KeyArgumentError('nothing to invalidate: name a key, a pattern or tags=[...]; everything is "*"')
    return targets


__all__ = [
    "MISSING",
    "AsyncUpdate",
    "Cache",
    "Decorate",
    "DecorateMany",
    "FunctionStats",
    "LogStats",
    "Missing",
    "RefreshStats",
    "RequestScope",
    "SharedStats",
    "Stats",
    "SystemClock",
    "Update",
    "WarmingStats",
]

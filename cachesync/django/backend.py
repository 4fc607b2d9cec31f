"""The backend: Django's cache API over local memory, Redis and the log of invalidations."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from typing import Any, Final, TypeVar

from asgiref.sync import sync_to_async
from django import conf
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import salted_hmac

from cachesync.cache import Cache
from cachesync.coordination.entries import Found, Timed, UnknownError, Wanted
from cachesync.core.change import LEAVE, REMOVE
from cachesync.core.steps import Step
from cachesync.django.places import cache_at
from cachesync.django.values import Values
from cachesync.errors import CodecError

T = TypeVar("T")
_OPTIONS: Final = ("PREFIX", "PICKLE")
_BOUNDS: Final = ("MAX_ENTRIES", "CULL_FREQUENCY")


class CachesyncCache(BaseCache):
    """``"BACKEND": "cachesync.django.CachesyncCache"``, with LOCATION the policy file, or a cache: ``"myapp.caches:cache"``.

    Its keys are ``django:`` and Django's key, under a policy for ``django:*`` with ``ttl = "dynamic"``: timeouts are kept within its
    ``min_ttl`` and ``max_ttl``, and the timeout ``None`` is ``max_ttl``. ``OPTIONS``: ``PREFIX`` takes the place of ``django``;
    ``PICKLE: True`` stores what is not plain data too, signed with SECRET_KEY (SECRET_KEY_FALLBACKS are read).

    ``set``, ``add``, ``incr``, ``decr``, ``touch`` and ``delete`` of one key come one after the other, in all processes; ``get_or_set``,
    ``incr_version`` and ``clear`` are not one piece with them. Where Redis is away nothing is stored: ``add`` and ``touch`` say so,
    ``incr`` finds nothing, and nobody is served any more what was set anew or deleted. Raises ``PolicyError`` where there is no such
    cache or policy.
    """

    def __init__(self, location: Cache | str | os.PathLike[str], params: dict[str, Any]) -> None:
        super().__init__(params)
        options: dict[str, Any] = params.get("OPTIONS", {})
        for name in options:
            if name not in _OPTIONS:
                is_bound = name in _BOUNDS
                advice = "how much is held in memory is [local] of the policy file" if is_bound else f"known are {', '.join(_OPTIONS)}"
                raise ImproperlyConfigured(f"CACHES: OPTIONS: {name} has no meaning for {type(self).__name__}; {advice}")
        self._entries = cache_at(location).entries(options.get("PREFIX", "django"))
        self._values = Values(_secrets() if options.get("PICKLE") else ())

    # --- one key ------------------------------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """The value of a key, made anew for this caller, or ``default``."""
        return self._value(self._run(self._looking(key, version)), default)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """As `get`."""
        return self._value(await self._arun(self._looking(key, version)), default)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Whether something fresh stands under a key."""
        return self._run(self._looking(key, version)) is not None

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """As `has_key`."""
        return await self._arun(self._looking(key, version)) is not None

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value, and let the other processes drop their copies. A timeout of 0 or less removes it."""
        self._run(self._storing(self._key(key, version), self._timed(value, timeout)))

    async def aset(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """As `set`."""
        await self._arun(self._storing(self._key(key, version), await self._atimed(value, timeout)))

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value where nothing stands. True for one caller of all that try at once, in all processes."""
        return self._run(self._adding(self._key(key, version), self._timed(value, timeout)))

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """As `add`."""
        return await self._arun(self._adding(self._key(key, version), await self._atimed(value, timeout)))

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give what stands under a key another timeout, counted from now. False where nothing does."""
        return self._run(self._touching(key, timeout, version))

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """As `touch`."""
        return await self._arun(self._touching(key, timeout, version))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to a value, whose timeout stays. Of several at once none is lost. Raises ``ValueError`` where nothing stands."""
        return self._run(self._adding_to(key, delta, version))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """As `incr`."""
        return await self._arun(self._adding_to(key, delta, version))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove a key, everywhere. True if something stood there."""
        return self._run(self._deleting(key, version))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """As `delete`."""
        return await self._arun(self._deleting(key, version))

    # --- several keys -------------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """The values of several keys, in one trip to Redis: those that were found."""
        made = self._made(keys, version)
        return self._values_of(made, self._run(self._entries.looking_many(made.values())))

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """As `get_many`."""
        made = self._made(keys, version)
        return self._values_of(made, await self._arun(self._entries.looking_many(made.values())))

    def set_many(self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> list[Any]:
        """Store several values, each by itself, in as few trips as a single one. Returns the keys that could not be stored."""
        made = self._made(data, version)
        wanted: dict[str, Wanted] = {text: self._timed(data[key], timeout) for key, text in made.items()}
        return self._failed(made, self._run(self._entries.changing_many(wanted)))

    async def aset_many(self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> list[Any]:
        """As `set_many`."""
        made = self._made(data, version)
        wanted: dict[str, Wanted] = {text: await self._atimed(data[key], timeout) for key, text in made.items()}
        return self._failed(made, await self._arun(self._entries.changing_many(wanted)))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Remove several keys, everywhere."""
        self._run(self._entries.changing_many(dict.fromkeys(self._made(keys, version).values(), REMOVE)))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """As `delete_many`."""
        await self._arun(self._entries.changing_many(dict.fromkeys(self._made(keys, version).values(), REMOVE)))

    def clear(self) -> None:
        """Remove everything under the backend's ``PREFIX``, of every KEY_PREFIX and version, in constant time."""
        self._run(self._entries.clearing())

    async def aclear(self) -> None:
        """As `clear`."""
        await self._arun(self._entries.clearing())

    # --- what they ask ------------------------------------------------------------------------------------------------------------

    def _run(self, flow: Generator[Step, Any, T]) -> T:
        return self._entries.run(flow)

    async def _arun(self, flow: Generator[Step, Any, T]) -> T:
        return await self._entries.arun(flow)

    def _looking(self, key: Any, version: int | None) -> Generator[Step, Any, Found | None]:
        return self._entries.looking(self._key(key, version))

    def _storing(self, made: str, wanted: Wanted) -> Generator[Step, Any, None]:
        """A change whose outcome nobody asks for."""
        try:
            yield from self._entries.changing(made, lambda _: wanted, looks=False, ends=True)
        except UnknownError:
            return

    def _adding(self, made: str, wanted: Wanted) -> Generator[Step, Any, bool]:
        adds = LEAVE if wanted == REMOVE else wanted
        return (yield from self._is_known(self._entries.changing(made, lambda found: adds if found is None else LEAVE), found=False))

    def _touching(self, key: Any, timeout: Any, version: int | None) -> Generator[Step, Any, bool]:
        made, seconds = self._key(key, version), self._seconds(timeout)

        def touched(found: Found | None) -> Wanted:
            if found is None:
                return LEAVE
            return REMOVE if seconds is not None and seconds <= 0 else Timed(seconds, found.payload)

        return (yield from self._is_known(self._entries.changing(made, touched), found=True))

    def _adding_to(self, key: Any, delta: int, version: int | None) -> Generator[Step, Any, int]:
        made = self._key(key, version)
        sums: list[int] = [0]

        def added(found: Found | None) -> Wanted:
            if found is None:
                raise ValueError(f"Key {key!r} not found")
            sums[0] = self._values.decode(found.payload) + delta
            return Timed(found.left, self._values.encode(sums[0]))

        try:
            yield from self._entries.changing(made, added)
        except UnknownError as error:
            raise ValueError(f"Key {key!r} not found: {error}") from error
        return sums[0]

    def _deleting(self, key: Any, version: int | None) -> Generator[Step, Any, bool]:
        made = self._key(key, version)
        return (yield from self._is_known(self._entries.changing(made, lambda _: REMOVE, ends=True), found=True))

    @staticmethod
    def _is_known(flow: Generator[Step, Any, Found | None], *, found: bool) -> Generator[Step, Any, bool]:
        """Whether a change has come about, and something stood there (``found``), or nothing did."""
        try:
            return ((yield from flow) is not None) is found
        except UnknownError:
            return False

    # --- values and timeouts ------------------------------------------------------------------------------------------------------

    def _key(self, key: Any, version: int | None) -> str:
        return str(self.make_and_validate_key(key, version=version))

    def _made(self, keys: Iterable[Any], version: int | None) -> dict[Any, str]:
        return {key: self._key(key, version) for key in keys}

    @staticmethod
    def _failed(made: Mapping[Any, str], failed: Iterable[str]) -> list[Any]:
        names = set(failed)
        return [key for key, text in made.items() if text in names]

    def _timed(self, value: Any, timeout: Any) -> Wanted:
        """What is to be stored. Raises for what can not be, also where it would be gone at once."""
        return self._packed(self._values.encode(value), timeout)

    async def _atimed(self, value: Any, timeout: Any) -> Wanted:
        """The same. What is pickled may ask the database, as a queryset does, which Django allows in its thread only."""
        plain = self._values.encode_if_plain(value)
        return self._packed(await sync_to_async(self._values.encode)(value) if plain is None else plain, timeout)

    def _packed(self, payload: bytes, timeout: Any) -> Wanted:
        seconds = self._seconds(timeout)
        return REMOVE if seconds is not None and seconds <= 0 else Timed(seconds, payload)

    def _seconds(self, timeout: Any) -> float | None:
        chosen = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return None if chosen is None else float(chosen)

    def _value(self, found: Found | None, default: Any) -> Any:
        if found is None:
            return default
        try:
            return self._values.decode(found.payload)
        except CodecError:  # signed with a key that is no more, or of a class that is no more
            return default

    def _values_of(self, made: Mapping[Any, str], found: Mapping[str, Found]) -> dict[Any, Any]:
        missing = object()
        values = {key: self._value(found.get(text), missing) for key, text in made.items()}
        return {key: value for key, value in values.items() if value is not missing}


def _secrets() -> list[bytes]:
    """What pickles are signed with: made from SECRET_KEY, whatever its length."""
    keys = (conf.settings.SECRET_KEY, *conf.settings.SECRET_KEY_FALLBACKS)
    return [salted_hmac("cachesync.django", "pickle", secret=key, algorithm="sha256").digest() for key in keys]

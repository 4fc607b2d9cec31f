"""The envelope: the bytes of one value in a shared layer. What can not be read is a miss, and never another value."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesync import Cache, Event, LocalMemory, Policy, Settings
from cachesync.core import envelope
from cachesync.core.entry import MAX_DEPENDENCIES, Dependency
from cachesync.core.envelope import (
    COMPRESSED,
    ENCRYPTED,
    IDENTITY,
    EnvelopeError,
    Header,
    digest_of,
    seal,
    unseal,
)
from cachesync.core.names import Names
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.core.stamps import Stamp
from support.servers import Server

uint64 = st.integers(0, 2**64 - 1)
uint32 = st.integers(0, 2**32 - 1)
dependencies = st.lists(st.builds(Dependency, st.sampled_from("tk"), st.text(st.characters(), max_size=8)), max_size=4).map(tuple)
headers = st.builds(
    Header,
    flags=st.sampled_from((0, COMPRESSED, ENCRYPTED, COMPRESSED | ENCRYPTED)),
    epoch=st.binary(min_size=8, max_size=8),
    number=uint64,
    own=uint64,
    made=uint64,
    fresh=uint64,
    stale=uint64,
    error=uint64,
    schema=uint32,
    key_id=uint32,
    digest=st.binary(min_size=16, max_size=16),
    dependencies=dependencies,
)

PLAIN = Header(0, bytes.fromhex("9f86d081884c7d65"), 121, 0, 1_750_000_000_000, 300_000, 600_000, 3_600_000, 3, 0, digest_of(b"payload"))


@given(headers, st.binary())
def test_what_is_sealed_is_unsealed(header: Header, payload: bytes) -> None:
    """Every field, every dependency, every byte of the payload."""
    found, rest = unseal(seal(header, payload))
    assert found == header
    assert bytes(rest) == payload
    assert found.stamp == Stamp(header.epoch.hex(), header.number)


def changed(blob: bytes, at: int, byte: int) -> bytes:
    return blob[:at] + bytes((byte,)) + blob[at + 1 :]


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_are_an_envelope_or_refused(data: st.DataObject) -> None:
    """Nothing else comes out of reading. What is read is all that the bytes say: sealed again, they are the same."""
    blob = data.draw(st.binary(max_size=200))
    if data.draw(st.booleans()):  # mostly like an envelope
        blob = seal(data.draw(headers), blob)
        for _ in range(data.draw(st.integers(0, 3))):
            blob = changed(blob, data.draw(st.integers(0, len(blob) - 1)), data.draw(st.integers(0, 255)))
        blob = blob[: data.draw(st.integers(0, len(blob)))]
    try:
        header, payload = unseal(blob)
    except EnvelopeError:
        return
    assert seal(header, bytes(payload)) == blob


def damages(blob: bytes) -> Iterator[tuple[int, bytes]]:
    """Each way to cut the end off, and each byte with its lowest, its highest and all of its bits turned; and where that is."""
    for at in range(len(blob)):
        yield at, blob[:at]
        for bits in (0x01, 0x80, 0xFF):
            yield at, changed(blob, at, blob[at] ^ bits)


@pytest.mark.parametrize("on", [(), (Dependency("t", "region:java"), Dependency("k", "users:7"))], ids=["plain", "with dependencies"])
def test_a_damaged_envelope_never_passes_for_another_value(on: tuple[Dependency, ...]) -> None:
    """It is unreadable, or its content hash gives it away, or the damage is in the header and the value is the right one."""
    payload = b'{"code":"JKT","name":"Jakarta"}'
    good = PLAIN._replace(digest=digest_of(payload), dependencies=on)
    for at, blob in damages(seal(good, payload)):
        try:
            header, rest = unseal(blob)
        except EnvelopeError:
            continue
        if digest_of(bytes(rest)) == header.digest:
            assert bytes(rest) == payload
            assert header.digest == good.digest
            assert at < len(blob) - len(payload), "the payload is as it was, so the damage is before it"


@pytest.mark.parametrize(
    "blob", [b"", b"c", b"cS", b"cS\x01", bytes(90), b"\0" * 1_000, b"null", b'{"a":1}', b"\x80\x04K\x01.", b"cS" * 50]
)
def test_bytes_of_other_programs_are_refused(blob: bytes) -> None:
    """Short ones, zeros, JSON, pickles."""
    with pytest.raises(EnvelopeError):
        unseal(blob)


def test_another_format_or_an_unknown_flag_is_refused() -> None:
    """A later release may write what this one can not understand."""
    blob = seal(PLAIN, b"payload")
    with pytest.raises(EnvelopeError):
        unseal(changed(blob, 2, 2))
    for flag in (4, 8, 16, 32, 64, 128):
        with pytest.raises(EnvelopeError):
            unseal(changed(blob, 3, flag))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, -1) for field in ("number", "own", "made", "fresh", "stale", "error", "schema", "key_id")),
        *((field, 2**64) for field in ("number", "own", "made", "fresh", "stale", "error")),
        *((field, 2**32) for field in ("schema", "key_id")),
        *((field, size) for field in ("epoch", "digest") for size in (b"", b"short", bytes(17))),
        ("dependencies", (Dependency("t", "a"),) * (MAX_DEPENDENCIES + 1)),
        ("dependencies", (Dependency("t", "x" * 65_536),)),
        ("dependencies", (Dependency("t", "é" * 40_000),)),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_stored(field: str, value: Any) -> None:
    """A field is never cut or filled up in silence."""
    with pytest.raises(ValueError):
        seal(PLAIN._replace(**{field: value}), b"payload")


def test_the_most_that_fits_fits() -> None:
    """256 dependencies of 65,535 bytes."""
    header = PLAIN._replace(dependencies=(Dependency("t", "x" * 65_535),) * MAX_DEPENDENCIES)
    found, rest = unseal(seal(header, b"payload"))
    assert found == header
    assert bytes(rest) == b"payload"


def test_fields_stand_where_scripts_look_for_them() -> None:
    """Epoch in bytes 8 to 15, stamp in bytes 16 to 23, and an identity that ends with the content hash."""
    blob = seal(PLAIN, b"payload")
    assert blob[:4] == b"cS\x01\0"
    assert int.from_bytes(blob[4:8], "big") == len(blob) - len(b"payload")
    assert blob[8:16].hex() == "9f86d081884c7d65"
    assert int.from_bytes(blob[16:24], "big") == 121
    assert int.from_bytes(blob[32:40], "big") == 1_750_000_000_000
    assert blob[72:88] == digest_of(b"payload")
    assert IDENTITY == 88


def test_the_table_in_the_docstring_is_right() -> None:
    """Offset and length of each field, read from the table, find the number that was put there."""
    rows = [line.split(maxsplit=2) for line in (envelope.__doc__ or "").splitlines() if line[:1].isdigit()]
    table = {rest.split()[0].rstrip(":,"): (int(at), int(size)) for at, size, rest in rows}
    names = {"own": "own", "made-at": "made", "fresh": "fresh", "stale": "stale", "error": "error", "schema": "schema", "key": "key_id"}
    names |= {"stamp": "number"}
    for offset, (field, name) in enumerate(names.items()):
        at, size = table[field]
        number: Any = 1_000 + offset
        blob = seal(PLAIN._replace(**{name: number}), b"")
        assert int.from_bytes(blob[at : at + size], "big") == 1_000 + offset, field
    at, size = table["epoch"]
    assert seal(PLAIN, b"")[at : at + size] == PLAIN.epoch
    at, size = table["content"]
    assert seal(PLAIN, b"")[at : at + size] == PLAIN.digest
    at, size = table["how"]
    assert seal(PLAIN._replace(dependencies=(Dependency("t", "a"),) * 3), b"")[at : at + size] == b"\0\3"


GOLDEN_HEADER = Header(
    COMPRESSED,
    bytes.fromhex("9f86d081884c7d65"),
    121,
    122,
    1_750_000_000_000,
    300_000,
    600_000,
    3_600_000,
    3,
    7,
    bytes(range(16)),
    (Dependency("t", "region:java"), Dependency("k", "users:é😀")),
)
GOLDEN_HEX = (
    "6353010100000077"  # cS, format 1, compressed, header and dependencies are 119 bytes
    "9f86d081884c7d65000000000000007900000000" + "0000007a"  # epoch, stamp 121, own 122
    "000001977420dc00"  # made-at
    "00000000000493e0" + "00000000000927c0" + "000000000036ee80"  # fresh, stale, error
    "0000000300000007"  # schema, key id
    "000102030405060708090a0b0c0d0e0f"  # content hash
    "0002"  # two dependencies
    "74000b726567696f6e3a6a617661"  # the tag region:java
    "6b000c75736572733ac3a9f09f9880"  # the key users:é😀
    "7061796c6f6164"  # payload
)


def test_envelopes_of_this_release_are_pinned() -> None:
    """Every later release reads them, byte by byte."""
    assert seal(GOLDEN_HEADER, b"payload").hex() == GOLDEN_HEX
    header, payload = unseal(bytes.fromhex(GOLDEN_HEX))
    assert header == GOLDEN_HEADER
    assert bytes(payload) == b"payload"


def test_the_content_hash_is_pinned() -> None:
    """xxh3-128, as it is written in every envelope."""
    assert digest_of(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert digest_of(b"payload") == digest_of(memoryview(b"payload")) == PLAIN.digest
    assert PLAIN.digest.hex() == "f3d6e72eb800dea99613f8bbf13ce4e5"


# --- through a cache --------------------------------------------------------------------------------------------------------------

VALUE = {"code": "JKT", "name": "Jakarta " * 20, "open": True}


class Damaged:
    """A cache whose one entry in Redis is damaged again and again."""

    def __init__(self, server: Server, namespace: str, compress_over: str | None) -> None:
        self.events: list[Event] = []
        self.local = LocalMemory(max_entries=10)
        policy = Policy(name="stores", match="stores:*", ttl="1h", tags=["stores"], compress_over=compress_over)
        # The budget is wide, so that no answer is late: a late one would be another way to recompute.
        wide = Settings(coordination=CoordinationSettings(budget="30s"), redis=RedisSettings(url=server.url), namespace=namespace)
        self.cache = Cache(wide, policies=[policy], local=self.local, listen=False, on_event=self.events.append)
        self.client = server.client()
        self.name = Names.of(namespace).entry("stores:JKT")
        self.computed = 0

    def read(self) -> bytes:
        found = cast("bytes | None", self.client.get(self.name))
        assert found is not None
        return found

    def write(self, blob: bytes) -> None:
        self.client.set(self.name, blob, px=3_600_000)
        self.local.clear()
        self.events.clear()
        self.computed = 0

    def compute(self) -> dict[str, Any]:
        self.computed += 1
        return VALUE

    def judge(self, at: int, served: object, payload_at: int) -> None:
        """What a call after damage at ``at`` has to have done."""
        assert served == VALUE, at
        unreadable = [event for event in self.events if event.name == "unreadable"]
        assert self.computed == bool(self.computed), "at most once"
        if at >= payload_at or at < 8 or 72 <= at < 88:
            assert self.computed == 1, at
        if at >= payload_at:
            assert [event.fields["key"] for event in unreadable] == ["stores:JKT"], at
        if unreadable:
            assert self.computed == 1, at


@pytest.mark.parametrize("compress_over", [None, "16B"], ids=["plain", "compressed"])
def test_damage_in_redis_is_never_served(server: Server, namespace: str, compress_over: str | None) -> None:
    """Each byte turned, each length cut: the call answers with the right value, computed anew where the damage matters, and says so."""
    damaged = Damaged(server, namespace, compress_over)

    @damaged.cache.cached("stores:{code}")
    def store(code: str) -> dict[str, Any]:
        assert code == "JKT"
        return damaged.compute()

    with damaged.cache:
        store("JKT")
        good = damaged.read()
        _, payload = unseal(good)
        payload_at = len(good) - len(payload)
        for at, blob in damages(good):
            if len(blob) == len(good):
                damaged.write(blob)
                damaged.judge(at, store("JKT"), payload_at)
        for length in (0, 1, 24, 88, 89, 90, payload_at - 1, payload_at, payload_at + 1, len(good) - 1):
            damaged.write(good[:length])
            damaged.judge(len(good), store("JKT"), payload_at)
        damaged.write(good)
        assert store("JKT") == VALUE
        assert (damaged.computed, damaged.events) == (0, []), "the undamaged entry is served, and nothing is said"


def test_damage_in_redis_is_never_served_to_a_coroutine(server: Server, namespace: str) -> None:
    """The same in the other colour, for every third byte."""
    damaged = Damaged(server, namespace, None)

    @damaged.cache.cached("stores:{code}")
    async def store(code: str) -> dict[str, Any]:
        assert code == "JKT"
        return damaged.compute()

    async def story() -> None:
        async with damaged.cache:
            await store("JKT")
            good = damaged.read()
            _, payload = unseal(good)
            for at in range(0, len(good), 3):
                damaged.write(changed(good, at, good[at] ^ 0xFF))
                damaged.judge(at, await store("JKT"), len(good) - len(payload))

    asyncio.run(story())


def test_what_can_not_be_read_is_mended_by_the_next_computation(server: Server, namespace: str) -> None:
    """Garbage is a miss, is replaced, and another process is served from then on."""
    damaged, other = Damaged(server, namespace, None), Damaged(server, namespace, None)

    def store(code: str) -> dict[str, Any]:
        assert code == "JKT"
        return damaged.compute()

    here = damaged.cache.cached("stores:{code}")(store)
    there = other.cache.cached("stores:{code}")(store)
    with damaged.cache, other.cache:
        for garbage in (b"", b"\0", b"garbage", b"cS\x01\0" + bytes(84), b"x" * 100_000):
            damaged.write(garbage)
            other.write(garbage)
            assert here("JKT") == VALUE
            assert damaged.computed == 1
            assert "unreadable" in [event.name for event in damaged.events]
            assert there("JKT") == VALUE
            assert damaged.computed == 1
            assert other.events == []

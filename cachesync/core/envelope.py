"""The envelope: the bytes of one value in a shared layer.

A fixed header, the dependencies, then the payload that a codec made. All numbers are big-endian and unsigned.

====== ===== ==================================================================================================
offset bytes field
====== ===== ==================================================================================================
0      2     ``cS``
2      1     format, 1
3      1     flags: 1 the payload is compressed with zstd, 2 it is encrypted
4      4     length of header and dependencies together: where the payload begins
8      8     epoch of the stamp
16     8     stamp: the last invalidation its computation had seen
24     8     own: the number of the record that announced it (an explicit ``set``), 0 for none
32     8     made-at: when its computation began, milliseconds, the shared layer's clock
40     8     fresh: milliseconds from made-at in which it may be served as fresh
48     8     stale: milliseconds after that in which it may be served while it is refreshed
56     8     error: milliseconds after being fresh in which it may be served when the computation fails
64     4     schema: the policy's version of the value
68     4     key id: which key encrypted it, 0 for none
72     16    content hash: xxh3-128 of the payload before compression; of one that is encrypted, the nonce and four zeros
88     2     how many dependencies follow, each as kind (1 byte), length (2 bytes), UTF-8 text
====== ===== ==================================================================================================

The first 24 bytes stand where scripts read them: a fill compares epoch and stamp there. Bytes that can not be read are a miss.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import xxhash

from cachesync.core.entry import MAX_DEPENDENCIES, NO_DEPENDENCIES, Dependency
from cachesync.core.stamps import EPOCH_BYTES, Stamp
from cachesync.core.tuples import make

MAGIC: Final = b"cS"
FORMAT: Final = 1
COMPRESSED: Final = 1
ENCRYPTED: Final = 2
KNOWN_FLAGS: Final = COMPRESSED | ENCRYPTED
IDENTITY: Final = 88
"""The first bytes, up to and with the content hash, tell one fill of a key from another."""
DIGEST_BYTES: Final = 16

_FIXED: Final = struct.Struct(">2sBBI8sQQQQQQII16sH")
_DEPENDENCY: Final = struct.Struct(">cH")


class EnvelopeError(ValueError):
    """These bytes are not an envelope that can be read here: a miss, and worth one warning."""


class Header(NamedTuple):
    """What the envelope says of its payload. Times are milliseconds of the shared layer's clock."""

    flags: int
    epoch: bytes
    number: int
    own: int
    made: int
    fresh: int
    stale: int
    error: int
    schema: int
    key_id: int
    digest: bytes
    dependencies: tuple[Dependency, ...] = NO_DEPENDENCIES

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.epoch.hex(), self.number)


def digest_of(payload: bytes | memoryview) -> bytes:
    """The content hash: xxh3-128, 16 bytes. It finds damage and names content; it does not prove who wrote it."""
    return xxhash.xxh3_128_digest(payload)


def check_dependencies(dependencies: Sequence[Dependency]) -> None:
    """Raise ``ValueError`` for more dependencies, or longer ones, than an envelope can hold."""
    if len(dependencies) > MAX_DEPENDENCIES:
        raise ValueError(f"{len(dependencies)} tags; an entry has at most {MAX_DEPENDENCIES}")
    for _, text in dependencies:
        if len(text) * 3 > 0xFFFF and len(text.encode("utf-8", "surrogatepass")) > 0xFFFF:
            raise ValueError(f"a tag of {len(text):,} characters; at most 65,535 bytes fit")


def seal(header: Header, payload: bytes) -> bytes:
    """The bytes to store. Raises ``ValueError`` where a number or a text does not fit its field."""
    check_dependencies(header.dependencies)
    if len(header.epoch) != EPOCH_BYTES or len(header.digest) != DIGEST_BYTES:
        raise ValueError(f"an epoch has {EPOCH_BYTES} bytes and a content hash {DIGEST_BYTES}")
    tail = b""
    for kind, text in header.dependencies:
        encoded = text.encode("utf-8", "surrogatepass")
        tail += _DEPENDENCY.pack(kind.encode("ascii"), len(encoded)) + encoded
    try:
        fixed = _FIXED.pack(
            MAGIC, FORMAT, header.flags, _FIXED.size + len(tail), header.epoch, header.number, header.own, header.made, header.fresh,
            header.stale, header.error, header.schema, header.key_id, header.digest, len(header.dependencies),
        )  # fmt: skip
    except struct.error as error:
        raise ValueError(f"a field of the header does not fit: {error}") from error
    return fixed + tail + payload


def unseal(blob: bytes) -> tuple[Header, memoryview]:
    """Header and payload of stored bytes, or of their beginning as far as the header goes.

    Raises `EnvelopeError` for anything that is not an envelope of this format.
    """
    try:
        magic, form, flags, length, epoch, number, own, made, fresh, stale, error, schema, key_id, digest, count = _FIXED.unpack_from(blob)
    except struct.error as problem:
        raise EnvelopeError(f"{len(blob)} bytes are too short for a header") from problem
    if magic != MAGIC or form != FORMAT or flags & ~KNOWN_FLAGS:
        raise EnvelopeError("these bytes were not written by cachesync, or by a version whose format is not known here")
    dependencies = _read_dependencies(blob, count, length) if count else NO_DEPENDENCIES
    if (length != _FIXED.size and not count) or length > len(blob):
        raise EnvelopeError("the header's length does not fit its content")
    header = make(Header, (flags, epoch, number, own, made, fresh, stale, error, schema, key_id, digest, dependencies))
    return header, memoryview(blob)[length:]


def _read_dependencies(blob: bytes, count: int, length: int) -> tuple[Dependency, ...]:
    at = _FIXED.size
    found: list[Dependency] = []
    try:
        for _ in range(count):
            kind, size = _DEPENDENCY.unpack_from(blob, at)
            at += _DEPENDENCY.size + size
            found.append(Dependency(kind.decode("ascii"), blob[at - size : at].decode("utf-8", "surrogatepass")))
    except (struct.error, UnicodeDecodeError) as problem:
        raise EnvelopeError("the dependencies can not be read") from problem
    if at != length:
        raise EnvelopeError("the dependencies do not end where the payload begins")
    return tuple(found)

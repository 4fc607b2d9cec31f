"""Payloads made smaller, with zstd.

A frame carries its size and a checksum. The compressor and decompressor of ``zstandard`` belong to one thread at a time, and making one
costs more than compressing a small payload does: each thread keeps its own pair.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from cachesync.errors import CodecError

LEVEL: Final = 3
LARGEST: Final = 1 << 30
"""No payload is larger than this, in bytes: a frame that says it holds more is refused before any memory is taken."""

_MOST_PER_BYTE: Final = 32_768
"""A zstd block holds 128 KiB at most and takes 4 bytes at least (RFC 8878, 3.1.1.2): a frame that promises more than that lies."""


class _Tools(threading.local):
    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_tools = _Tools()


def compress(payload: bytes) -> bytes:
    """``payload`` as one zstd frame. Raises ``CodecError`` if it is larger than ``LARGEST``."""
    if len(payload) > LARGEST:
        raise CodecError(f"a payload of {len(payload)} bytes is larger than {LARGEST}")
    return _tools.compress(payload)


def decompress(payload: bytes | memoryview) -> bytes:
    """What ``compress`` was given. Raises ``CodecError`` for anything that ``compress`` did not make."""
    try:
        size = zstandard.get_frame_parameters(payload).content_size
        if size > min(LARGEST, _MOST_PER_BYTE * len(payload)):  # An unknown size is the largest number there is.
            raise CodecError("the compressed payload gives no size, or one that can not be true")
        return _tools.decompress(payload, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError):
        raise CodecError("the compressed payload can not be read") from None

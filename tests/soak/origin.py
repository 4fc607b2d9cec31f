"""The truth: versions that all processes share, in a file mapped into memory, and a board for the newest stamps.

A version only rises, and one writer at a time raises it. Nobody waits for a writer, because it may be frozen: `Origin.raise_version`
says that it did not happen.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Final

from cachesync import Stamp
from soak.world import THINGS

_NOTE: Final = struct.Struct("<I60s")


class OriginError(Exception):
    """A computation failed, as origins do now and then."""


class Origin:
    """The versions as one process sees them. Its file is made by `create`."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "origin", os.O_RDWR)
        self._map = mmap.mmap(self._file, len(THINGS) * 8)
        self._versions = memoryview(self._map).cast("Q")  # an aligned word is read and written in one piece
        self._writers = [threading.Lock() for _ in THINGS]  # the kernel's locks do not tell threads apart
        self._board = os.open(folder / "board", os.O_RDWR)

    @staticmethod
    def create(folder: Path, *, slots: int) -> None:
        (folder / "origin").write_bytes(bytes(len(THINGS) * 8))
        (folder / "board").write_bytes(bytes(slots * _NOTE.size))

    def version(self, cell: int) -> int:
        return self._versions[cell]

    def versions(self) -> list[int]:
        return self._versions.tolist()

    def raise_version(self, cell: int) -> int | None:
        """The new version; ``None`` where somebody else is about to write."""
        if not self._writers[cell].acquire(blocking=False):
            return None
        try:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, cell)
            except OSError:
                return None
            try:
                self._versions[cell] += 1
                return self._versions[cell]
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, cell)
        finally:
            self._writers[cell].release()

    def pin(self, slot: int, stamp: Stamp) -> None:
        """Show the others a stamp that was acknowledged here."""
        text = str(stamp).encode()
        os.pwrite(self._board, _NOTE.pack(zlib.crc32(text), text), slot * _NOTE.size)

    def pinned(self, slot: int) -> Stamp | None:
        """The newest stamp of another process; ``None`` where there is none, or it is just being written."""
        check, padded = _NOTE.unpack(os.pread(self._board, _NOTE.size, slot * _NOTE.size))
        text = padded.rstrip(b"\0")
        return Stamp.parse(text.decode()) if text and zlib.crc32(text) == check else None

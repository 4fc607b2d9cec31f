"""Encryption keys: which there are, by number, and how they are written down.

``2:base64,1:base64``: the first one encrypts, all of them decrypt. The number stands in the header of what it has encrypted. The text is
a secret, so nothing here shows any of it: messages say where a mistake is, not what was found there.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cachesync.errors import PolicyError

VARIABLE: Final = "CACHESYNC_ENCRYPTION_KEYS"
KEY_BYTES: Final = 32
"""AES-256."""
LARGEST_NUMBER: Final = 2**32 - 1
"""The header has four bytes for it; 0 means that nothing is encrypted."""
_URL_SAFE: Final = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class EncryptionKeys:
    """Keys by number, the one that encrypts first. Raises ``PolicyError`` for a text that does not spell such keys."""

    by_number: Mapping[int, bytes] = field(repr=False)

    def __init__(self, text: str, *, where: str = "encryption_keys") -> None:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise PolicyError(f"{where}: they are given as a text, 1:key")
        found, problems = _read(text)
        if problems:
            raise PolicyError(*(f"{where}: {problem}" for problem in problems))
        object.__setattr__(self, "by_number", found)

    def __repr__(self) -> str:
        return f"EncryptionKeys({', '.join(map(str, self.numbers))})"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the keys; the first one's key encrypts."""
        return tuple(self.by_number)


def new_key(number: int) -> str:
    """A new key as it is written down: 256 bits from the operating system, in URL-safe base64 (RFC 4648, 5)."""
    return f"{number}:{base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode('ascii')}"


def _read(text: str) -> tuple[dict[int, bytes], list[str]]:
    found: dict[int, bytes] = {}
    problems: list[str] = []
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        return found, ["it is empty; write 1:key, and make a key with `cachesync key`"]
    for place, part in enumerate(parts, 1):
        which = f"key {place} of {len(parts)}" if len(parts) > 1 else "the key"
        number, colon, encoded = part.partition(":")
        is_number = number.isascii() and number.isdecimal() and len(number) <= 10 and 1 <= int(number) <= LARGEST_NUMBER
        if not colon or not is_number:
            problems.append(f"{which} does not begin with its number and a colon; write 1:key (1 to {LARGEST_NUMBER})")
            continue
        key = _bytes_of(encoded)
        if key is None or len(key) != KEY_BYTES:
            has = "is not base64" if key is None else f"has {len(key)} bytes"
            problems.append(f"{which} {has}; AES-256 takes {KEY_BYTES} bytes in base64, as `cachesync key` makes them")
        elif int(number) in found:
            problems.append(f"the number {int(number)} stands twice; give a new key a new number")
        elif key in found.values():
            problems.append(f"{which} is the same as an earlier one; make another with `cachesync key`")
        else:
            found[int(number)] = key
    return found, problems


def _bytes_of(encoded: str) -> bytes | None:
    """What base64 spells, in the common or the URL-safe alphabet, with padding or without."""
    try:
        return base64.b64decode(encoded.translate(_URL_SAFE) + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None

"""The header fields of one message, as servers give them: names and values in bytes, in their order (RFC 9110, 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

Pairs = tuple[tuple[bytes, bytes], ...]

WHITESPACE: Final = b" \t"
"""Optional whitespace (RFC 9110, 5.6.3)."""


class HeaderFields:
    """Fields by name, which is compared in lower case. Values come back without the whitespace around them."""

    __slots__ = ("_by_name", "pairs")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.pairs: Final[Pairs] = tuple((bytes(name).lower(), bytes(value)) for name, value in pairs)
        self._by_name: dict[bytes, tuple[bytes, ...]] = {}
        for name, value in self.pairs:
            self._by_name[name] = (*self._by_name.get(name, ()), value.strip(WHITESPACE))

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeaderFields) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"HeaderFields({list(self.pairs)!r})"

    def lines(self, name: bytes) -> tuple[bytes, ...]:
        """The value of each line with that name."""
        return self._by_name.get(name, ())

    def value(self, name: bytes) -> bytes | None:
        """The lines of a field as one value, joined by commas (RFC 9110, 5.2); ``None`` where there is none."""
        found = self._by_name.get(name)
        return None if found is None else b", ".join(found)

    def without(self, names: Iterable[bytes]) -> HeaderFields:
        """These fields but those."""
        gone = frozenset(names)
        return HeaderFields(pair for pair in self.pairs if pair[0] not in gone)

    def plus(self, *pairs: tuple[bytes, bytes]) -> HeaderFields:
        """These fields and, behind them, more."""
        return HeaderFields((*self.pairs, *pairs))

    def replaced(self, name: bytes, value: bytes) -> HeaderFields:
        """These fields with one line of that name, at the end."""
        return self.without((name,)).plus((name, value))

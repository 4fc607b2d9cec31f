"""Cache-Control, read and written (RFC 9111, 5.2), and fields of its kind for one sort of cache (RFC 9213).

What is malformed is read in the cautious way: a lifetime that is no number is none (4.2.1), and a directive that forbids something
forbids it whatever its argument is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from cachesync.core.header_fields import WHITESPACE, HeaderFields

FOREVER: Final = 2**31
"""Seconds that stand for any larger number (RFC 9111, 1.2.2)."""

_MEMBER: Final = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++', re.DOTALL)
"""What stands between two commas, where those inside of quotes do not count. A quote that is not closed reaches to the end."""
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"', re.DOTALL)

# Structured fields (RFC 9651): a dictionary, of which numbers, booleans, texts and words are used here.
_KEY: Final = rb"[a-z*][a-z0-9_.*-]*+"
_TEXT: Final = rb'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+"'
_BARE: Final = (
    rb"(?:-?\d{1,12}\.\d{1,3}|-?\d{1,15}|" + _TEXT + rb"|:[A-Za-z0-9+/=]*+:|\?[01]|@-?\d{1,15}|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*+)"
)
_PARAMETERS: Final = rb"(?:;\x20*+" + _KEY + rb"(?:=" + _BARE + rb")?+)*+"
_INNER: Final = rb"\(\x20*+(?:" + _BARE + _PARAMETERS + rb"(?:\x20++|(?=\))))*+\)"
_DICTIONARY_MEMBER: Final = re.compile(
    rb"(" + _KEY + rb")(?:=(" + _BARE + rb"|" + _INNER + rb"))?+" + _PARAMETERS + rb"(?:[ \t]*+\Z|[ \t]*+,[ \t]*+(?=[^ \t,]))"
)
_LIST_MEMBER: Final = re.compile(rb"(" + _BARE + rb"|" + _INNER + rb")" + _PARAMETERS + rb"(?:[ \t]*+\Z|[ \t]*+,[ \t]*+(?=[^ \t,]))")


class CacheControl:
    """The directives of a message by their names, in lower case. Of several with one name the first counts, and one without an argument
    before all: it is the stricter one.
    """

    __slots__ = ("_given",)

    def __init__(self, directives: Iterable[tuple[str, bytes | None]] = ()) -> None:
        self._given: dict[str, bytes | None] = {}
        for name, argument in directives:
            if argument is None or name not in self._given:
                self._given[name] = argument

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[tuple[str, bytes | None]]:
        return iter(self._given.items())

    def __bool__(self) -> bool:
        return bool(self._given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheControl) and self._given == other._given

    def __hash__(self) -> int:
        return hash(tuple(self._given.items()))

    def __repr__(self) -> str:
        return f"CacheControl({list(self._given.items())!r})"

    def seconds(self, name: str) -> int | None:
        """The argument in seconds, at most `FOREVER`; ``None`` where the directive is not there, 0 where it says no number."""
        if name not in self._given:
            return None
        digits = self._given[name] or b""
        if not digits.isdigit():
            return 0
        significant = digits.lstrip(b"0")
        return FOREVER if len(significant) > 10 else min(int(significant or b"0"), FOREVER)

    def names(self, name: str) -> frozenset[bytes]:
        """The field names that ``no-cache="..."`` or ``private="..."`` lists, in lower case; none where it concerns all of the message."""
        return frozenset(part for text in (self._given.get(name) or b"").split(b",") if (part := text.strip(WHITESPACE).lower()))

    def has_argument(self, name: str) -> bool:
        """Is it there with an argument?"""
        return self._given.get(name) is not None


def read_cache_control(lines: Iterable[bytes]) -> CacheControl:
    """The directives of the lines of a ``Cache-Control`` field. Never raises."""
    return CacheControl(_directives(b",".join(lines)))


def _directives(text: bytes) -> Iterable[tuple[str, bytes | None]]:
    for member in _MEMBER.findall(text):
        name, equals, argument = member.strip(WHITESPACE).partition(b"=")
        if not name:
            continue
        if not equals:
            yield name.decode("latin-1").lower(), None
            continue
        quoted = _QUOTED.fullmatch(argument)
        if quoted is not None:
            argument = re.sub(rb"\\(.)", rb"\1", quoted[1], flags=re.DOTALL)
        # Whitespace around "=" is not in the grammar: whoever wrote it is taken at their word but for the number.
        yield name.rstrip(WHITESPACE).decode("latin-1").lower(), b"" if name[-1:] in (b" ", b"\t") else argument


def read_targeted(lines: Iterable[bytes]) -> CacheControl | None:
    """The directives of a targeted field such as ``CDN-Cache-Control``, which is a structured dictionary (RFC 9213, 2.1).

    ``None`` where it is empty or malformed: then it is as if it were not there (2.2). Never raises.
    """
    text = b", ".join(line.strip(WHITESPACE) for line in lines).strip(b" ")
    directives: dict[str, bytes | None] = {}
    at = 0
    while at < len(text):
        found = _DICTIONARY_MEMBER.match(text, at)
        if found is None:
            return None
        name, value = found[1].decode("ascii"), found[2]
        directives.pop(name, None)  # of members with one key the last counts (RFC 9651, 3.2)
        if value is None or value == b"?1":
            directives[name] = None
        elif value != b"?0":
            directives[name] = value[1:-1] if value[:1] == b'"' else value
        at = found.end()
    return CacheControl(directives.items()) if text else None


def control_of(fields: HeaderFields, targets: Collection[bytes] = ()) -> CacheControl:
    """What a response says to a cache: the first of its ``targets`` that is there and well-formed, else ``Cache-Control`` (RFC 9213, 2.2).

    ``private`` in ``Cache-Control`` holds beside a targeted field. That is stricter than the RFC, and on purpose: what belongs to one user
    is never kept for others because of a field that was meant for that user's own client.
    """
    usual = read_cache_control(fields.lines(b"cache-control"))
    for target in targets:
        found = read_targeted(fields.lines(target))
        if found is not None:
            return CacheControl((*found, ("private", None))) if "private" in usual else found
    return usual


def is_targeted(fields: HeaderFields, targets: Collection[bytes]) -> bool:
    """Is there a well-formed field among ``targets``? Then ``Expires`` counts no more than ``Cache-Control`` does (RFC 9213, 2.2)."""
    return any(read_targeted(fields.lines(target)) is not None for target in targets)


def read_texts(lines: Iterable[bytes]) -> tuple[str, ...]:
    """The members of a structured list of texts, as ``Cache-Groups`` is (RFC 9875, 2); none where it is malformed. Never raises."""
    text = b", ".join(line.strip(WHITESPACE) for line in lines).strip(b" ")
    found: list[str] = []
    at = 0
    while at < len(text):
        member = _LIST_MEMBER.match(text, at)
        if member is None or member[1][:1] != b'"':
            return ()
        found.append(re.sub(rb"\\(.)", rb"\1", member[1][1:-1]).decode("ascii"))
        at = member.end()
    return tuple(found)


def write_cache_control(directives: Mapping[str, float | bool | str | Collection[str]]) -> bytes:
    """A ``Cache-Control`` value: ``{"private": True, "max-age": 300}`` is ``private, max-age=300``.

    True is the name alone, False leaves it out, numbers are seconds (rounded down, 0 to `FOREVER`), names of fields are quoted.
    """
    return ", ".join(_written(name, value) for name, value in directives.items() if value is not False).encode("latin-1")


def _written(name: str, value: float | bool | str | Collection[str]) -> str:
    if value is True:
        return name
    if isinstance(value, (int, float)):
        return f"{name}={int(min(max(value, 0), FOREVER))}"
    return f'{name}="{value if isinstance(value, str) else ", ".join(value)}"'

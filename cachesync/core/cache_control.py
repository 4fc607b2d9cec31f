"""Cache-Control, read and written (RFC 9111, 5.2), and fields of its kind for one sort of cache (RFC 9213).

What is malformed is read in the cautious way: a lifetime that is no number is none (4.2.1), and a directive that forbids something
forbids it whatever its argument is. Fields are texts of Latin-1, their lines joined with commas, as in `http`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from cachesync.core.http import LONGEST, Fields, whole

_SPACE: Final = " \t"
_MEMBER: Final = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++', re.DOTALL)
"""What stands between two commas, where those inside of quotes do not count. A quote that is not closed reaches to the end."""
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)

# Structured fields (RFC 9651), as far as they are needed: what is read of them are numbers, booleans, texts and words.
_KEY: Final = r"[a-z*][a-z0-9_.*-]*+"
_TEXT: Final = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+"'
_NUMBER: Final = r"-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}"
_OTHERS: Final = r":[A-Za-z0-9+/=]*+:|\?[01]|@-?[0-9]{1,15}|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*+"
_BARE: Final = rf"(?:{_NUMBER}|{_TEXT}|{_OTHERS})"
_PARAMETERS: Final = rf"(?:;\x20*+{_KEY}(?:={_BARE})?+)*+"
_INNER: Final = rf"\(\x20*+(?:{_BARE}{_PARAMETERS}(?:\x20++|(?=\))))*+\)"
_END: Final = r"(?:[ \t]*+\Z|[ \t]*+,[ \t]*+(?=[^ \t,]))"
_OF_DICTIONARY: Final = re.compile(rf"({_KEY})(?:=({_BARE}|{_INNER}))?+{_PARAMETERS}{_END}")
_OF_LIST: Final = re.compile(rf"({_BARE}|{_INNER}){_PARAMETERS}{_END}")


class CacheControl:
    """The directives of a message by their names, in small letters. Of several with one name the first counts, and one without an
    argument before all: it is the stricter one.
    """

    __slots__ = ("_given",)

    def __init__(self, directives: Iterable[tuple[str, str | None]] = ()) -> None:
        self._given: dict[str, str | None] = {}
        for name, argument in directives:
            if argument is None or name not in self._given:
                self._given[name] = argument

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        return iter(self._given.items())

    def __repr__(self) -> str:
        return f"CacheControl({list(self)!r})"

    def seconds(self, name: str) -> int | None:
        """The argument in seconds, at most `http.LONGEST`; ``None`` where the directive is not there, 0 where it is no number."""
        if name not in self._given:
            return None
        digits = self._given[name] or ""
        if not (digits.isascii() and digits.isdigit()):
            return 0
        significant = digits.lstrip("0")
        return LONGEST if len(significant) > 10 else min(int(significant or "0"), LONGEST)

    def argument(self, name: str) -> str | None:
        """The argument as text; ``None`` where there is none."""
        return self._given.get(name)

    def fields(self, name: str) -> frozenset[str]:
        """The fields that ``no-cache="..."`` lists, in small letters; none where it concerns all of the message (5.2.2.4)."""
        return frozenset(part for text in (self._given.get(name) or "").split(",") if (part := text.strip(_SPACE).lower()))


def read_cache_control(text: str | None) -> CacheControl:
    """The directives of a ``Cache-Control`` field. Never raises."""
    return CacheControl(_directives(text or ""))


def _directives(text: str) -> Iterator[tuple[str, str | None]]:
    for member in _MEMBER.findall(text):
        name, equals, argument = member.strip(_SPACE).partition("=")
        if not name:
            continue
        if not equals:
            yield name.lower(), None
            continue
        quoted = _QUOTED.fullmatch(argument)
        if quoted is not None:
            argument = _ESCAPED.sub(r"\1", quoted[1])
        # Whitespace around "=" is not in the grammar: whoever wrote it is taken at their word, but for the number.
        yield name.rstrip(_SPACE).lower(), "" if name[-1] in _SPACE else argument


def read_targeted(text: str | None) -> CacheControl | None:
    """The directives of a targeted field such as ``CDN-Cache-Control``, which is a structured dictionary (RFC 9213, 2.1).

    ``None`` where it is not there, empty or malformed: then the next field counts (2.2). Never raises.
    """
    text = (text or "").strip(" ")
    directives: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        found = _OF_DICTIONARY.match(text, at)
        if found is None:
            return None
        name, value = found[1], found[2]
        directives.pop(name, None)  # of members with one key the last counts (RFC 9651, 3.2)
        if value is None or value == "?1":
            directives[name] = None
        elif value != "?0":
            directives[name] = _ESCAPED.sub(r"\1", value[1:-1]) if value[0] == '"' else value
        at = found.end()
    return CacheControl(directives.items()) if text else None


def control_of(answer: Fields, targets: Collection[str] = ()) -> CacheControl:
    """What an answer says to a cache: the first of its ``targets`` that is there and well-formed, else ``Cache-Control`` (RFC 9213, 2.2).

    ``private`` in ``Cache-Control`` holds beside a targeted field. That is stricter than the RFC, and on purpose: what belongs to one user
    is not kept for others because of a field that was meant for that user's own client.
    """
    usual = read_cache_control(answer.get("cache-control"))
    found = targeted(answer, targets)
    if found is None:
        return usual
    return CacheControl((*found, ("private", None))) if "private" in usual else found


def targeted(answer: Fields, targets: Collection[str]) -> CacheControl | None:
    """The first of ``targets``, in small letters, that is there and well-formed. Then ``Expires`` counts for nothing (RFC 9213, 2.2)."""
    return next((found for name in targets if (found := read_targeted(answer.get(name))) is not None), None)


def read_texts(text: str | None) -> tuple[str, ...]:
    """The members of a structured list of texts, as ``Cache-Groups`` is (RFC 9875, 2); none where it is malformed. Never raises."""
    text = (text or "").strip(" ")
    found: list[str] = []
    at = 0
    while at < len(text):
        member = _OF_LIST.match(text, at)
        if member is None or member[1][0] != '"':
            return ()
        found.append(_ESCAPED.sub(r"\1", member[1][1:-1]))
        at = member.end()
    return tuple(found)


def write_cache_control(directives: Mapping[str, float | bool | Collection[str]]) -> str:
    """A ``Cache-Control`` value: ``{"private": True, "max-age": 300}`` is ``private, max-age=300``.

    True is the name alone, False leaves it out, numbers are seconds (cut off, 0 to `http.LONGEST`), names of fields are quoted.
    """
    return ", ".join(_written(name, value) for name, value in directives.items() if value is not False)


def _written(name: str, value: float | bool | Collection[str]) -> str:
    if value is True:
        return name
    if isinstance(value, (int, float)):
        return f"{name}={whole(value)}"
    return f'{name}="{", ".join(value)}"'

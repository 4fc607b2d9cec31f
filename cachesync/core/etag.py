"""Entity tags: what names one representation of one resource (RFC 9110, 8.8.3).

The tags made here name content. They are strong, because they are made of the very bytes that are sent: two answers with one tag are the
same byte for byte (RFC 9110, 8.8.1). Each is bound to its resource, so that a tag that a client found elsewhere says nothing here, and
to the content coding, because a compressed body is another representation (RFC 9110, 8.8.3.3). Nothing random and nothing of the process
goes into one, so every process makes the same, also after a restart.

What a client sends is read as far as it can be understood. A field that can not be read matches nothing, which is the safe side of every
question: a full answer instead of a 304, and 412 instead of a write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import xxhash

_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
"""RFC 9110, 8.8.3. The one weak mark there is: ``w/`` is none."""
_BETWEEN: Final = re.compile(r"[ \t,]*")
_SPACE: Final = " \t"
MOST_TAGS: Final = 1_000
"""Tags that are read of one field. What a client says beyond that matches nothing."""


class EntityTag(NamedTuple):
    """An entity tag: its opaque text, without quotes, and whether it is weak. ``str`` writes it as it stands in a field."""

    opaque: str
    is_weak: bool = False

    def __str__(self) -> str:
        return f'W/"{self.opaque}"' if self.is_weak else f'"{self.opaque}"'

    def matches_strongly(self, other: EntityTag) -> bool:
        """The strong comparison: equal, and neither is weak (RFC 9110, 8.8.3.2). For ``If-Match`` and ``If-Range``."""
        return self.opaque == other.opaque and not self.is_weak and not other.is_weak

    def matches_weakly(self, other: EntityTag) -> bool:
        """The weak comparison: equal, whether weak or not (RFC 9110, 8.8.3.2). For ``If-None-Match``."""
        return self.opaque == other.opaque


class Tags(NamedTuple):
    """What ``If-Match`` or ``If-None-Match`` names: entity tags, or ``*``, which is any representation that there is."""

    listed: Sequence[EntityTag] = ()
    is_any: bool = False


def read_tag(text: str) -> EntityTag | None:
    """The one entity tag that a field holds, such as ``ETag`` or ``If-Range``; ``None`` where it holds anything else."""
    found = _TAG.fullmatch(text.strip(_SPACE))
    return None if found is None else EntityTag(found[2], found[1] is not None)


def read_tags(text: str) -> Tags:
    """The field value of ``If-Match`` or ``If-None-Match`` (RFC 9110, 13.1.1 and 13.1.2).

    Several lines of the field are joined with commas before (RFC 9110, 5.3). Empty members of the list count for nothing (5.6.1.2), and
    from the first place on that can not be read nothing is taken: what follows may belong to a tag that was cut.
    """
    text = text.strip(_SPACE)
    if text == "*":
        return Tags(is_any=True)
    found: list[EntityTag] = []
    at = _after(text, 0)
    while at < len(text) and len(found) < MOST_TAGS:
        tag = _TAG.match(text, at)
        if tag is None:
            break
        following = _after(text, tag.end())
        if following < len(text) and "," not in text[tag.end() : following]:
            break
        found.append(EntityTag(tag[2], tag[1] is not None))
        at = following
    return Tags(found)


def _after(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return at if between is None else between.end()


def content_tag(body: bytes | memoryview, *, target: str, coding: str = "", schema: str = "") -> EntityTag:
    """The strong tag of an answer: xxh3-128 over its ``body`` and over what it is bound to.

    ``target`` is the resource (path and query), ``coding`` the ``Content-Encoding``, and ``schema`` names the versions of the data that
    it was made of: raise one, and a tag from before matches no more. The hash finds what has changed; it proves nothing about who wrote it.
    """
    bound = "\0".join((target, coding.strip().lower(), schema)).encode("utf-8", "surrogatepass")
    hashed = xxhash.xxh3_128(body, seed=xxhash.xxh3_64_intdigest(bound))
    return EntityTag(hashed.hexdigest())

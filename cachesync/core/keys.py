"""Keys: from the arguments of a call to a text that no other call shares, and back.

A template such as ``stores:{code}:stats:{days}`` names the arguments. An argument of the parameter's annotated type is written
plainly (``stores:JKT:stats:7``), so that SQL, JSON and the command line can name keys as text. Any other is marked: after ``~``
follow a letter for its type and its value. Three rules make a text unambiguous:

* a value never contains ``:``; two placeholders always have one between them;
* a plain text never begins with ``~``; every marked value begins with it, and says its type;
* ``%``, ``*``, ``:``, control characters and lone surrogates in a value are percent-encoded (RFC 3986, 2.1), so that a key is
  never a pattern.

Where no type is annotated, ``str`` is the plain one. A parameter's subclass instances count as the type they extend, except for
``bool`` and enumerations.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

from cachesync.core.arguments import FAST_TYPES, PLAIN_TYPES, UNKNOWN, decode, encode, percent
from cachesync.core.patterns import DIGITS, HOLE, intersects
from cachesync.errors import KeyArgumentError, KeyTemplateError

MAX_KEY_LENGTH: Final = 65_536
"""Characters in a key's text. What needs more should be keyed on a part of it, or on its hash."""
_INTEGER_OR_MARKED: Final = re.compile(r"-?[0-9]+\Z|~")
_IN_TEXT: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_RESERVED: Final = re.compile("[%*~{}\x00-\x1f\x7f\ud800-\udfff]")


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One placeholder: a parameter, or a part of it reached by attributes. ``plain`` is the type that is written plainly."""

    path: str
    parameter: str
    attributes: tuple[str, ...]
    plain: type[Any]

    typed: bool
    """The annotation admits this one type only, and its values may stand in a raw key."""


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A key template that fits its function. ``segments`` are what stands between colons: literal, or prefix, field, suffix."""

    text: str
    fields: tuple[Field, ...]
    segments: tuple[str | tuple[str, int, str], ...]
    shape: str
    """The template as `core.patterns` sees it: with a hole for each placeholder."""

    def texts(self, values: Sequence[object]) -> list[str]:
        """The values of the fields as they stand in a key. Raises `KeyArgumentError`."""
        found: list[str] = []
        for field, value in zip(self.fields, values, strict=True):
            try:
                found.append(encode(value, field.plain))
            except Exception as error:  # also what a user's __cachesync_key__ or field raises
                raise KeyArgumentError(f"{{{field.path}}} of {self.text!r}: {error}") from error
        return found

    def join(self, texts: Sequence[str]) -> str:
        """The key, from the texts of its fields. Raises `KeyArgumentError` for a key that is too long."""
        parts = [s if isinstance(s, str) else s[0] + texts[s[1]] + s[2] for s in self.segments]
        key = ":".join(parts)
        if len(key) > MAX_KEY_LENGTH:
            raise KeyArgumentError(
                f"the key of {self.text!r} would have {len(key):,} characters; at most {MAX_KEY_LENGTH:,} are allowed. "
                f"Key on a part of the argument, {{argument.id}}, or leave it out with ignore=[...]"
            )
        return key

    def split(self, key: str) -> list[str] | None:
        """The texts of the fields in a key, ``None`` if it is not one of this template."""
        texts = key.split(":")
        if len(texts) != len(self.segments):
            return None
        found = [""] * len(self.fields)
        for text, segment in zip(texts, self.segments, strict=True):
            if isinstance(segment, str):
                if text != segment:
                    return None
                continue
            prefix, at, suffix = segment
            if not text.startswith(prefix) or not text.endswith(suffix) or len(text) < len(prefix) + len(suffix):
                return None
            found[at] = text[len(prefix) : len(text) - len(suffix)]
            if self.fields[at].plain is int and not _INTEGER_OR_MARKED.match(found[at]):
                return None
        return found

    def raw(self, texts: Sequence[str], key: str) -> Hashable:
        """The raw key for the texts of the fields: what the compiled wrapper looks up. A value that can not stand in one, or a text
        that `texts` would not have written, makes it the 1-tuple of the key's text, which no arguments look like.
        """
        raw: list[Any] = []
        for text, field in zip(texts, self.fields, strict=True):
            value = decode(text, field.plain, typed=field.typed)
            if value is UNKNOWN:
                return (key,)
            raw.append(value)
            if not field.typed:
                raw.append(value.__class__)
        return raw[0] if len(raw) == 1 else tuple(raw)


def compile_template(text: str, *, parameters: Mapping[str, Any], ignore: Sequence[str] | None, what: str) -> Template:
    """Fit a template to a function. ``parameters`` maps each name to its annotation (``inspect.Parameter.empty`` for none).

    Every parameter is named in the template or in ``ignore``, and nothing else is; with ``ignore=None`` (a tag) some may be left
    out. Raises `KeyTemplateError`, naming ``what``.
    """

    def wrong(problem: str) -> KeyTemplateError:
        return KeyTemplateError(f"{what}: key template {text!r}: {problem}")

    if not text:
        raise wrong("is empty")
    literal = _PLACEHOLDER.sub("", text)
    if bad := _RESERVED.search(literal):
        hint = "placeholders are written {name}" if bad.group() in "{}" else "it has a meaning of its own in keys or patterns"
        raise wrong(f"{bad.group()!r} can not stand in it: {hint}")
    fields: list[Field] = []
    segments: list[str | tuple[str, int, str]] = []
    for segment in text.split(":"):
        places = list(_PLACEHOLDER.finditer(segment))
        if len(places) > 1:
            raise wrong(f"{places[0].group()} and {places[1].group()} need a ':' between them, or two calls could share one key")
        if any(brace in _PLACEHOLDER.sub("", segment) for brace in "{}"):
            raise wrong(f"{segment!r} has half a placeholder; write {{name}} or {{name.attribute}}, without a format")
        if not places:
            segments.append(segment)
            continue
        place = places[0]
        segments.append((segment[: place.start()], len(fields), segment[place.end() :]))
        fields.append(_field(place.group(1), parameters, wrong))
    for name in ignore or ():
        if name not in parameters:
            raise wrong(f"ignore names {name!r}, which is no parameter")
        if any(field.parameter == name for field in fields):
            raise wrong(f"{name!r} is named in the template and in ignore")
    named = {field.parameter for field in fields}
    for name in parameters if ignore is not None else ():
        if name not in named and name not in (ignore or ()):
            advice = (
                f"key on what tells instances apart, {{{name}.id}}, or say ignore=[{name!r}]"
                if name in {"self", "cls"}
                else f"add {{{name}}}, or a part of it, or say ignore=[{name!r}]"
            )
            raise wrong(f"the parameter {name!r} is not part of it, so calls that differ in it would share an entry; {advice}")
    shape = ":".join(s if isinstance(s, str) else s[0] + _hole(fields[s[1]]) + s[2] for s in segments)
    return Template(text, tuple(fields), tuple(segments), shape)


def overlap(one: Template, other: Template) -> bool:
    """Whether some key belongs to both templates. Colons only stand between segments, so these are compared one by one."""
    if len(one.segments) != len(other.segments):
        return False
    pairs = zip(_readings(one), _readings(other), strict=True)
    return all(any(intersects(a, b) for a in left for b in right) for left, right in pairs)


def _readings(template: Template) -> list[list[str]]:
    """What may stand in each segment. In the place of an integer there are digits, or a marked value of another type."""
    found: list[list[str]] = []
    for segment in template.segments:
        if isinstance(segment, str):
            found.append([segment])
        else:
            prefix, at, suffix = segment
            holes = [DIGITS, "~" + HOLE] if template.fields[at].plain is int else [HOLE]
            found.append([prefix + hole + suffix for hole in holes])
    return found


def _hole(field: Field) -> str:
    return DIGITS if field.plain is int else HOLE


def _field(path: str, parameters: Mapping[str, Any], wrong: typing.Callable[[str], KeyTemplateError]) -> Field:
    if not _PATH.fullmatch(path):
        raise wrong(f"{{{path}}} is no placeholder; write {{name}} or {{name.attribute}}")
    parameter, *attributes = path.split(".")
    if parameter not in parameters:
        known = ", ".join(parameters) or "none"
        raise wrong(f"{{{path}}} names no parameter of the function, which has: {known}")
    annotation = parameters[parameter]
    for attribute in attributes:
        annotation = _annotation_of(annotation, attribute)
    plain, only = _plain_type(annotation)
    fast = plain in FAST_TYPES or (issubclass(plain, enum.Enum) and not issubclass(plain, enum.Flag) and _is_told_by_identity(plain))
    return Field(path, parameter, tuple(attributes), plain, only and fast)


def _is_told_by_identity(cls: type[Any]) -> bool:
    """Whether equal members of an enumeration are the same member: it has no equality of its own."""
    own: set[Any] = {cls.__eq__, cls.__hash__}
    return own <= {object.__eq__, str.__eq__, int.__eq__, enum.Enum.__hash__, str.__hash__, int.__hash__}


def _annotation_of(owner: Any, attribute: str) -> Any:
    try:
        return typing.get_type_hints(owner).get(attribute)
    except Exception:  # hints are a convenience here: without them the plain type is str
        return None


def _plain_type(annotation: Any) -> tuple[type[Any], bool]:
    """The type that is written plainly, and whether the annotation admits no other."""
    while typing.get_origin(annotation) is typing.Annotated or isinstance(annotation, typing.NewType):
        annotation = annotation.__supertype__ if isinstance(annotation, typing.NewType) else typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        arms = [arm for arm in typing.get_args(annotation) if arm is not types.NoneType]
        return (_plain_type(arms[0])[0] if len(arms) == 1 else str), False
    if typing.get_origin(annotation) is typing.Literal:
        classes = {value.__class__ for value in typing.get_args(annotation)}
        only = classes.pop()
        return (only, True) if not classes and only in PLAIN_TYPES else (str, False)
    if isinstance(annotation, type):
        if annotation in PLAIN_TYPES or issubclass(annotation, enum.Enum):
            return annotation, True
        if issubclass(annotation, str) or issubclass(annotation, int):
            return (str if issubclass(annotation, str) else int), False
    return str, False


def written(text: str) -> str:
    """A key, pattern or tag as a caller wrote it, with the characters encoded that never stand in a key as they are."""
    return _IN_TEXT.sub(percent, text)


def check_key(text: object, shown: Callable[[str], str] = str) -> str:
    """A key that a caller wrote as text. Raises `KeyArgumentError` for what is no key, or would be a pattern, as it may be ``shown``."""
    if not isinstance(text, str):
        raise KeyArgumentError(f"a key is a text, not {type(text).__name__}")
    if "*" in text:
        raise KeyArgumentError(f"{shown(text)!r} is a pattern, not a key; in a key write %2A for '*'")
    if len(text) > MAX_KEY_LENGTH:
        raise KeyArgumentError(f"a key of {len(text):,} characters; at most {MAX_KEY_LENGTH:,} are allowed")
    return written(text)

"""Values to bytes and back, by the return annotation of the function that made them.

``codec_for`` picks: msgspec for what msgspec knows (plain types, dataclasses, attrs classes, typed dicts, named tuples, enums, ...),
pydantic for annotations that hold a model or anything else that pydantic knows and msgspec does not, and exact plain data (``plaindata``)
where there is no annotation. ``PickleCodec`` is never picked: who wants it says so.

A function may not return what it promises, and a union, a validator or an excluded field may change a value on its way. So every
``encode`` decodes what it made and compares (``sameness``): a value that would come back different is a ``CodecError`` where it was made,
not a surprise in another process. Decoding builds the value anew, so ``__post_init__`` and validators run.

A typed payload is msgpack of the annotated type; or, after two marking bytes, plain data that msgspec (1) or pydantic (2) turns into the
annotated type. The first marking byte, 0xC1, begins no msgpack.
"""

from __future__ import annotations

import hmac
import pickle
import re
from collections import abc, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from inspect import Signature
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import inspect as specs
from pydantic import BaseModel, PydanticSchemaGenerationError, RootModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from cachesync.errors import CodecError
from cachesync.layers import plaindata
from cachesync.layers.annotations import mentioned, return_annotation, spelled
from cachesync.layers.sameness import difference, field_names
from cachesync.protocols import Codec

__all__ = ["AnyCodec", "PickleCodec", "TypedCodec", "codec_for", "return_annotation"]

_ANYTHING: Final = (Any, object, Signature.empty, dict, list, tuple, set, frozenset)
_READ_ONCE: Final[tuple[object, ...]] = (
    *(abc.Iterator, abc.Iterable, abc.Generator, abc.Awaitable, abc.Coroutine),
    *(abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator),
)
_NOT_DATA: Final[tuple[object, ...]] = (cast("object", abc.Callable), type, msgspec.Raw, msgspec.msgpack.Ext, memoryview)
_MARK: Final = b"\xc1"
_ADVICE: Final = "annotate what the function returns (a dataclass, a pydantic model, ...), or pass codec="


def codec_for(annotation: object) -> Codec:
    """The codec for values of ``annotation``, a resolved type hint; ``inspect.Signature.empty`` where there is none.

    An ``int`` where ``float`` is annotated comes back as the equal ``float`` (PEP 484, the numeric tower); everything else comes back as
    the type it was. What a model excludes, hides (``SecretStr``) or keeps in a private attribute is not stored: a value is refused if that
    changes it. ``model_fields_set`` is not kept.

    Raises ``CodecError`` for an annotation whose values can not be stored: a generator, a class that is neither a dataclass nor any other
    kind that msgspec or pydantic knows, a dataclass with ``InitVar`` fields.
    """
    if any(annotation is anything for anything in _ANYTHING):
        return AnyCodec()
    name = spelled(annotation)
    _refuse_what_is_not_data(annotation, name)
    nodes = _nodes_for_msgspec(annotation, name)
    adapted = _Adapted(annotation)
    if nodes is None:
        adapted.checked(name)
        return TypedCodec(f"pydantic:{name}", (adapted, _ByFields(adapted)))
    top = nodes[0]
    if any(isinstance(each, specs.AnyType) for each in (top.types if isinstance(top, specs.UnionType) else (top,))):
        return AnyCodec()
    strangers = {node.cls for node in nodes if isinstance(node, specs.CustomType)}
    if strangers - {object}:
        if adapted.problem() is None:
            return TypedCodec(f"pydantic:{name}", (adapted, _ByFields(adapted)))
        # Models in a class that pydantic does not know (attrs, Struct): msgspec builds that class, and asks pydantic for the models.
        for stranger in strangers:
            _Adapted(stranger).checked(name)
    # The bare form can not ask, and writes a set in an order of this process, where equal values are to have equal bytes.
    exact = _Exact(annotation)
    is_exact_only = bool(strangers) or any(isinstance(node, (specs.SetType, specs.FrozenSetType)) for node in nodes)
    forms = (exact,) if is_exact_only else (_Bare(annotation), exact)
    return TypedCodec(f"msgpack:{name}", forms, rescue=adapted)


def _refuse_what_is_not_data(annotation: object, name: str) -> None:
    for each in mentioned(annotation):
        if any(each is kind for kind in _READ_ONCE):
            raise CodecError(f"{name}: values that can be read only once, or awaited, can not be stored; return a list and annotate that")
        if any(each is kind for kind in _NOT_DATA):
            raise CodecError(f"{name}: values of {spelled(each)} are not data and can not be stored; {_ADVICE}")


def _nodes_for_msgspec(annotation: Any, name: str) -> list[specs.Type] | None:
    """Every type in ``annotation``, itself first, as msgspec understands it; None if it does not."""
    try:
        msgspec.msgpack.Decoder(annotation)
        return list(_nodes(specs.type_info(annotation)))
    except Exception as error:
        if "InitVar" in str(error):
            raise CodecError(f"{name}: a dataclass with InitVar fields can not be built from its fields; {_ADVICE}") from None
        return None


class AnyCodec:
    """Plain data, exactly, whatever the annotation: see ``plaindata``. The codec where nothing is annotated."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """``any``, whatever it holds."""
        return "any"

    def __repr__(self) -> str:
        return "AnyCodec()"

    def encode(self, value: object, /) -> bytes:
        """The bytes of ``value``. Raises ``CodecError`` with path and type if there is anything in it that is not plain data."""
        try:
            packed = plaindata.encode_if_plain(value)
            if packed is not None:  # No check: its types are msgpack's own, one to one.
                return packed
            payload = plaindata.encode(value)
            reason = difference(value, plaindata.decode(payload))
        except RecursionError:
            raise CodecError("any: the value is nested too deeply, or contains itself") from None
        except CodecError as error:
            raise CodecError(f"any: {error}; {_ADVICE}") from None
        if reason is not None:
            raise CodecError(f"any: the value would not come back the same: {reason}")
        return payload

    def decode(self, payload: bytes | memoryview, /) -> Any:
        """The value of ``payload``. Raises ``CodecError`` if the bytes can not be read."""
        return plaindata.decode(payload)


class _Form(Protocol):
    """One way to write a value down. Both methods may raise anything."""

    @property
    def mark(self) -> bytes: ...

    def dump(self, value: object, /) -> bytes: ...

    def load(self, body: bytes | memoryview, /) -> Any: ...


class TypedCodec:
    """Values of one annotation. Forms are tried in order until the value comes back the same from one; ``rescue`` is the last."""

    __slots__ = ("_by_mark", "_forms", "_load", "_rescue", "name")

    def __init__(self, name: str, forms: tuple[_Form, ...], *, rescue: _Form | None = None) -> None:
        self.name = name
        self._forms = forms
        self._rescue = rescue
        self._by_mark = {form.mark: form for form in (*forms, rescue) if form is not None}
        self._load: Callable[[bytes | memoryview], Any] = self._by_mark[b""].load if b"" in self._by_mark else self._load_marked

    def __repr__(self) -> str:
        return f"<TypedCodec {self.name}>"

    def encode(self, value: object, /) -> bytes:
        """The bytes of ``value``. Raises ``CodecError`` with path and types if it would not come back the same."""
        reason = ""
        for form in self._forms:  # The last of these keeps most: its reason is the one to tell.
            payload, reason = self._attempt(form, value)
            if payload is not None:
                return payload
        if self._rescue is not None:
            payload, _ = self._attempt(self._rescue, value)
            if payload is not None:
                return payload
        raise CodecError(f"{self.name}: {reason}. Return what the annotation says, annotate what is returned, or pass codec=")

    def decode(self, payload: bytes | memoryview, /) -> Any:
        """The value of ``payload``. Raises ``CodecError`` if the bytes can not be read as the annotated type."""
        try:
            return self._load(payload)
        except Exception as error:
            problem = error
        if payload[:1] == _MARK:
            try:
                return self._load_marked(payload)
            except Exception as error:
                problem = error
        raise CodecError(f"{self.name}: the bytes can not be read: {_told(problem)}") from None

    def _attempt(self, form: _Form, value: object) -> tuple[bytes | None, str]:
        try:
            body = form.dump(value)
            reason = difference(value, form.load(body))
        except Exception as error:
            return None, f"the value can not be stored: {_told(error)}"
        if reason is not None:
            return None, f"the value would not come back the same: {reason}"
        return form.mark + body if form.mark else body, ""

    def _load_marked(self, payload: bytes | memoryview) -> Any:
        form = self._by_mark.get(bytes(payload[:2]))
        if form is None:
            raise CodecError("not a form that this annotation has")
        return form.load(memoryview(payload)[2:])


class _Bare:
    """msgpack of the annotated type, as msgspec writes and reads it."""

    mark = b""

    def __init__(self, annotation: object) -> None:
        # Encoder and Decoder keep nothing between calls: any thread may use them.
        self.dump: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
        self.load: Callable[[bytes | memoryview], Any] = msgspec.msgpack.Decoder(cast("Any", annotation)).decode


class _Exact:
    """Plain data that msgspec converts: keeps what bare msgpack loses (tuples under ``Any``, zones, large integers, ``_private`` attrs)."""

    mark = _MARK + b"\x01"

    def __init__(self, annotation: object) -> None:
        self._annotation: Any = annotation

    def dump(self, value: object) -> bytes:
        return plaindata.encode(value, unfold=_unfold)

    def load(self, body: bytes | memoryview) -> Any:
        return msgspec.convert(plaindata.decode(body), self._annotation, dec_hook=_build)


class _Adapted:
    """Plain data that pydantic dumps and validates. Fields go by their names, never by an alias; computed fields are left out."""

    mark = _MARK + b"\x02"

    def __init__(self, annotation: object) -> None:
        self._annotation = annotation
        self._adapter: TypeAdapter[Any] | None = None
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Why pydantic can not do it, in a line; None if it can."""
        if self._adapter is None and self._problem is None:  # Threads may do this twice; all come to the same.
            try:
                adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", self._annotation))
                if not adapter.pydantic_complete:
                    adapter.rebuild(raise_errors=True)
                self._adapter = adapter
            except PydanticSchemaGenerationError:
                self._problem = (
                    "neither a dataclass, an attrs class, a Struct, a typed dict, a named tuple nor an enum, and not known to pydantic"
                )
            except Exception as error:
                self._problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return self._problem

    def checked(self, name: str) -> None:
        """Raises ``CodecError`` if pydantic can not do it."""
        if (problem := self.problem()) is not None:
            raise CodecError(f"{name}: values of {spelled(self._annotation)} can not be stored: {problem}; {_ADVICE}")

    def dump(self, value: object) -> bytes:
        return plaindata.encode(_dumped(self._ready(), value), unfold=_unfold)

    def load(self, body: bytes | memoryview) -> Any:
        return _validated(self._ready(), plaindata.decode(body))

    def _ready(self) -> TypeAdapter[Any]:
        if self._adapter is None and (problem := self.problem()) is not None:
            raise CodecError(problem)
        return cast("TypeAdapter[Any]", self._adapter)


class _ByFields:
    """Read as ``_Adapted`` is, written from the fields themselves: a serializer is for an API's readers and may lose what a field holds."""

    def __init__(self, adapted: _Adapted) -> None:
        self.mark = adapted.mark
        self.load = adapted.load

    def dump(self, value: object) -> bytes:
        return plaindata.encode(value, unfold=_unfold_by_fields)


@lru_cache(maxsize=1024)
def _adapter_of(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def _dumped(adapter: TypeAdapter[Any], value: object) -> object:
    return adapter.dump_python(value, by_alias=False, round_trip=True, warnings=False)


def _validated(adapter: TypeAdapter[Any], dumped: object) -> Any:
    # Not strict, even for a strict model: an enum is stored as its value. That nothing was bent is seen by comparing.
    return adapter.validate_python(dumped, strict=False, by_alias=False, by_name=True)


def _build(annotation: Any, dumped: object) -> Any:
    """What msgspec asks for a class it does not know: ``object`` is anything, the rest is pydantic's."""
    return dumped if annotation is object else _validated(_adapter_of(annotation), dumped)


_BUILTINS: tuple[tuple[type, Callable[[Any], object]], ...] = (
    *((tuple, tuple), (list, list), (deque, list), (dict, dict)),
    *((set, set), (frozenset, frozenset), (bytearray, bytes)),
)


def _unfold_by_fields(value: object) -> object:
    """As ``_unfold``, past the serializers of models; what a model excludes stays out."""
    if isinstance(value, RootModel):
        return cast("RootModel[object]", value).root
    if isinstance(value, BaseModel):
        shown = {
            name: value.__dict__[name] for name, info in type(value).model_fields.items() if not info.exclude and name in value.__dict__
        }
        return shown | (value.__pydantic_extra__ or {})
    return _unfold(value)


def _unfold(value: object) -> object:
    """One step from an object towards plain data, so that the annotation can build it again. Raises if there is none."""
    kind: Any = type(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, BaseModel):
        return _dumped(_adapter_of(kind), value)
    if isinstance(value, msgspec.Struct):
        return _unfold_struct(value)
    names = field_names(kind)
    if names is not None:
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    for family, builtin in _BUILTINS:
        if issubclass(kind, family):
            return builtin(value)
    return to_jsonable_python(value, fallback=_as_its_type_says)


def _as_its_type_says(value: object) -> object:
    kind: Any = type(value)
    return _adapter_of(kind).dump_python(value, mode="json")


def _unfold_struct(value: msgspec.Struct) -> object:
    config = value.__struct_config__
    items = [(field.encode_name, getattr(value, field.name)) for field in msgspec.structs.fields(value)]
    if config.array_like:
        return [*([] if config.tag is None else [config.tag]), *(item for _, item in items)]
    unfolded: dict[object, object] = {} if config.tag is None else {config.tag_field: config.tag}
    unfolded.update((name, item) for name, item in items if item is not msgspec.UNSET)
    return unfolded


def _nodes(info: specs.Type) -> Iterator[specs.Type]:
    """``info`` and every type in it, fields of classes included, each once."""
    seen: set[int] = set()
    waiting: deque[Any] = deque([info])
    while waiting:
        node = waiting.popleft()
        if isinstance(node, tuple):
            waiting.extend(cast("tuple[object, ...]", node))
        elif isinstance(node, (specs.Type, specs.Field)) and id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, specs.Type):
                yield node
            waiting.extend(getattr(node, name) for name in node.__struct_fields__)


_SAFE_MESSAGE: Final = re.compile(
    r"Expected `|Object missing required field|Object contains unknown field|MessagePack data is malformed|Input data was"
)
_PATH: Final = re.compile(r" - at `[^`]*`$")


def _told(error: Exception) -> str:
    """What ``error`` says, without any value: messages of validators, enums and dates quote what they were given."""
    if isinstance(error, CodecError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or contains itself"
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        steps = [plaindata.key_step(step, 0) if isinstance(step, str) else f"[{step}]" for step in first["loc"]]
        return f"{plaindata.path_text(steps[::-1])}: {first['type']}"
    message = str(error)
    if isinstance(error, msgspec.DecodeError) and _SAFE_MESSAGE.match(message):
        return message
    if isinstance(error, msgspec.ValidationError):
        path = _PATH.search(message)
        return f"not a value of the annotation{path.group() if path else ''}"
    return type(error).__name__


@dataclass(frozen=True, repr=False, slots=True)
class PickleCodec:
    """Pickle, signed: for values that nothing else can store, and only where it is asked for.

    The payload is 32 bytes of keyed BLAKE2b, then the pickle. The signature is checked, in constant time, before anything is unpickled:
    unpickling runs code, so whoever knows the secret can run code in every process that reads. It does not bind the payload to a key. Every
    process needs the same secret, of at least 16 bytes; raises ``CodecError`` for less. That the value comes back the same is not checked.
    """

    secret: bytes
    name: str = "pickle"

    def __post_init__(self) -> None:
        if len(self.secret) < 16:
            raise CodecError("the secret of PickleCodec has fewer than 16 bytes")

    def __repr__(self) -> str:
        return "PickleCodec(secret=...)"

    def encode(self, value: object, /) -> bytes:
        """The signed pickle of ``value``. Raises ``CodecError`` if it can not be pickled."""
        try:
            body = pickle.dumps(value, protocol=5)
        except Exception as error:
            raise CodecError(f"pickle: the value can not be pickled ({type(error).__name__})") from None
        return self._signature(body) + body

    def decode(self, payload: bytes | memoryview, /) -> Any:
        """The value of ``payload``. Raises ``CodecError`` if it was not signed with this secret, or can not be unpickled."""
        body = memoryview(payload)[32:]
        if not hmac.compare_digest(self._signature(body), bytes(payload[:32])):
            raise CodecError("pickle: the payload is not signed with this secret")
        try:
            return pickle.loads(body)  # noqa: S301 - asked for by name, and signed
        except Exception as error:
            raise CodecError(f"pickle: the payload can not be unpickled ({type(error).__name__})") from None

    def _signature(self, body: bytes | memoryview) -> bytes:
        key = blake2b(self.secret, digest_size=64, person=b"cachesync secret").digest()
        return blake2b(body, digest_size=32, key=key, person=b"cachesync.pickle").digest()

"""Values: what Django code caches, as bytes and back. Each get makes a value anew, so its caller may change it.

Plain data is written as everywhere else (`AnyCodec`). Anything else is pickled, where the project asks for that, and signed with
its SECRET_KEY. The first byte says which.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, Final

from cachesync.errors import CodecError
from cachesync.layers.codecs import AnyCodec, PickleCodec

_PLAIN: Final = b"\x00"
_PICKLED: Final = b"\x01"
_ADVICE: Final = 'OPTIONS: {"PICKLE": True} stores whatever can be pickled, signed with SECRET_KEY'


class NotStorableError(CodecError, pickle.PicklingError):
    """A value that can not be cached. Django's own backends raise a ``pickle.PicklingError`` for it."""


class Values:
    """How values are written. ``secrets`` sign what is pickled, the first of them from now on; none of them: nothing is pickled."""

    def __init__(self, secrets: Sequence[bytes] = ()) -> None:
        self._plain = AnyCodec()
        self._pickled = [PickleCodec(secret) for secret in secrets]

    def encode(self, value: object) -> bytes:
        """The bytes of a value. Raises `NotStorableError`."""
        try:
            return _PLAIN + self._plain.encode(value)
        except CodecError as error:
            if not self._pickled:
                raise NotStorableError(f"{error}. {_ADVICE}") from None
        try:
            return _PICKLED + self._pickled[0].encode(value)
        except CodecError as error:
            raise NotStorableError(str(error)) from None

    def encode_if_plain(self, value: object) -> bytes | None:
        """The bytes of a value that is plain data, else ``None``: no code of the value's own has run."""
        try:
            return _PLAIN + self._plain.encode(value)
        except CodecError:
            return None

    def decode(self, payload: bytes) -> Any:
        """The value of such bytes. Raises ``CodecError`` for what none of the secrets has signed, or can not be read any more."""
        body = memoryview(payload)[1:]
        if payload[:1] == _PLAIN:
            return self._plain.decode(body)
        problem = CodecError(f"a pickled value, and pickle is not asked for. {_ADVICE}")
        for codec in self._pickled:
            try:
                return codec.decode(body)
            except CodecError as error:
                problem = error
        raise problem

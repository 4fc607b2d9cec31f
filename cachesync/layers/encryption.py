"""Payloads encrypted with AES-256-GCM (NIST SP 800-38D), by the package ``cryptography`` (extra ``[crypto]``).

Each key of the cache has an encryption key of its own, derived from the one in the environment (NIST SP 800-108r1, 4.1: counter mode with
HMAC-SHA-256). So a blob that was moved to another key or another namespace can not be opened, and the bound on random nonces, 2**32 uses
of one encryption key (SP 800-38D, 8.3: then one has been used twice with a probability of 2**-32), counts the fills of one key of the
cache: 136 years of a fill each second.

The nonce, 96 random bits, stands in the header in the place of the content hash, which would let whoever reads the store try out guesses.
The whole header, dependencies included, is associated data: who changes any of it is found out.
"""

from __future__ import annotations

import hmac
import os
from typing import Any, Final

from cachesync.core.encryption_keys import KEY_BYTES, VARIABLE, EncryptionKeys
from cachesync.core.envelope import DIGEST_BYTES, ENCRYPTED, EnvelopeError, Header, seal
from cachesync.core.settings import Settings
from cachesync.errors import PolicyError

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_LABEL: Final = b"\x00\x00\x00\x01cachesync entry\x00"
_LENGTH: Final = (8 * KEY_BYTES).to_bytes(4, "big")
_PADDING: Final = bytes(DIGEST_BYTES - NONCE_BYTES)
INSTALL: Final = 'pip install "cachesync[crypto]"'


class Keyring:
    """Encrypts and decrypts the payloads of one namespace. Raises ``ImportError`` without the package ``cryptography``."""

    def __init__(self, keys: EncryptionKeys, namespace: str) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher: Any = AESGCM
        self._refusal = InvalidTag
        self._keys = keys.by_number
        self._writes = keys.numbers[0]
        self._namespace = _with_length(namespace)

    def seal(self, key: str, header: Header, payload: bytes) -> bytes:
        """The bytes to store under ``key``. Raises ``ValueError`` where a field of the header does not fit."""
        nonce = os.urandom(NONCE_BYTES)
        header = header._replace(flags=header.flags | ENCRYPTED, key_id=self._writes, digest=nonce + _PADDING)
        head = seal(header, b"")
        sealed: bytes = self._cipher(self._key_of(key, self._keys[self._writes])).encrypt(nonce, payload, head)
        return head + sealed

    def open(self, key: str, header: Header, head: bytes, payload: memoryview) -> bytes:
        """The payload that was sealed under ``key``; ``head`` are the bytes of the header. Raises ``EnvelopeError``."""
        known = self._keys.get(header.key_id)
        if known is None:
            raise EnvelopeError(_unknown(header.key_id))
        try:
            plain: bytes = self._cipher(self._key_of(key, known)).decrypt(header.digest[:NONCE_BYTES], payload, head)
        except (self._refusal, ValueError) as error:
            raise EnvelopeError("it was changed, or encrypted for another key or namespace, or with another encryption key") from error
        return plain

    def _key_of(self, key: str, known: bytes) -> bytes:
        return hmac.digest(known, _LABEL + self._namespace + _with_length(key) + _LENGTH, "sha256")


def keyring_for(settings: Settings, *, stores: bool) -> Keyring | None:
    """What encrypts under these settings, ``None`` where there are no keys and nothing asks for them.

    Raises ``PolicyError`` where a policy asks for it (``encrypt = true``), values are stored outside of the process (``stores``), and
    there is no key, or the extra is not installed.
    """
    wanted = [policy.name for policy in settings.policies if policy.encrypt and stores]
    if settings.encryption_keys is None:
        if wanted:
            raise PolicyError(
                *(
                    f"policy.{name}.encrypt: there is no key to encrypt with; make one with `cachesync key`, and set {VARIABLE}"
                    " (or encryption_keys=..., where a Cache is made from objects)"
                    for name in wanted
                )
            )
        return None
    try:
        return Keyring(settings.encryption_keys, settings.namespace)
    except ImportError as error:
        if wanted:
            raise PolicyError(*(f"policy.{name}.encrypt: it needs the package cryptography: {INSTALL}" for name in wanted)) from error
        return None


def opened(keyring: Keyring | None, key: str, header: Header, blob: bytes, payload: memoryview) -> bytes:
    """The payload of an entry under ``key`` that has to be encrypted. Raises ``EnvelopeError`` where it can not be opened."""
    if not header.flags & ENCRYPTED:
        raise EnvelopeError("it is not encrypted, and its policy says encrypt = true")
    if keyring is None:
        raise EnvelopeError(_unknown(header.key_id))
    return keyring.open(key, header, blob[: len(blob) - len(payload)], payload)


def _unknown(number: int) -> str:
    return f"it is encrypted with key {number}, which is not known here ({VARIABLE})"


def _with_length(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(4, "big") + encoded

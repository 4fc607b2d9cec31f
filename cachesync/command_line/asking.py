"""Asks the admin app of a running application, over HTTP."""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

URL_VARIABLE: Final = "CACHESYNC_ADMIN_URL"
TOKEN_VARIABLE: Final = "CACHESYNC_ADMIN_TOKEN"
PATIENCE: Final = 10.0
"""Seconds an answer may take: ``/health`` may ask slow checks."""
MOST_BYTES: Final = 64 * 1024 * 1024
"""Bytes that are read of an answer."""


class AskingError(Exception):
    """There is no answer, or it says no: what it ``says``, and an ``advice``."""

    def __init__(self, says: str, advice: str = "") -> None:
        super().__init__(f"{says}; {advice}" if advice else says)
        self.says = says
        self.advice = advice


class AdminAddress(NamedTuple):
    """Where an admin app is, and the token for it, if any."""

    url: str
    token: str | None

    def __str__(self) -> str:
        """Without user, password and query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def add_address(parser: argparse.ArgumentParser) -> None:
    """``--url`` and ``--token``."""
    parser.add_argument("--url", metavar="URL", type=_url, help=f"where the admin app is mounted; left out: ${URL_VARIABLE}")
    says = f"sent as Authorization: Bearer; left out: ${TOKEN_VARIABLE}, which other users of this machine do not see"
    parser.add_argument("--token", metavar="TOKEN", help=says)


def address_from(arguments: argparse.Namespace) -> AdminAddress | None:
    """What the options or the environment name. Raises `AskingError` for a variable that is no address."""
    url = arguments.url
    if url is None and (there := os.environ.get(URL_VARIABLE)):
        try:
            url = _url(there)
        except argparse.ArgumentTypeError as error:
            raise AskingError(f"{URL_VARIABLE}: {error}") from None
    return None if url is None else AdminAddress(url, arguments.token or os.environ.get(TOKEN_VARIABLE))


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError("this is no address of an admin app; write one such as http://localhost:8400/")
    return text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for the one address that was named."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """None is asked instead."""


# Proxies of the environment are passed by too: what is asked here is near.
_OPENER: Final = urllib.request.build_opener(_NoRedirect(), urllib.request.ProxyHandler({}))


def ask(address: AdminAddress, path: str) -> dict[str, Any]:
    """The ``data`` of an answer. Raises `AskingError`."""
    headers = {"Accept": "application/json", "User-Agent": "cachesync"}
    if address.token:
        headers["Authorization"] = f"Bearer {address.token}"
    try:
        request = urllib.request.Request(address.url.partition("?")[0].rstrip("/") + path, headers=headers)
        with _OPENER.open(request, timeout=PATIENCE) as reply:
            return _data_of(reply.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(MOST_BYTES)
        with suppress(ValueError):
            return _data_of(body)  # 503 is what /health answers where it is down
        raise _refusal(address, error.code, body) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise AskingError(
            f"{address} does not answer: {reason}", "is the application running, and is the admin app mounted there?"
        ) from None


def _data_of(body: bytes) -> dict[str, Any]:
    answer = json.loads(body)
    try:
        data = answer["data"]
    except (LookupError, TypeError):
        data = None
    if not isinstance(data, dict):
        raise ValueError("what it answers is none of ours")
    return cast("dict[str, Any]", data)


def _refusal(address: AdminAddress, status: int, body: bytes) -> AskingError:
    try:
        message = f": {json.loads(body)['error']['message']}"
    except (ValueError, LookupError, TypeError):
        message = ""
    if status in (401, 403):
        return AskingError(f"{address} says no ({status}){message}", f"name a token by --token or {TOKEN_VARIABLE}")
    if 300 <= status < 400:
        return AskingError(f"{address} leads elsewhere ({status})", "name where the admin app is mounted")
    return AskingError(f"{address} answers {status}{message}", "" if message else "is the admin app mounted there?")

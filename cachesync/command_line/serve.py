"""``cachesync serve``: the admin app alone, beside a system whose applications do not mount it."""

from __future__ import annotations

import argparse
import base64
import binascii
import hmac
import ipaddress
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

from cachesync.cache import Cache
from cachesync.command_line.asking import TOKEN_VARIABLE
from cachesync.command_line.exits import NO, OK, USAGE
from cachesync.command_line.parsing import Commands, add_file, add_json, command, number
from cachesync.command_line.policy_files import with_settings
from cachesync.command_line.printing import address_of
from cachesync.coordination.asgi import REFUSED_CLOSE, App, Receive, Refusal, Scope, Send
from cachesync.core.settings import Settings
from cachesync.errors import LayerError

LEAST_TOKEN: Final = 16
"""Characters of a token, at the least: shorter ones are guessed."""
OPEN: Final = frozenset({"/client.js"})
"""Paths for which nobody is asked who he is: what lies there is in every copy of the package."""
FAREWELL: Final = 1
"""Seconds that open connections have when the server ends."""
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]*)?")
"""A name and a port (RFC 9110, 7.2)."""
LOCAL: Final = "local"
"""Whoever comes from this machine, where no token is asked for."""


class NoTokenError(Exception):
    """A token can not be read, or is none: what to say."""


def add(commands: Commands) -> None:
    """Add ``serve``."""
    parser = command(
        commands,
        "serve",
        "serve the admin app and the dashboard alone",
        "Serves the admin app for the system of a policy file: the dashboard, the log as it flows, invalidations, switches, health. It is "
        "a process of its own: numbers of applications are told by theirs. Listens on this machine only, unless there is a token, which "
        'every request then has to bring, as Bearer or as the password of Basic. Needs: pip install "cachesync[serve]".',
        "cachesync serve",
        "cachesync serve --port 9000 --file deploy/cachesync.toml",
        "cachesync serve --host 0.0.0.0 --token-file /run/secrets/cachesync",
    )
    parser.add_argument("--host", metavar="HOST", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=number("a port", 0, 65_535), default=8400, help="the port (8400); 0: any that is free")
    parser.add_argument("--token-file", metavar="PATH", help=f"the file that holds the token; left out: ${TOKEN_VARIABLE}")
    add_file(parser)
    add_json(parser, "print one JSON object when it listens")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        token = _token(arguments.token_file)
    except NoTokenError as error:
        print(f"cachesync serve: {error}", file=sys.stderr)
        return USAGE
    if token is None and not is_loopback(arguments.host):
        says = f"{arguments.host!r} can be reached from other machines, and whoever reaches it could change and read what is cached"
        print(f"cachesync serve: {says}; give it a token by --token-file or {TOKEN_VARIABLE}, or listen on 127.0.0.1", file=sys.stderr)
        return USAGE
    try:
        import starlette as _starlette
        import uvicorn as _uvicorn
    except ImportError as error:
        print(f'cachesync serve: {error.name} is not installed; pip install "cachesync[serve]"', file=sys.stderr)
        return USAGE
    del _starlette, _uvicorn
    return with_settings(arguments, lambda settings: _serve(settings, arguments, token))


def _token(file: str | None) -> str | None:
    if file is not None:
        try:
            with open(file, encoding="utf-8") as opened:
                token = opened.read(65_536).strip()
        except (OSError, ValueError) as error:
            raise NoTokenError(f"--token-file {file!r} can not be read: {getattr(error, 'strerror', None) or error}") from None
    elif TOKEN_VARIABLE in os.environ:
        token = os.environ[TOKEN_VARIABLE].strip()
    else:
        return None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        makes = 'python -c "import secrets; print(secrets.token_urlsafe())"'
        raise NoTokenError(f"a token has at least {LEAST_TOKEN} characters of ASCII, and no space; {makes} makes one")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(settings: Settings, arguments: argparse.Namespace, token: str | None) -> int:
    import uvicorn

    from cachesync.admin import Admin

    try:
        listening = socket.create_server((arguments.host, arguments.port), family=_family(arguments.host), backlog=2048)
    except (OSError, OverflowError) as error:
        why = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]  # the address is said already
        print(f"cachesync serve: {arguments.host}:{arguments.port} can not be listened on: {why}; choose another --port", file=sys.stderr)
        return NO
    with closing(listening), _sigterm_ends(), Cache(settings) as cache:
        with suppress(LayerError):
            cache.stamp()  # begins to read the log, so that it is there when somebody looks
        app = Gate(Admin(cache, authorise=who_of), token)
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=FAREWELL, server_header=False)
        _tell(settings, arguments, listening.getsockname(), token)
        uvicorn.Server(config).run(sockets=[listening])
    return OK


@contextmanager
def _sigterm_ends() -> Generator[None]:
    """Let SIGTERM end the server as Ctrl-C does, so that what waits for Redis is announced: uvicorn says it once more at its end."""

    def end(*_: object) -> None:
        sys.exit(OK)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _tell(settings: Settings, arguments: argparse.Namespace, name: tuple[Any, ...], token: str | None) -> None:
    host, port = (f"[{name[0]}]" if ":" in name[0] else name[0]), name[1]
    url, where = f"http://{host}:{port}/", address_of(settings)
    if arguments.json:
        print(json.dumps({"ok": True, "url": url, "namespace": settings.namespace, "redis": where, "pid": os.getpid()}), flush=True)
        return
    print(
        f"the admin app of {settings.namespace} is at {url} ({where or 'no Redis: it sees nothing but itself'}); Ctrl-C ends it", flush=True
    )
    if token is not None and not is_loopback(arguments.host):
        print("cachesync serve: the token travels as it is: let a proxy with TLS stand in front", file=sys.stderr)


# --- who may enter --------------------------------------------------------------------------------------------------------------


class Gate:
    """Lets through who brings the token; without one, who comes to this machine by its own name.

    A page of another site can make a browser ask a server on the same machine under a name of its own; the name that it was asked by
    gives that away (DNS rebinding).
    """

    def __init__(self, app: App, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        who = self._who(dict(headers))
        if who is None and scope.get("path") not in OPEN:
            await self._refuse(scope, receive, send)
            return
        scope["cachesync.who"] = who
        await self._app(scope, receive, send)

    def _who(self, headers: dict[bytes, bytes]) -> str | None:
        if self._token is None:
            host = _HOST.fullmatch(headers.get(b"host", b""))
            return LOCAL if host and is_loopback(host[1].strip(b"[]").decode("ascii").lower()) else None
        name, given = credentials(headers.get(b"authorization", b""))
        return name if hmac.compare_digest(given, self._token.encode()) else None

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """With a challenge, to which a browser answers by asking its user (RFC 9110, 11.6.1; RFC 7617)."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": REFUSED_CLOSE})
        elif self._token is None:
            text = "ask by localhost or 127.0.0.1: this server has no token, and is for this machine"
            await Refusal(403, "forbidden", text).send(send)
        else:
            text = "bring the token: Authorization: Bearer TOKEN, or as the password of Basic"
            challenge = {"www-authenticate": 'Basic realm="cachesync", charset="UTF-8"'}
            await Refusal(401, "unauthorized", text, challenge).send(send)


def who_of(scope: Scope) -> str | None:
    """Whom the gate has let through."""
    found: str | None = scope.get("cachesync.who")
    return found


def credentials(header: bytes) -> tuple[str, bytes]:
    """Name and token of an ``Authorization`` header; the token is empty where there is none that can be read."""
    scheme, _, rest = header.partition(b" ")
    if scheme.lower() == b"bearer":
        return "token", rest.strip()
    if scheme.lower() == b"basic":
        try:
            name, _, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
        except binascii.Error:
            return "", b""
        return (name.decode("utf-8", "replace")[:100] or "token"), password
    return "", b""

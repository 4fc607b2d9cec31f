"""What is a Redis URL. No message shows more of a wrong one than its scheme: the rest may hold a password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

_SCHEMES: Final = ("redis", "rediss", "unix")
_SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
_CLUSTER_SCHEMES: Final = ("redis+cluster", "rediss+cluster")
CLUSTER_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_SENTINEL: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:,/@]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a ``redis+sentinel://`` URL says. ``master`` and ``sentinel`` are URLs of connections, with a host that does not matter."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    master: str = field(repr=False)
    sentinel: str = field(repr=False)


def read_redis_url(value: object) -> str:
    """The URL, unchanged. Raises ``ValueError`` saying what would be right."""
    hint = 'write one such as "redis://localhost:6379/0"'
    scheme, mark, _ = value.partition("://") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or not mark or not re.fullmatch(r"[a-z][a-z0-9+.-]{0,30}", scheme):
        raise ValueError(f"this is not a Redis URL; {hint}")
    if scheme not in _SCHEMES + _SENTINEL_SCHEMES + _CLUSTER_SCHEMES:
        raise ValueError(f'"{scheme}://..." is not a Redis URL; {hint}')
    if not value.isprintable() or " " in value or "#" in value:
        raise ValueError(f'"{scheme}://..." is not a Redis URL: a space or "#" in it must be written "%20" or "%23"')
    if scheme in _SENTINEL_SCHEMES:
        read_sentinel_url(value)
    elif scheme in _CLUSTER_SCHEMES:
        read_cluster_url(value)
    elif not _is_address(scheme, value):
        raise ValueError(
            f'"{scheme}://..." is not a Redis URL: its host, port or database is wrong, or a "/", "?" or "@" in its password'
            f' is not written "%2F", "%3F" or "%40"; {hint}'
        )
    return value


def is_sentinel_url(url: str) -> bool:
    """Whether the URL names sentinels, which know where the master is."""
    return url.partition("://")[0] in _SENTINEL_SCHEMES


def read_sentinel_url(url: str) -> SentinelUrl:
    """Read ``redis+sentinel://user:password@host:port,host:port/service/db?options``.

    User and password are those of the Redis server; ``sentinel_username`` and ``sentinel_password`` are options. All other options
    are for both kinds of connections. Raises ``ValueError``.
    """
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    authority, _, path = address.partition("/")
    user, at, hosts = authority.rpartition("@")
    found = [_SENTINEL.fullmatch(host) for host in hosts.split(",")]
    service, _, database = path.partition("/")
    sentinels = tuple((one[1].strip("[]"), int(one[2] or SENTINEL_PORT)) for one in found if one is not None)
    right = all(0 < port < 65_536 for _, port in sentinels) and len(sentinels) == len(found)
    if not right or "@" in user or not service or not re.fullmatch(r"[0-9]{0,5}", database):
        raise ValueError(
            f'"{scheme}://..." does not name sentinels and the service they watch; write one such as'
            f' "{scheme}://host1:26379,host2:26379/mymaster/0", with "/", "?" and "@" in a password as "%2F", "%3F" and "%40"'
        )
    options = parse_qsl(query, keep_blank_values=True)
    theirs = dict(options)
    common = [(name, value) for name, value in options if name not in ("sentinel_username", "sentinel_password")]
    plain = scheme.partition("+")[0]
    asking = [(name, value) for name, value in common if name != "db"]
    asking += [(name, theirs[f"sentinel_{name}"]) for name in ("username", "password") if f"sentinel_{name}" in theirs]
    return SentinelUrl(
        sentinels,
        unquote(service),
        f"{plain}://{user}{at}master/{database}?{urlencode(common)}",
        f"{plain}://sentinel?{urlencode(asking)}",
    )


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """What a ``redis+cluster://`` URL says. ``node`` is the URL of a node, with ``place`` for its host and port."""

    nodes: tuple[tuple[str, int], ...]
    place: str
    node: str = field(repr=False)


def is_cluster_url(url: str) -> bool:
    """Whether the URL names nodes of a cluster."""
    return url.partition("://")[0] in _CLUSTER_SCHEMES


def read_cluster_url(url: str) -> ClusterUrl:
    """Read ``redis+cluster://user:password@host:port,host:port?options``. Raises ``ValueError``."""
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    authority, _, database = address.partition("/")
    user, at, hosts = authority.rpartition("@")
    found = [_SENTINEL.fullmatch(host) for host in hosts.split(",")]
    nodes = tuple((one[1].strip("[]"), int(one[2] or CLUSTER_PORT)) for one in found if one is not None)
    right = all(0 < port < 65_536 for _, port in nodes) and len(nodes) == len(found)
    if not right or "@" in user or database not in ("", "0"):
        raise ValueError(
            f'"{scheme}://..." does not name nodes of a cluster, which has no database but 0; write one such as'
            f' "{scheme}://host1:6379,host2:6379", with "/", "?" and "@" in a password as "%2F", "%3F" and "%40"'
        )
    place = "node.invalid:1"
    return ClusterUrl(nodes, place, f"{scheme.partition('+')[0]}://{user}{at}{place}/0?{query}")


def address_of_url(url: str) -> str:
    """Where Redis is, without user, password and options."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _is_address(scheme: str, url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message may quote the password
        return False
    if parts.netloc.count("@") > 1:
        return False
    if scheme == "unix":
        return len(parts.path) > 1
    return bool(parts.hostname) and port != 0 and bool(re.fullmatch(r"/?[0-9]{0,5}", parts.path))

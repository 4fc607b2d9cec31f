"""Places: from the LOCATION of a backend to its cache. Django makes a backend for each thread and task; they share one cache."""

from __future__ import annotations

import os
import re
import threading
from importlib import import_module
from operator import attrgetter
from typing import Any, Final

from cachesync.cache import Cache
from cachesync.errors import PolicyError

_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_by_file: Final[dict[str, Cache]] = {}
_lock: Final = threading.Lock()


def cache_at(location: Cache | str | os.PathLike[str]) -> Cache:
    """The cache itself, or that of a name (``"myapp.caches:cache"``), or of a policy file: one for each file in a process.

    Raises ``PolicyError`` where there is none.
    """
    if isinstance(location, Cache):
        return location
    text = os.fspath(location)
    if _DOTTED.fullmatch(text):
        return _named(text)
    if not text:
        raise PolicyError('LOCATION: missing; write the path of the policy file, or a cache such as "myapp.caches:cache"')
    path = os.path.abspath(text)
    with _lock:
        if path not in _by_file:
            _by_file[path] = Cache.from_file(path)
        return _by_file[path]


def _named(text: str) -> Cache:
    module, _, name = text.partition(":")
    try:
        found: Any = attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise PolicyError(f"LOCATION: {text!r} can not be imported: {error}") from error
    if not isinstance(found, Cache):
        raise PolicyError(f"LOCATION: {text!r} is no Cache, but {type(found).__name__}")
    return found

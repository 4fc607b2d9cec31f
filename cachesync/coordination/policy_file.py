"""The policy file: TOML or JSON in, `Settings` out, or one ``PolicyError`` with every mistake in it.

Each mistake reads ``file:line: dotted.name: "value" is not ...; write ...``. The environment wins over the file.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from cachesync.coordination.environment import Environment, read_environment
from cachesync.coordination.policy_lines import Format, Lines, line_of
from cachesync.coordination.policy_mistakes import find_mistakes
from cachesync.core.policies import Policies
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.rules import Problem, SettingPath
from cachesync.core.settings import CoordinationSettings, LocalSettings, RedisSettings, Settings, WarmingSettings
from cachesync.core.units import read_duration
from cachesync.errors import PolicyError

MAX_BYTES: Final = 1024 * 1024


def load_settings(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Settings:
    """Read a policy file; ``.json`` is JSON, any other suffix is TOML. Raises ``PolicyError`` and nothing else.

    ``environ`` takes the place of the process's environment, which wins over the file.
    """
    name = os.fspath(path)
    text, problem = read_text(name)
    if problem:
        raise PolicyError(f"{name}:{problem}")
    form: Format = "json" if Path(name).suffix.lower() == ".json" else "toml"
    return parse_settings(text, name, form, os.environ if environ is None else environ)


def _at_once(name: str, flags: int) -> int:
    """Open without waiting: a named pipe that nobody writes to is empty."""
    descriptor = os.open(name, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def read_text(name: str) -> tuple[str, str]:
    """The text, or why there is none. Nothing is raised from here, so that no exception carries the file's bytes along."""
    try:
        with open(name, "rb", opener=_at_once) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as wrong:
        why = wrong.strerror if isinstance(wrong, OSError) else None
        return "", f" the policy file can not be read: {why or 'this is not a path'}"
    if len(content) > MAX_BYTES:
        return "", " this is larger than 1MiB, which no policy file is"
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as wrong:
        line = content.count(b"\n", 0, wrong.start) + 1
        return "", f"{line}: byte {wrong.start} is not UTF-8; save the file as UTF-8"


def parse_settings(text: str, name: str, format: Format, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the text of a policy file. ``name`` stands in the messages; ``environ`` is empty unless given."""
    raw, lines, problems, is_read = _parse(text, format)
    environment = read_environment(environ or {}, _policy_names(raw))
    if is_read:
        problems += find_mistakes(raw, lines, needs_url=environment.redis_enabled and environment.redis is None)
    if problems or environment.problems:
        placed = sorted(((line_of(problem.path, lines), problem) for problem in dict.fromkeys(problems)), key=itemgetter(0))
        raise PolicyError(*(f"{name}:{line}: {problem}" for line, problem in placed), *environment.problems)
    return _built(cast("dict[str, Any]", raw), name, environment)


def _policy_names(raw: object) -> tuple[str, ...] | None:
    """The names of a document's policies; ``None`` where it can not be read so far, which is told for itself."""
    tables = cast("dict[str, object]", raw).get("policy") if isinstance(raw, dict) else None
    return tuple(cast("dict[str, object]", tables)) if isinstance(tables, dict) else None


class _Parsed(NamedTuple):
    """A document, and the line of each name in it. Without ``is_read`` there is none, and one problem says why."""

    raw: object
    lines: dict[SettingPath, int]
    problems: list[Problem]
    is_read: bool = False


def _parse(text: str, format: Format) -> _Parsed:
    if _ENDLESS_NAME.search(text):
        return _unread("a dotted name has hundreds of parts; a policy file needs four")
    try:
        raw: object = json.loads(text) if format == "json" else tomllib.loads(text)
        json.dumps(raw, ensure_ascii=False, default=str).encode()  # what parses is not always fit to be shown
        read = Lines(text, format)
    except json.JSONDecodeError as wrong:
        return _unread(f"this is not JSON: {wrong.msg} (column {wrong.colno})", wrong.lineno)
    except tomllib.TOMLDecodeError as wrong:
        found = re.search(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$", str(wrong))
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        where = f"column {found[2]}" if found and found[2] else "at the end of the file"
        return _unread(f"this is not TOML: {str(wrong)[: found.start() if found else None]} ({where})", line)
    except RecursionError:
        return _unread("tables or arrays are nested too deeply; a policy file needs three levels")
    except UnicodeEncodeError:  # which JSON can spell
        return _unread("a text holds half of a surrogate pair; write the whole character")
    except ValueError:  # thousands of digits
        return _unread("a number has too many digits to be read")
    return _Parsed(raw, read.lines, read.repeats, is_read=True)


def _unread(says: str, line: int = 1) -> _Parsed:
    return _Parsed(None, {(): line}, [Problem((), says)])


_ENDLESS_NAME: Final = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){200}""")
"""The parser of TOML takes time with the square of the number of parts."""


def _built(document: Mapping[str, Any], file: str, environment: Environment) -> Settings:
    """Settings from a document without mistakes."""
    redis = environment.redis or (RedisSettings(**document["redis"]) if document.get("redis") else None)
    return Settings(
        namespace=document.get("namespace", Settings().namespace),
        redis=redis if environment.redis_enabled else None,
        coordination=CoordinationSettings(**document.get("coordination", {})),
        local=LocalSettings(**document.get("local", {})),
        warming=WarmingSettings(**document.get("warming", {})),
        ttl={key: read_duration(value) for key, value in document.get("ttl", {}).items()},
        policies=Policies(_policy(name, table) for name, table in document["policy"].items()),
        file=file,
        enabled=environment.enabled,
        encryption_keys=environment.encryption_keys,
        switches=environment.switches,
        secret=environment.secret,
    )


def _policy(name: str, table: Mapping[str, Any]) -> Policy:
    fields: dict[str, Any] = {**table, "name": name}
    if "http" in table:
        fields["http"] = HttpPolicy(**table["http"])
    return Policy(**fields)

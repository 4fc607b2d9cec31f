"""Where each name stands in a text of TOML or JSON. Their parsers tell no lines, so the text is read once more."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Final, Literal

from cachesync.core.rules import Problem, SettingPath

Format = Literal["toml", "json"]

_TOKEN: Final = re.compile(
    r"""[ \t\r]+ | \#[^\n]*                                # nothing
    | (?P<token> \n
      | \"{3} (?: \\. | [^\\] )*? \"{3,5} (?!\")          # a text over several lines
      | '{3} .*? '{3,5} (?!')
      | " (?: \\. | [^"\\\n] )* " | '[^'\n]*'             # a text
      | [^\s\[\]{}=,.:"'\#]+                              # a bare word, or a part of a number or a date
      | . )""",
    re.VERBOSE | re.DOTALL,
)


class Lines:
    """The line of every name and array element in a text that its parser has accepted, so that little can be wrong with it.

    ``lines`` is by path: ``("policy", "stores", "tags", 0)``. ``repeats`` tells the names that an object of JSON has twice; its
    parser silently drops one of them.
    """

    def __init__(self, text: str, format: Format) -> None:
        self.lines: dict[SettingPath, int] = {}
        self.repeats: list[Problem] = []
        self._tokens: list[tuple[str, int]] = []
        self._at = 0
        self._read_name: Callable[[str], str] = json.loads if format == "json" else _toml_name
        self._paired: set[SettingPath] = set()
        self._elements: dict[SettingPath, int] = {}  # how many tables an array of tables has so far
        line = 1
        for found in _TOKEN.finditer(text):
            if found["token"]:
                self._tokens.append((found["token"], line))
            line += found[0].count("\n")
        self._tokens.append(("", line))
        if format == "json":
            self._value(())
        else:
            self._document()

    @property
    def _token(self) -> str:
        """The token at hand; empty at the end."""
        return self._tokens[self._at][0]

    @property
    def _line(self) -> int:
        return self._tokens[self._at][1]

    def _skip(self, *tokens: str) -> str:
        """The next token that is none of these, which is then at hand."""
        while self._token in tokens:
            self._at += 1
        return self._token

    def _document(self) -> None:
        table: SettingPath = ()
        while token := self._skip("\n"):
            if token == "[":
                table = self._header()
            else:
                self._pair(table)

    def _names(self) -> SettingPath:
        """The parts of ``a."b c".d``."""
        names: SettingPath = ()
        while True:
            names = (*names, self._read_name(self._token))
            self._at += 1
            if self._token != ".":
                return names
            self._at += 1

    def _header(self) -> SettingPath:
        """``[a.b]`` or ``[[a.b]]``: the path that the pairs below it stand under."""
        line = self._line
        is_array = self._tokens[self._at + 1][0] == "["
        self._at += 1 + is_array
        names = self._names()
        parts: list[str | int] = []
        for count, name in enumerate(names, 1):
            parts.append(name)
            path = tuple(parts)
            self.lines.setdefault(path, line)
            if is_array and count == len(names):
                self._elements[path] = self._elements.get(path, 0) + 1
            if path in self._elements:
                parts.append(self._elements[path] - 1)
                self.lines.setdefault(tuple(parts), line)
        self.lines[tuple(parts)] = line  # a table below it may have been first
        self._at += 1 + is_array
        return tuple(parts)

    def _pair(self, table: SettingPath) -> None:
        """``name = value``, or ``"name": value`` in JSON."""
        line = self._line
        names = self._names()
        for end in range(1, len(names)):
            self.lines.setdefault((*table, *names[:end]), line)
        path = (*table, *names)
        first = self.lines.setdefault(path, line)
        if path in self._paired:
            self.repeats.append(Problem(path, f"this name stands twice, in lines {first} and {line}; keep one of them"))
        self._paired.add(path)
        self._at += 1  # the sign between them
        self._value(path)

    def _value(self, path: SettingPath) -> None:
        opening = self._skip("\n")
        if opening == "{":
            self._at += 1
            while self._skip("\n", ",") not in ("}", ""):
                self._pair(path)
            self._at += 1
        elif opening == "[":
            self._at += 1
            count = 0
            while self._skip("\n", ",") not in ("]", ""):
                self.lines.setdefault((*path, count), self._line)
                self._value((*path, count))
                count += 1
            self._at += 1
        else:
            while self._token not in _ENDS:
                self._at += 1


_ENDS: Final = frozenset((",", "]", "}", "\n", ""))


def line_of(path: SettingPath, lines: Mapping[SettingPath, int]) -> int:
    """The line of a name, or of the innermost table around it that is written down."""
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 1)


def _toml_name(token: str) -> str:
    return str(tomllib.loads(f"name = {token}")["name"]) if token[0] in "\"'" else token

"""The public names, pinned: ``python tests/api_names.py --check`` compares them with tests/api.txt, ``--write`` renews it.

A line for each name in the ``__all__`` of each public module and, under a class, for each public method and attribute with its
signature. A line that goes or changes is a break for users: the changelog names it.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

PINNED = Path(__file__).with_name("api.txt")
# Modules that users import from. A module added here must have an `__all__`.
MODULES = ("cachesync", "cachesync.admin", "cachesync.event_streams")
# Of the names with double underscores, those that a user's code calls without writing them.
SPOKEN_DUNDERS = ("__aenter__", "__aexit__", "__call__", "__enter__", "__exit__", "__get__", "__getitem__", "__iter__", "__len__")


def signature_of(thing: Callable[..., object]) -> str:
    """Parameters and result as written in the source, or ``(...)`` for what has no signature that Python can read."""
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):
        return "(...)"


def callable_lines(name: str, thing: Callable[..., object]) -> Iterator[str]:
    """One line for a function, and one for each of its overloads."""
    colour = "async def" if inspect.iscoroutinefunction(thing) else "def"
    yield f"{colour} {name}{signature_of(thing)}"
    for overload in typing.get_overloads(inspect.unwrap(thing)):
        yield f"    overload {signature_of(overload)}"


def member_lines(name: str, raw: object) -> Iterator[str]:
    """The lines of one name in a class body, as stored in ``__dict__``."""
    match raw:
        case property():
            result = signature_of(raw.fget).rpartition(" -> ")[2] if raw.fget else "?"
            yield f"property {name}: {result}{'' if raw.fset is None else ' (settable)'}"
        case _ if isinstance(raw, (classmethod, staticmethod)):
            inner = typing.cast("staticmethod[..., object]", raw)
            yield from (f"{type(inner).__name__} {line}" for line in callable_lines(name, inner.__func__))
        case _ if inspect.isfunction(raw):
            yield from callable_lines(name, raw)
        case _ if inspect.isclass(raw):
            yield f"class {name}"
        case _ if inspect.isdatadescriptor(raw) or hasattr(raw, "__get__"):
            yield f"attribute {name}"
        case _:
            yield f"attribute {name} = {raw!r}" if isinstance(raw, str | int | float | bool | None) else f"attribute {name}"


def class_lines(name: str, kind: type) -> Iterator[str]:
    """A class: how it is made, what it derives from, and what it and our classes above it offer."""
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    yield f"class {name}{signature_of(kind)}" + (f" of {bases}" if bases else "")
    if issubclass(kind, enum.Enum):
        yield from (f"    member {member.name} = {member.value!r}" for member in kind)
        return
    members: dict[str, object] = {}
    for ancestor in reversed(kind.__mro__):
        if ancestor.__module__.partition(".")[0] == "cachesync":
            members |= vars(ancestor)
    for member, raw in sorted(members.items()):
        if not member.startswith("_") or member in SPOKEN_DUNDERS:
            yield from (f"    {line}" for line in member_lines(member, raw))


def module_lines(name: str) -> Iterator[str]:
    """All public names of a module, in alphabetical order. Raises ``AttributeError`` for a name in ``__all__`` that is not there."""
    module = importlib.import_module(name)
    yield f"module {name}"
    for public in sorted(module.__all__):
        thing = getattr(module, public)
        if inspect.isclass(thing):
            yield from class_lines(public, thing)
        elif inspect.isroutine(thing):
            yield from callable_lines(public, thing)
        else:
            yield f"{public}: {type(thing).__name__}"


def names() -> str:
    """What tests/api.txt must hold."""
    return "".join(f"{line}\n" for module in MODULES for line in module_lines(module))


def main() -> int:
    """Do as the command line says. Returns 1 when the names have changed."""
    now = names()
    match sys.argv[1:]:
        case ["--write"]:
            PINNED.write_text(now)
            print(f"{PINNED.name}: {len(now.splitlines())} lines")
            return 0
        case ["--check"]:
            pinned = PINNED.read_text() if PINNED.exists() else ""
            changes = list(difflib.unified_diff(pinned.splitlines(), now.splitlines(), "tests/api.txt", "the package", lineterm="", n=1))
            if changes:
                print("\n".join(changes))
                print("\nThe public names have changed. If that is meant: `make api ARGS=--write`, and a line in CHANGELOG.md.")
                return 1
            print(f"the public names are those of {PINNED.name}: {len(now.splitlines())} lines")
            return 0
        case _:
            print("usage: python tests/api_names.py --check | --write")
            return 2


if __name__ == "__main__":
    sys.exit(main())

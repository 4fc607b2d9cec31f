"""Where a generator stands, as a value: two that will do the same from here on are equal, whatever they have seen before.

The state of a generator is where it is in its code, and those of its local variables that it will still look at. Which ones these are
is read from the byte code, as a compiler does it (live variables, backwards through all jumps). Without that, everything that a story
was ever told would keep its states apart, and there would be a hundred times as many.

What a ``for`` loop is counting is hidden in the frame, so the variables of a loop always count. An iterator that is kept in a variable
does not: nothing but a loop may look at it.
"""

from __future__ import annotations

import dis
from collections.abc import Generator, Hashable
from functools import lru_cache
from types import CodeType, GeneratorType
from typing import Any, Final, cast

UNTOLD: Final = frozenset({"_waits"})
"""Generators that say nothing which the model listens to: how long to wait."""


def standing(story: Generator[Any, Any, Any]) -> Hashable:
    """Where a suspended generator stands, and all those that it has delegated to."""
    found: list[Hashable] = []
    at: Any = story
    while _is_generator(at) and at.gi_frame is not None:
        frame, code = at.gi_frame, at.gi_code
        values = frame.f_locals
        found.append((code, frame.f_lasti, *(_valued(values[name]) for name in looked_at(code)[frame.f_lasti] if name in values)))
        at = at.gi_yieldfrom
    return tuple(found)


def _is_generator(value: object) -> bool:
    return isinstance(value, GeneratorType)


def _valued(value: Any) -> Hashable:
    if _is_generator(value):
        return None if value.gi_code.co_name in UNTOLD else standing(value)
    if value.__class__ is list:
        return tuple([_valued(one) for one in value])
    if hasattr(value, "standing"):
        return cast("Hashable", value.standing())
    if hasattr(value, "__next__"):
        return type(value).__name__
    try:
        hash(value)
    except TypeError:
        return value.__class__.__name__, repr(value)
    return value.__class__.__name__, value


@lru_cache(maxsize=512)
def looked_at(code: CodeType) -> dict[int, tuple[str, ...]]:
    """For each place where the code can be suspended: the variables that it may look at before it sets them again."""
    byte_code = dis.Bytecode(code)
    instructions = list(byte_code)
    index_of = {instruction.offset: index for index, instruction in enumerate(instructions)}
    successors: list[set[int]] = []
    for index, instruction in enumerate(instructions):
        after: set[int] = set()
        if instruction.opcode in _JUMPS:
            after.add(index_of[cast("int", instruction.argval)])
        if instruction.opname not in _NO_WAY_ON and index + 1 < len(instructions):
            after.add(index + 1)
        for entry in byte_code.exception_entries:  # type: ignore[attr-defined]  # typeshed does not know it
            if entry.start <= instruction.offset < entry.end:
                after.add(index_of[entry.target])
        successors.append(after)
    uses, sets, always = _touched(instructions)
    before: list[frozenset[str]] = [frozenset()] * len(instructions)
    beyond: list[frozenset[str]] = [frozenset()] * len(instructions)
    changed = True
    while changed:
        changed = False
        for index in reversed(range(len(instructions))):
            beyond[index] = frozenset().union(*(before[after] for after in successors[index]))
            looked = uses[index] | (beyond[index] - sets[index])
            if looked != before[index]:
                before[index], changed = looked, True
    every = frozenset(code.co_cellvars) | frozenset(code.co_freevars) | always
    return {instruction.offset: tuple(sorted(beyond[index] | every)) for index, instruction in enumerate(instructions)}


_JUMPS: Final = frozenset((*dis.hasjrel, *dis.hasjabs))
_NO_WAY_ON: Final = frozenset(
    {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}
)


def _touched(instructions: list[dis.Instruction]) -> tuple[list[frozenset[str]], list[frozenset[str]], frozenset[str]]:
    """What each instruction looks at and what it sets; and the variables of loops."""
    uses: list[frozenset[str]] = []
    sets: list[frozenset[str]] = []
    of_loops: set[str] = set()
    in_loop = False
    for instruction in instructions:
        name, value = instruction.opname, instruction.argval
        names = [value] if isinstance(value, str) else list(cast("tuple[str, ...]", value)) if isinstance(value, tuple) else []
        looks: set[str] = set()
        puts: set[str] = set()
        if "_FAST" in name and names:
            parts = [part for part in name.split("_") if part in {"LOAD", "STORE", "DELETE"}]
            for part, one in zip(parts if len(parts) == len(names) else parts[:1] * len(names), names, strict=True):
                (looks if part == "LOAD" else puts).add(one)
        uses.append(frozenset(looks))
        sets.append(frozenset(puts - looks if name.startswith("LOAD") else puts))
        if name == "FOR_ITER":
            in_loop = True
        elif in_loop and puts:
            of_loops |= puts
            in_loop = name.startswith("STORE") and instructions[len(uses) - 2].opname == "UNPACK_SEQUENCE"
        elif in_loop and name not in {"UNPACK_SEQUENCE", "CACHE", "EXTENDED_ARG", "RESUME", "NOP"}:
            in_loop = False
    return uses, sets, frozenset(of_loops)

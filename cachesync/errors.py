"""The errors cachesync raises.

::

    CachesyncError
    ├── PolicyError          the policy file is wrong: file, line, name (at start, and when it is reloaded)
    ├── KeyTemplateError     a key template does not fit its function or its policy (at decoration)
    ├── KeyArgumentError     an argument or a text can not be part of a key (at the call)
    ├── CodecError           a value can not be encoded, or bytes can not be decoded
    ├── LayerError           a layer failed, and what was asked (sweep, switch) could not be done
    ├── BatchError           a function of many arguments answered for other items than it was asked for
    ├── RestingError         a computation failed a moment ago in another process and is left alone (errors)
    ├── OverdueError         a computation takes longer than its policy lets anybody wait (hard_timeout)
    ├── SwitchError          there is no such switch, or it can not be turned like that (at the call)
    └── WarmingError         what is to be warmed can not be told

The exceptions of a cached function arrive as they left it: they are never wrapped.
"""

from __future__ import annotations


class CachesyncError(Exception):
    """The root of every exception this package raises."""


class PolicyError(CachesyncError):
    """The policy file, or a ``Policy`` built in code, is wrong.

    ``problems`` holds one line for each mistake, all of them at once, each as ``file:line: name: what was expected``.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class KeyTemplateError(CachesyncError):
    """A key template does not fit its function, its policy or another template. Raised at decoration."""


class KeyArgumentError(CachesyncError, TypeError):
    """A value can not be part of a key, or a text can not be a key. Raised at the call, before anything is looked up."""


class CodecError(CachesyncError):
    """A value can not be encoded so that it comes back the same, or bytes can not be decoded."""


class LayerError(CachesyncError):
    """A layer failed (refused, timed out, broke off). No call of a cached function raises it: ``sweep`` and ``switch`` do."""

    is_refusal: bool = False
    """The layer answered, and refused: it is full, or does not permit what was asked."""
    part: str | None = None
    """Where one of several servers has failed: which, as ``host:port``. What lies on the others is not concerned."""


class BatchError(CachesyncError, ValueError):
    """A function of many arguments answered for other items, or for another number of them, than it was asked for.

    Nothing is stored, and everybody who waits for one of the items is told.
    """


class RestingError(CachesyncError):
    """A computation failed a moment ago in another process, and is left alone for as long as its policy says (``errors``).

    In the process where it failed, the exception of the function itself is raised again.
    """


class OverdueError(CachesyncError, TimeoutError):
    """A computation takes longer than its policy lets anybody wait (``hard_timeout``). It goes on, and its result will be stored."""


class SwitchError(CachesyncError, ValueError):
    """There is no such switch, or it can not be turned like that. The text says what would be right."""


class WarmingError(CachesyncError):
    """What is to be warmed can not be told: the function that lists it is not there, fails, or returns no list.

    Nobody has to catch it: it is told as the event ``warming_failed`` and among the errors of what ``warm`` returns.
    """

"""What can be warmed: from calls, keys as text and those who tell them to the questions that a function is asked."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from cachesync.core.arguments import UNKNOWN, read
from cachesync.core.policy import Policy
from cachesync.errors import KeyArgumentError, KeyTemplateError, WarmingError

if TYPE_CHECKING:
    from cachesync.coordination.operations import Wanted
    from cachesync.coordination.site import Site

Calls: TypeAlias = "Iterable[tuple[Any, ...] | Mapping[str, Any]]"
"""Calls of a function, each as a tuple of positional arguments or a mapping of named ones."""

_ADVICE: Final = "name calls of the function instead, beside it: warm=[...]"


@dataclass(frozen=True, slots=True)
class Warmable:
    """How one function is warmed. ``bind`` turns a call into parameter values, ``questions`` into what is asked; ``parameters`` are those
    of a function of one item.

    ``page`` keys are computed in one call. ``declared`` are its calls, or who tells them; ``None`` where nothing is declared.
    """

    site: Site
    parameters: Mapping[str, inspect.Parameter]
    bind: Callable[..., tuple[Any, ...]]
    questions: Callable[..., Sequence[Wanted]]
    is_async: bool
    page: int
    declared: Any

    def of_call(self, call: Any) -> Sequence[Wanted]:
        """What one call asks. Raises ``KeyArgumentError`` or ``TypeError`` for what is none."""
        if isinstance(call, Mapping):
            return self.questions(**cast("Mapping[str, Any]", call))
        if not isinstance(call, tuple):
            raise KeyArgumentError(f"a call is a tuple of arguments, or a dict of named ones: ({call!r},) and not {call!r}")
        return self.questions(*call)

    def row_of(self, key: str) -> tuple[Any, ...]:
        """The values of the parameters that a key written as text stands for. Raises ``KeyArgumentError`` where it does not tell them."""
        template = self.site.template
        texts = None if template is None else template.split(key)
        if template is None or texts is None:
            raise KeyArgumentError(f"{self.site.name} has no such key")
        given: dict[str, Any] = {}
        for field, text in zip(template.fields, texts, strict=True):
            value = UNKNOWN if field.attributes else read(text, field.plain)
            if value is UNKNOWN:
                raise KeyArgumentError(f"{self.site.name}: {{{field.path}}} can not be read back from a key; {_ADVICE}")
            given[field.parameter] = value
        return tuple(self._value(name, given) for name in self.parameters)

    def _value(self, name: str, given: Mapping[str, Any]) -> Any:
        parameter = self.parameters[name]
        if name in given:
            return given[name]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return ()
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return {}
        if parameter.default is inspect.Parameter.empty:
            raise KeyArgumentError(f"{self.site.name}: its parameter {name!r} does not stand in the key; {_ADVICE}")
        return parameter.default


def check_declared(declared: Any, bind: Callable[..., Any], name: str) -> Any:
    """What a decorator was given as ``warm=``: a list of calls, or who tells them. Raises ``KeyTemplateError`` for anything else."""
    if declared is None or callable(declared):
        return declared
    if isinstance(declared, (str, bytes, Mapping)) or not isinstance(declared, Iterable):
        problem = "warm is a list of calls, each a tuple of arguments, or a function that returns one"
        raise KeyTemplateError(f"{name}: {problem}; write warm=[({declared!r},)], not {declared!r}")
    given: Any = cast("object", declared)
    calls: tuple[Any, ...] = tuple(given)
    for call in calls:
        if not isinstance(call, (tuple, Mapping)):
            raise KeyTemplateError(
                f"{name}: warm: a call is a tuple of arguments, or a dict of named ones; write ({call!r},), not {call!r}"
            )
        try:
            _ = bind(**cast("Any", call)) if isinstance(call, Mapping) else bind(*cast("Any", call))
        except TypeError as error:
            raise KeyTemplateError(f"{name}: warm: {call!r} is no call of it: {error}") from None
    return calls


@dataclass(frozen=True, slots=True)
class Source:
    """Where something to warm is named: keys as text, calls of a function (``warmable``), or who tells them.

    ``name`` is how messages call it.
    """

    name: str
    policy: Policy
    told: Any
    warmable: Warmable | None = None

    @property
    def provider(self) -> Callable[[], Any] | None:
        """Who tells it, ``None`` where it is told already. Raises ``WarmingError`` where that can not be found."""
        if isinstance(self.told, str):
            return _import(self.told, self.name)
        return self.told if callable(self.told) else None

    @property
    def declared(self) -> list[str]:
        """What it names, as far as that is known without asking anybody."""
        if self.warmable is not None and not callable(self.told):
            return [one.address.key for call in self.told for one in self.warmable.of_call(call)]
        if isinstance(self.told, str) or callable(self.told):
            return [self.told if isinstance(self.told, str) else getattr(self.told, "__qualname__", "")]
        return list(self.told)


def _import(text: str, name: str) -> Callable[[], Any]:
    """The function that ``module:function`` names."""
    module_name, _, path = text.partition(":")
    try:
        module = importlib.import_module(module_name)
        found = reduce(getattr, path.split("."), cast("Any", module))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise WarmingError(f"{name}: {text!r} can not be imported: {error!r}") from error
        keys = f"if it is meant to be a key, write it in a list: [{text!r}]"
        raise WarmingError(f"{name}: there is no module {module_name!r} in which {path!r} could be found; {keys}") from None
    except AttributeError:
        raise WarmingError(f"{name}: the module {module_name!r} has no {path!r}; it is at {_place(module_name)}") from None
    except Exception as error:  # whatever the user's module raises
        raise WarmingError(f"{name}: {text!r} can not be imported: {error!r}") from error
    if not callable(found):
        raise WarmingError(f"{name}: {text!r} is no function, but {type(found).__name__}")
    return cast("Callable[[], Any]", found)


def _place(module_name: str) -> str:
    return getattr(sys.modules.get(module_name), "__file__", None) or "a place that is no file"

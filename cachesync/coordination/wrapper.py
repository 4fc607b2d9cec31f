"""Wrappers: the function that stands in for a cached one, compiled from its own signature.

It stays a function, so that it binds as a method. A hit is one look-up by the raw arguments, one comparison of time and one of marks,
written out for the parameters it has; binding arguments in general would cost more than all of that. What is not a hit goes through
``slow``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
import random
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from cachesync.coordination.gathering import gathering
from cachesync.coordination.site import Quick, Site
from cachesync.core.arguments import has_unsafe
from cachesync.core.keys import Template, compile_template
from cachesync.errors import KeyArgumentError, KeyTemplateError

QUICK_LENGTH: Final = 256
QUICK_INTEGER: Final = 10**18
"""Longer texts and larger integers take the general way to their key, which knows what to say of them."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What is settled about a function at decoration: its templates, and the functions compiled from its signature.

    ``bind`` turns a call into the tuple of parameter values, ``call`` turns that tuple into a call of the original, ``fields`` finds
    in it what the key is made of. ``quick`` writes the key of the commonest calls, those with short texts and integers, in one go.
    """

    function: Callable[..., Any]
    name: str
    is_async: bool
    template: Template
    tags: tuple[Template, ...]
    tag_indexes: tuple[tuple[int, ...], ...]
    bind: Callable[..., tuple[Any, ...]]
    call: Callable[..., Any]
    fields: Callable[..., Sequence[object]]
    quick: Quick | None


def plan(function: Callable[..., Any], text: str, *, tags: Sequence[str], ignore: Sequence[str]) -> Blueprint:
    """Fit templates to a function. Raises `KeyTemplateError`."""
    name = name_of(function)
    if not callable(function):
        raise KeyTemplateError(f"{name}: only a function can be cached, not {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise KeyTemplateError(f"{name} is a generator: its values are used up by the first caller; return a list")
    signature = signature_of(function, name)
    annotations = annotations_of(function)
    parameters = {
        parameter: annotations.get(parameter, inspect.Parameter.empty) if spec.kind not in _STARS else inspect.Parameter.empty
        for parameter, spec in signature.parameters.items()
    }
    template = compile_template(text, parameters=parameters, ignore=ignore, what=name)
    paths = [field.path for field in template.fields]
    compiled: list[Template] = []
    for tag in tags:
        tagged = compile_template(tag, parameters=parameters, ignore=None, what=f"{name}, tag")
        for field in tagged.fields:
            if field.path not in paths:
                raise KeyTemplateError(
                    f"{name}: tag {tag!r} names {{{field.path}}}, which is not part of the key {text!r}: "
                    f"two calls that share an entry would have different tags"
                )
        compiled.append(tagged)
    indexes = tuple(tuple(paths.index(field.path) for field in tag.fields) for tag in compiled)
    bind, call, fields, quick = _compile_tools(function, name, signature, template)
    is_async = inspect.iscoroutinefunction(function)
    return Blueprint(function, name, is_async, template, tuple(compiled), indexes, bind, call, fields, quick)


def name_of(function: Any) -> str:
    """A function as messages call it."""
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


_STARS: Final[dict[Any, str]] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def signature_of(function: Callable[..., Any], name: str) -> inspect.Signature:
    """Raises `KeyTemplateError` where it can not be read."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise KeyTemplateError(f"{name} has no signature that can be read: wrap it in a function of your own") from error


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters. One that can not be resolved yet counts as none: it only decides what is written plainly."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # whatever a user's annotation raises
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        return {name: _resolve(hint, scope) for name, hint in getattr(function, "__annotations__", {}).items()}


def _resolve(hint: Any, scope: dict[str, Any]) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, scope)  # noqa: S307 - an annotation of the program itself, as typing.get_type_hints does
    except Exception:
        return inspect.Parameter.empty


# --- compiling --------------------------------------------------------------------------------------------------------------------


def _names(signature: inspect.Signature) -> tuple[str, dict[str, Any]]:
    """The parameter list of a function with this signature, and the defaults it refers to."""
    parts: list[str] = []
    defaults: dict[str, Any] = {}
    slash = star = False
    parameters = list(signature.parameters.values())
    for index, parameter in enumerate(parameters):
        if slash and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            parts.append("/")
            slash = False
        slash = slash or parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        prefix = _STARS.get(parameter.kind, "")
        star = star or prefix == "*"
        part = prefix + parameter.name
        if parameter.default is not inspect.Parameter.empty:
            defaults[f"_cs_default{index}"] = parameter.default
            part += f"=_cs_default{index}"
        parts.append(part)
    if slash:
        parts.append("/")
    return ", ".join(parts), defaults


def _tuple(items: Iterable[str]) -> str:
    listed = list(items)
    return f"({', '.join(listed)}{',' if len(listed) == 1 else ''})"


def _execute(source: str, scope: dict[str, Any], title: str) -> dict[str, Any]:
    filename = f"<cachesync {title}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), scope)  # noqa: S102 - the source is made of the function's own parameter names
    return scope


def _compile_tools(
    function: Callable[..., Any], title: str, signature: inspect.Signature, template: Template
) -> tuple[Callable[..., tuple[Any, ...]], Callable[..., Any], Callable[..., Sequence[object]], Quick | None]:
    bind, call = compile_binding(function, title, signature)
    names = list(signature.parameters)
    quick = _quick_source(template)
    source = f"def fields({', '.join(names)}):\n    return {_tuple(field.path for field in template.fields)}\n"
    if quick:
        source += f"def quick({', '.join(names)}):\n    {quick}\n"
    known = {"_cs_class": type, "_cs_unsafe": has_unsafe, "_cs_str": str, "_cs_int": int, "_cs_len": len}
    scope = _execute(source, known, f"fields of {title}")
    fields = scope["fields"]

    def checked_fields(*values: Any) -> Sequence[object]:
        try:
            return cast("Sequence[object]", fields(*values))
        except Exception as error:  # a part of an argument is not there, or its property raises
            raise KeyArgumentError(f"the key {template.text!r} can not be made from these arguments: {error}") from error

    has_parts = any(field.attributes for field in template.fields)
    return bind, call, checked_fields if has_parts else fields, scope["quick"] if quick else None


def compile_binding(
    function: Callable[..., Any], title: str, signature: inspect.Signature
) -> tuple[Callable[..., tuple[Any, ...]], Callable[..., Any]]:
    """What turns a call into the tuple of parameter values, and what turns such a tuple into a call of the function."""
    declared, defaults = _names(signature)
    names = list(signature.parameters)
    passed: list[str] = []
    for name, parameter in signature.parameters.items():
        keyword_only = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        passed.append(f"{name}={name}" if keyword_only else _STARS.get(parameter.kind, "") + name)
    source = (
        f"def bind({declared}):\n    return {_tuple(names)}\ndef call({', '.join(names)}):\n    return _cs_function({', '.join(passed)})\n"
    )
    scope = _execute(source, {"_cs_function": function, **defaults}, f"tools of {title}")
    scope["bind"].__qualname__ = scope["bind"].__name__ = getattr(function, "__name__", "function")  # it speaks in TypeErrors
    return scope["bind"], scope["call"]


def _quick_source(template: Template) -> str:
    """The body of ``quick``, empty where a field is of another type, or a part of an argument."""
    checks: list[str] = []
    raw: list[str] = []
    for field in template.fields:
        name = field.path
        if field.attributes or field.plain not in (str, int):
            return ""
        if field.plain is str:
            checks.append(f"_cs_class({name}) is _cs_str and _cs_len({name}) < {QUICK_LENGTH} and _cs_unsafe({name}) is None")
        else:
            checks.append(f"_cs_class({name}) is _cs_int and -{QUICK_INTEGER} < {name} < {QUICK_INTEGER}")
        raw += [name] if field.typed else [name, f"_cs_{field.plain.__name__}"]
    parts = [repr(s) if isinstance(s, str) else f"{s[0]!r} + {_text_source(template, s[1])} + {s[2]!r}" for s in template.segments]
    key = " + ':' + ".join(parts)
    texts = _tuple(_text_source(template, index) for index in range(len(template.fields)))
    found = raw[0] if len(raw) == 1 else _tuple(raw)
    return f"return ({key}, {found}, {texts}) if {' and '.join(checks) or 'True'} else None"


def _text_source(template: Template, index: int) -> str:
    field = template.fields[index]
    return field.path if field.plain is str else f"_cs_str({field.path})"


def compile_wrapper(
    blueprint: Blueprint, site: Site, *, ledger: Any, now: Callable[[], float], slow: Callable[..., Any], check: Callable[..., Any]
) -> Any:
    """The function that stands in for the original: the hit, written out for its parameters.

    ``slow`` is given the parameter values where there is no copy that can be served as it is; ``check`` the site, these values and the
    copy, for the share of hits that the policy's ``shadow`` says. Where that is 0 a hit has nothing of it.
    """
    function, template = blueprint.function, blueprint.template
    signature = inspect.signature(function)
    declared, defaults = _names(signature)
    raw: list[str] = []
    checks: list[str] = []
    scope: dict[str, Any] = {
        "_cs_copies": site.shelf.copies,
        "_cs_now": now,
        "_cs_inside": gathering.get,
        "_cs_ledger": ledger,
        "_cs_slow": slow,
        "_cs_copy": copy.deepcopy,
        "_cs_class": type,  # and not __class__, which may be a property that lies
        "_cs_Exception": Exception,
        "_cs_random": random.random,
        "_cs_check": check,
        "_cs_site": site,
        **defaults,
    }
    for index, field in enumerate(template.fields):
        if field.typed:
            scope[f"_cs_type{index}"] = field.plain
            checks.append(f"_cs_class({field.path}) is _cs_type{index}")
            raw.append(field.path)
        else:
            raw += [field.path, f"_cs_class({field.path})"]
    found = raw[0] if len(raw) == 1 else _tuple(raw)
    name = getattr(function, "__name__", "cached")
    name = name if name.isidentifier() else "cached"
    indent = "            " if checks else "        "
    waiting = "await " if blueprint.is_async else ""
    hit = [
        "    try:",
        *([f"        if {' and '.join(checks)}:"] if checks else []),
        f"{indent}_cs_held = _cs_copies[{found}]",
        f"{indent}if _cs_now() < _cs_held.until and _cs_held.mark is _cs_ledger.mark and _cs_inside() is None:",
        f"{indent}    _cs_held.hits += 1",
    ]
    sampling = [
        f"{indent}    if _cs_random() < _cs_site.policy.shadow:",
        f"{indent}        _cs_check(_cs_site, {_tuple(signature.parameters)}, _cs_held)",
    ]
    rescue = ["    except _cs_Exception:", "        pass"]  # a miss (KeyError), or arguments of which slow makes a clear error
    slowly = f"    return {waiting}_cs_slow({_tuple(signature.parameters)})"
    head = f"{'async ' if blueprint.is_async else ''}def {name}({declared}):"

    def compiled() -> Any:
        look_up = [*hit, *sampling] if site.policy.shadow else hit
        plain = [head, *look_up, f"{indent}    return _cs_held.value", *rescue, slowly]
        copying = [  # a copy is made outside of the try: what it raises is not a miss
            head,
            "    _cs_found = None",
            *look_up,
            f"{indent}    _cs_found = _cs_held",
            *rescue,
            "    if _cs_found is not None:",
            "        return _cs_copy(_cs_found.value)",
            slowly,
        ]
        return _execute("\n".join(copying if site.policy.copy else plain) + "\n", scope, blueprint.name)[name]

    def recode() -> None:
        """A hit asks for no policy, so where a reload changes what is compiled into it the function gets other code."""
        function = site.function()
        if function is not None:
            function.__code__ = compiled().__code__

    wrapper = compiled()
    site.recode = recode
    return functools.update_wrapper(wrapper, function)

"""Masking: fields of keys that are shown to nobody.

A policy names fields of its keys, ``mask = ["phone"]``. Wherever the text of such a key leaves the process other than to the shared
layer, `MASK` stands in their place. A function's template says where the fields are; of a key that belongs to no function only what the
policy's own pattern says is shown. The text of an exception may hold anything, so under such a policy only its class is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote

from cachesync.core.envelope import EnvelopeError
from cachesync.core.keys import Template
from cachesync.core.patterns import Pattern
from cachesync.core.policy import Policy
from cachesync.core.rules import listed
from cachesync.errors import KeyTemplateError, OverdueError, RestingError

MASK: Final = "***"
TELLING: Final = 4
"""Characters from which on a field is looked for in other texts. Fewer stand in any text by chance."""
_OURS: Final = (EnvelopeError, OverdueError, RestingError)
"""Errors whose texts hold nothing of a value, and a key only as it may be shown."""


def hidden_fields(template: Template, policy: Policy, what: str) -> frozenset[int]:
    """Which fields of a function's keys its policy masks.

    A name is a field, or one part of its path: ``phone`` masks ``{phone}``, ``{contact.phone}`` and ``{phone.number}``. Raises
    `KeyTemplateError`, naming ``what``, for a name that is no field: what is misspelled would be shown.
    """
    for name in policy.mask:
        if not any(_names(name, field.path) for field in template.fields):
            fields = listed(field.path for field in template.fields) or "none"
            raise KeyTemplateError(
                f"{what}: policy {policy.name!r} masks {name!r}, which is no field of {template.text!r} (its fields: {fields});"
                f" mend the name, or give keys without that field a policy of their own"
            )
    return masked_fields(template, policy)


def masked_fields(template: Template, policy: Policy) -> frozenset[int]:
    """Which fields of a template bear a name that the policy masks."""
    return frozenset(at for at, field in enumerate(template.fields) if any(_names(name, field.path) for name in policy.mask))


def _names(name: str, path: str) -> bool:
    return name == path or name in path.split(".")


def by_template(template: Template, hidden: frozenset[int], text: str) -> str | None:
    """A key or a tag without its hidden fields, ``None`` if it is not one of this template."""
    texts = template.split(text)
    if texts is None:
        return None
    shown = [MASK if at in hidden else found for at, found in enumerate(texts)]
    return ":".join(part if isinstance(part, str) else part[0] + shown[part[1]] + part[2] for part in template.segments)


def by_policy(policy: Policy) -> str:
    """What all keys of a policy have in common, which is what may be shown of one whose fields are not known."""
    return policy.match.replace("*", MASK)


def of_pattern(pattern: Pattern, masking: Iterable[Policy]) -> str:
    """A prefix or a glob as far as it says no more than the patterns of the policies that mask some of its keys."""
    common = min((_alike(pattern.prefix, policy.pattern.prefix) for policy in masking), default=len(pattern.text))
    return pattern.text if not pattern.text[common:].strip("*") else pattern.text[:common] + MASK


def _alike(one: str, other: str) -> int:
    """With how many characters both begin."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def secrets_of(template: Template, hidden: frozenset[int], key: str) -> tuple[str, ...]:
    """The hidden fields' texts in a key, and what they are the spelling of; the longest first. Short ones say nothing by themselves."""
    texts = template.split(key) or []
    found = {spelled for at in hidden if texts for spelled in (texts[at], unquote(texts[at])) if len(spelled) >= TELLING}
    return tuple(sorted(found, key=len, reverse=True))


def told(error: BaseException, policy: Policy, text: Callable[[BaseException], str] = repr) -> str:
    """What an event or another process is told of an exception: its ``text``, or under a policy that masks its class only."""
    return text(error) if not policy.mask or isinstance(error, _OURS) else type(error).__name__

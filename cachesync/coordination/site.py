"""Sites: a place in the program whose results are cached, with all that was settled when it was decorated."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from cachesync.core.entry import NO_DEPENDENCIES, Dependency
from cachesync.core.keys import Template
from cachesync.core.masking import by_policy, by_template
from cachesync.core.policy import Policy
from cachesync.core.records import TAG
from cachesync.core.reloads import ends_copies
from cachesync.core.tuples import make
from cachesync.errors import KeyArgumentError
from cachesync.layers.sizing import Gauge
from cachesync.protocols import Codec, Shelf


@dataclass(slots=True)
class Counts:
    """How often what happened at one site. Local hits are counted by the shelf."""

    shared_hits: int = 0
    computed: int = 0
    joined: int = 0
    failed: int = 0
    stored: int = 0
    not_stored: int = 0
    seconds: float = 0.0
    """How long a computation takes in this process: a moving average, 0 before the first."""
    stale: int = 0
    missed: int = 0
    repeated: int = 0
    shadowed: int = 0
    stale_incidents: int = 0
    shadow_unstable: int = 0
    shadow_failed: int = 0
    shadow_dropped: int = 0


Quick = Callable[..., tuple[str, Hashable, tuple[str, ...]] | None]
"""From the parameters' values to key, raw key and the texts of the fields, ``None`` for a call that needs the general way."""


class Address(NamedTuple):
    """Where one result is kept: its key, its raw key on the shelf, and the tags it depends on, some of which are its ``policy``'s."""

    key: str
    raw: Hashable
    dependencies: tuple[Dependency, ...]
    policy: Policy


@dataclass(slots=True, eq=False, weakref_slot=True)
class Site:
    """``call`` computes from the parameters' values, ``fields`` finds in them what the key is made of.

    ``quick``, where there is one, does both for the commonest calls. ``codec`` is made when bytes are first needed, because a return
    annotation may name what is defined further down in its module; ``has_own_codec`` says that the program brought it. ``hidden`` are the
    fields that the policy masks. ``is_async`` says that what ``call`` returns is awaited.
    """

    name: str
    policy: Policy
    shelf: Shelf
    make_codec: Callable[[], Codec]
    call: Callable[..., Any]
    template: Template | None = None
    fields: Callable[..., Sequence[object]] | None = None
    tags: tuple[Template, ...] = ()
    tag_indexes: tuple[tuple[int, ...], ...] = ()
    quick: Quick | None = None
    lifetime: Callable[[Any], Any] | None = None
    tags_from: Callable[[Any], Any] | None = None
    hidden: frozenset[int] = frozenset()
    has_own_codec: bool = False
    is_async: bool = False
    function: Callable[[], Any] = lambda: None
    """The decorated function, as long as anybody has it: a weak reference."""
    recode: Callable[[], None] | None = None
    """Compiles that function's hits for the policy of now. ``None`` where each call looks at the policy."""
    changed: int = 0
    """The reload by which the policy has last become another."""
    ended: int = 0
    """The reload that has last put an end to all copies from before it."""
    is_over: bool = False
    """A reload has taken its keys away from it: nothing is stored any more."""
    warmable: Any = None
    """How it is warmed, for ``coordination.warmer``; ``None`` where it has no function."""
    counts: Counts = field(default_factory=Counts)
    gauge: Gauge = field(default_factory=Gauge)
    _codec: Codec | None = field(default=None, init=False)

    @property
    def codec(self) -> Codec:
        if self._codec is None:
            self._codec = self.make_codec()
        return self._codec

    def address(self, values: Sequence[Any]) -> Address:
        """Where the result of the call with these parameters is kept. Raises ``KeyArgumentError``."""
        policy = self.policy
        if self.quick is not None:
            found = self.quick(*values)
            if found is not None:
                key, raw, short = found
                return make(Address, (key, raw, self._tags(short, policy) if self.tags or policy.tags else NO_DEPENDENCIES, policy))
        assert self.template is not None and self.fields is not None
        try:
            texts = self.template.texts(self.fields(*values))
        except KeyArgumentError:
            if not self.hidden:
                raise
            problem = f"an argument can not be part of the key {self.template.text!r}"
            raise KeyArgumentError(f"{problem}; why is not said, because policy {self.policy.name!r} masks fields of it") from None
        return self._address(texts, self.template.join(texts), policy)

    def shown(self, key: str) -> str:
        """One of its keys without the fields that its policy masks: for everything but the shared layer."""
        if not self.policy.mask:
            return key
        return (self.template and by_template(self.template, self.hidden, key)) or by_policy(self.policy)

    def address_of_key(self, key: str) -> Address | None:
        """The same for a key written as text, ``None`` if it is not one of this site's."""
        policy = self.policy
        if self.template is None:
            return Address(key, key, self._tags((), policy), policy)
        texts = self.template.split(key)
        return None if texts is None else self._address(texts, key, policy)

    def _address(self, texts: Sequence[str], key: str, policy: Policy) -> Address:
        assert self.template is not None
        return Address(key, self.template.raw(texts, key), self._tags(texts, policy), policy)

    def _tags(self, texts: Sequence[str], policy: Policy) -> tuple[Dependency, ...]:
        if not (self.tags or policy.tags):
            return NO_DEPENDENCIES
        own = (tag.join([texts[i] for i in index]) for tag, index in zip(self.tags, self.tag_indexes, strict=True))
        return tuple(Dependency(TAG, text) for text in dict.fromkeys((*policy.tags, *own)))

    # --- reloads: the engine's lock is held ---------------------------------------------------------------------------------------

    def take(self, policy: Policy, hidden: frozenset[int], reloads: int) -> None:
        """Be under another policy from the reload of this number on."""
        before = self.policy
        if policy is before:
            return
        self.policy, self.hidden, self.changed = policy, hidden, reloads
        if ends_copies(before, policy):
            self.ended = reloads
        if self.recode is not None and (before.copy, before.shadow > 0) != (policy.copy, policy.shadow > 0):
            self.recode()

    def retire(self, reloads: int) -> None:
        """Have no policy from the reload of this number on. Of what is under way nothing is stored, and of its keys nothing is shown."""
        self.is_over, self.ended = True, reloads
        self.policy = replace(self.policy, mask=("*",))
        self.hidden = frozenset(range(len(self.template.fields))) if self.template is not None else frozenset()

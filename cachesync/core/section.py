"""One table of the policy file as a value: every setting read by its rule, all mistakes reported together."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

from cachesync.core.rules import Problem, Rule, SettingPath
from cachesync.errors import PolicyError


class Section:
    """A table of the policy file.

    ``rules`` is the only place that says what a setting takes and what it means: the constructor, the model of the file and the JSON
    Schema all read it. What settings say about each other stands in ``conflicts``.
    """

    __slots__ = ()
    rules: ClassVar[Mapping[str, Rule]]

    @classmethod
    def defaults(cls) -> Mapping[str, object]:
        """What each setting is when it is left out; those that can not be left out are missing here."""
        parameters = inspect.signature(cls).parameters
        return {name: found.default for name, found in parameters.items() if found.default is not found.empty}

    @classmethod
    def conflicts(cls, values: Mapping[str, object], given: Collection[str]) -> Iterator[Problem]:
        """What is wrong between the settings. ``values`` holds those that were read; ``given`` names all, the wrong ones too."""
        return iter(())

    @classmethod
    def examine(cls, given: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
        """Read what was given: the values that are right, and every problem. Names without a rule are left out."""
        values: dict[str, object] = {}
        problems: list[Problem] = []
        for name, rule in cls.rules.items():
            if name in given:
                value, wrong = rule.examine(given[name], (name,))
                problems += wrong
                if not wrong:
                    values[name] = value
        problems += cls.conflicts(values, given.keys())
        return values, problems

    def _settle(self, where: SettingPath, given: Mapping[str, object]) -> None:
        values, problems = self.examine(given)
        if problems:
            raise PolicyError(*(str(problem.within(where)) for problem in problems))
        for name, value in values.items():
            object.__setattr__(self, name, value)

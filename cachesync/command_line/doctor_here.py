"""What a deployment needs on this machine: the policy file, the environment, Python packages."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Final, NamedTuple

from cachesync.command_line.findings import Finding, fine, warning, wrong
from cachesync.command_line.printing import counted
from cachesync.coordination.environment import SECRET, SWITCH, read_environment
from cachesync.core.encryption_keys import VARIABLE
from cachesync.core.rules import listed, nearest
from cachesync.core.settings import Settings

VARIABLES: Final = (
    "CACHESYNC_ENABLED",
    "CACHESYNC_REDIS_ENABLED",
    "CACHESYNC_REDIS_URL",
    "CACHESYNC_FILE",
    "CACHESYNC_ADMIN_URL",
    "CACHESYNC_ADMIN_TOKEN",
    SECRET,
    SWITCH,
    VARIABLE,
)
"""Every variable of the environment that means something."""
CRYPTO: Final = "crypto"


def examine_here(settings: Settings, file: str) -> Iterator[Finding]:
    """Everything that can be looked at without asking anybody."""
    yield from _policy_file(settings, file)
    yield from _environment(settings)
    yield from _packages(settings)


def _policy_file(settings: Settings, file: str) -> Iterator[Finding]:
    count = len(settings.policies)
    if not count:
        yield warning(
            "policy file", f"{file} has no policy, so nothing can be cached", 'write one: [policy.stores], match = "stores:*", ttl = "5m"'
        )
    else:
        yield fine("policy file", f"{file}: {counted(count, 'policy', 'policies')}, namespace {settings.namespace}")


def _environment(settings: Settings) -> Iterator[Finding]:
    ours = sorted(name for name in os.environ if name.startswith("CACHESYNC_"))
    for name in ours:
        if name not in VARIABLES:
            right = nearest(name, [known.casefold() for known in VARIABLES])
            advice = f"write {right.upper()}" if right else f"unset it; those that mean something are {', '.join(sorted(VARIABLES))}"
            yield warning("environment", f"{name} means nothing", advice)
    environment = read_environment(os.environ)
    if not settings.enabled:
        yield warning("environment", "CACHESYNC_ENABLED is false: nothing is cached at all", "unset it when that is over")
    if not environment.redis_enabled:
        yield warning("environment", "CACHESYNC_REDIS_ENABLED is false: each process is alone", "unset it when that is over")
    if settings.switches:
        switched = ", ".join(f"{target} {value}" for target, value in settings.switches.items())
        yield warning("environment", f"{SWITCH} switches here: {switched}", "unset it when that is over")
    if (encrypting := [policy.name for policy in settings.policies if policy.encrypt]) and settings.encryption_keys is None:
        advice = f"set it to what `cachesync key` prints; {listed(encrypting)} can not be cached without"
        yield wrong("environment", f"{VARIABLE} is not set, and policies encrypt", advice)
    if settings.secret is None and any(policy.http is not None for policy in settings.policies):
        says = f"{SECRET} is not set: whoever knows the namespace can tell what the groups of an answer stand for"
        yield warning("environment", says, f"set {SECRET} to a long random text, the same in every process")
    known = [name for name in ours if name in VARIABLES]
    yield fine("environment", f"set: {', '.join(known)}" if known else "no variable is set")


def _packages(settings: Settings) -> Iterator[Finding]:
    yield fine("python", f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}")
    try:
        requirements = [_read(text) for text in metadata.requires("cachesync") or []]
    except metadata.PackageNotFoundError:
        yield warning("packages", "cachesync is not installed as a package, so nobody can tell what it needs", "pip install cachesync")
        return
    if lacking := [one.lacks for one in requirements if not one.extra and one.lacks]:
        yield wrong("packages", f"missing: {', '.join(lacking)}", "pip install cachesync")
    yield fine("packages", ", ".join(f"{one.name} {one.version}" for one in requirements if not one.extra and not one.lacks))
    extras = sorted({one.extra for one in requirements if one.extra})
    lacks = {extra: [one.lacks for one in requirements if one.extra == extra and one.lacks] for extra in extras}
    if lacks.get(CRYPTO) and any(policy.encrypt for policy in settings.policies):
        yield wrong(
            "extras", f"policies encrypt, and what does it is missing: {', '.join(lacks[CRYPTO])}", f'pip install "cachesync[{CRYPTO}]"'
        )
    installed = ", ".join(extra for extra in extras if not lacks[extra]) or "none"
    others = ", ".join(extra for extra in extras if lacks[extra])
    yield fine("extras", f"installed: {installed}" + (f"; not installed: {others}" if others else ""))


class Requirement(NamedTuple):
    """A package that is needed, for an ``extra`` or always. ``lacks`` is what is missing, empty where it is there."""

    name: str
    extra: str
    version: str
    lacks: str


def _read(text: str) -> Requirement:
    """Of ``redis[hiredis]<9,>=5.2; extra == "x"`` all that matters here."""
    wanted, _, marker = text.partition(";")
    name = re.split(r"[^A-Za-z0-9._-]", wanted.strip(), maxsplit=1)[0]
    extra = re.search(r"""extra == ['"]([^'"]+)""", marker)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = ""
    lacks = wanted.strip() + (f" (there is {version})" if version else "")
    return Requirement(name, extra[1] if extra else "", version, "" if version and satisfies(version, wanted) else lacks)


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as ``>=5.2,<9``. Only its leading numbers count."""
    has = _numbers(version)
    for sign, bound in re.findall(r"(>=|<|==)\s*([0-9.]+)", bounds):
        wanted = _numbers(bound)
        if (sign == ">=" and has < wanted) or (sign == "<" and has >= wanted) or (sign == "==" and has != wanted):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.sub(r"[^0-9.].*", "", version).split(".") if part)

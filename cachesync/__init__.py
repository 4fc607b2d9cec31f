"""cachesync keeps the copies of your data in local memory, Redis and the browser in step."""

from cachesync.batch import AsyncCachedMany, CachedMany
from cachesync.cache import MISSING, Cache, FunctionStats, LogStats, RefreshStats, SharedStats, Stats, WarmingStats
from cachesync.coordination.events import Event, Span
from cachesync.coordination.gathering import in_context
from cachesync.coordination.health import Health, Reason
from cachesync.coordination.policy_file import load_settings
from cachesync.core.entry import Entry
from cachesync.core.policies import Policies
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.reloads import Changes
from cachesync.core.settings import Settings
from cachesync.core.stamps import Stamp
from cachesync.core.sweeping import Swept
from cachesync.core.switches import Switches
from cachesync.core.warming import Warmed
from cachesync.decorator import AsyncCachedFunction, CachedFunction
from cachesync.errors import (
    BatchError,
    CachesyncError,
    CodecError,
    KeyArgumentError,
    KeyTemplateError,
    LayerError,
    OverdueError,
    PolicyError,
    RestingError,
    SwitchError,
    WarmingError,
)
from cachesync.layers.codecs import PickleCodec
from cachesync.layers.local import LocalMemory
from cachesync.layers.memory import MemoryShared
from cachesync.layers.plugged import CachetoolsMemory
from cachesync.layers.redis import RedisShared

__version__ = "0.1.0"

__all__ = [
    "MISSING",
    "AsyncCachedFunction",
    "AsyncCachedMany",
    "BatchError",
    "Cache",
    "CachedFunction",
    "CachedMany",
    "CachesyncError",
    "CachetoolsMemory",
    "Changes",
    "CodecError",
    "Entry",
    "Event",
    "FunctionStats",
    "Health",
    "HttpPolicy",
    "KeyArgumentError",
    "KeyTemplateError",
    "LayerError",
    "LocalMemory",
    "LogStats",
    "MemoryShared",
    "OverdueError",
    "PickleCodec",
    "Policies",
    "Policy",
    "PolicyError",
    "Reason",
    "RedisShared",
    "RefreshStats",
    "RestingError",
    "Settings",
    "SharedStats",
    "Span",
    "Stamp",
    "Stats",
    "Swept",
    "SwitchError",
    "Switches",
    "Warmed",
    "WarmingError",
    "WarmingStats",
    "in_context",
    "load_settings",
]

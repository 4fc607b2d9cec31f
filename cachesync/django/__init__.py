"""For Django: `CachesyncCache`, a backend of CACHES. Needs the extra ``cachesync[django]``."""

from cachesync.django.backend import CachesyncCache

__all__ = ["CachesyncCache"]

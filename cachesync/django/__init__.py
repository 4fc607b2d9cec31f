"""For Django: `CachesyncCache`, a backend of CACHES. Needs the extra ``cachesync[django]``."""

try:
    import django as _django
except ImportError as error:
    raise ImportError('cachesync.django needs Django: pip install "cachesync[django]"') from error

from cachesync.django.backend import CachesyncCache

del _django

__all__ = ["CachesyncCache"]

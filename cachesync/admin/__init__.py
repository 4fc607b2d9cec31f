"""The admin app: what an operator and a dashboard ask of a running cache, over HTTP. Needs the extra ``[asgi]``."""

try:
    import starlette as _starlette
except ImportError as error:
    raise ImportError('cachesync.admin needs Starlette: pip install "cachesync[asgi]"') from error

from cachesync.admin.app import Admin

del _starlette

__all__ = ["Admin"]

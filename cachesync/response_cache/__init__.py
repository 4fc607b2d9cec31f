"""A response cache for ASGI: whole answers kept as values of a cachesync cache, under the rules of a shared HTTP cache (RFC 9111).

An answer is the result of a computation like any other: what its handler reads from cached functions becomes something it depends on, an
invalidation ends it in every process, and single flight, leases and spares are those of the cache. The rules themselves are in
``core.http_cache``; here is only when they are asked, and how a body flows to its client while it is kept.
"""

from cachesync.response_cache.door import ResponseCache

__all__ = ["ResponseCache"]

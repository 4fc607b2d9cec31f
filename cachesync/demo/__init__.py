"""The demonstration: two worker processes of a store dashboard, a real Valkey server, and a story that checks every answer.

``cachesync demo`` runs it. To read it as an example of an application, begin with `worker`, then `policies.toml`.
"""

"""Coordination runs what the core decides: the engine, the two drivers, flights, the log reader, the policy file, events."""

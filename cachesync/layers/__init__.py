"""Layers hold: local memory, the in-process shared layer, Redis, and the codecs that turn values into bytes."""

"""The commands of ``cachesync``, each with its options in a module of its own; ``cachesync.cli`` puts them together."""

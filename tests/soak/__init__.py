"""The soak: real processes, a real server, random faults, and a checker that knows the promises.

``make soak`` runs it for two minutes, ``make soak ARGS="--seconds 20 --seed 7"`` for as long as it is told, and
``make soak ARGS=--chaos`` lets layers, codecs and origins fail too. What stands where:

===============  ==================================================================================
``world``        what is cached: functions, keys, tags, and which invalidation concerns which of them
``origin``       the truth: versions that all processes share, outside of Redis
``history``      what is known afterwards: reads, cuts, lives, troubles, faults
``diary``        what each process writes down, and how a history is read back
``application``  the cached functions
``chaos``        what goes wrong inside of a worker: its layers, its codec, its origin
``traffic``      what a worker does: reads and cuts, the same for ``def`` and ``async def``
``watch``        what may not happen in a worker, and who notices
``worker``       a process with one cache, in threads, in a loop, or in both
``crew``         the workers as the soak sees them
``faults``       what is done to workers, their lines and their server
``checker``      which reads break a promise; plain functions of a history
``report``       the table at the end, and the story of each violation
``run``          all of it together
===============  ==================================================================================

A *cut* is anything that makes older values invalid: an invalidation, a ``set``, a ``refresh``, an ``update``.
"""

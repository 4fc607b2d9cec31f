"""The protocol as an executable model: every interleaving of a small cluster, explored.

The model does not retell the code, it runs it. What is explored is the real thing, step by step:

==============  ==================================================================================================
the flows       the generators of ``cachesync.core.flows``: they yield steps, the explorer decides whose comes next
the processes   real ``Engine`` objects, with their ledgers, bans, tickets, flights and copies
the layer       a real ``MemoryShared``; its contract with Redis is tested elsewhere
==============  ==================================================================================================

Three things are the model's own: the world around them (an origin whose values are version numbers, connections that are cut, a log
that is trimmed, a server that fails over), the joining of flights (``coordination.worlds`` does it with threads and tasks), and the
judge, who knows which invalidations each process has applied and what each reader is owed.

A step is atomic, and between two steps of one actor any other may act. All reachable states are visited, each once. A run fails where
a finished read is older than what its reader was owed, where somebody waits for ever, or where, once all is quiet, a layer holds an old
value that some process would serve. ``scenarios`` lists the worlds; each says which mechanisms it needs, and each mechanism is removed
from the real code in turn, which the model has to notice.

==============  ==================================================================================================
``state``       copying and hashing the state of real objects
``layer``       the shared layer, and what may befall it
``process``     one process
``stories``     what the actors do
``explore``     all interleavings of some stories, and the judge
``frames``      where a story stands
``mechanisms``  what the protocol cannot do without, and ``removal``: how it is taken out of the package's code
``scenarios``   the worlds, and the mechanisms that each of them needs
==============  ==================================================================================================

``PYTHONPATH=.:tests python -m model`` explores all of them; with ``--deep`` every step apart, and larger worlds, too.
"""

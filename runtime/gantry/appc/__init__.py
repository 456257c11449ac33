"""The App Container specification as types: names, references, manifests. Pure: no files, no network.

Import the module you need (``gantry.appc.manifest``, ``gantry.appc.names``, ...); this package imports
nothing on its own, because ``names`` and ``uuid`` are used where every millisecond of start-up counts.
"""

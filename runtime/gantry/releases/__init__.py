"""Named pods: a stable name over a chain of releases, run by systemd.

``web`` is a name; what it runs is a *release*, named by what it contains: the spec that was asked for and
the ID of every image. A change prepares the next release beside the one that runs and only then lets it take
over.

    spec      what was asked for, checked
    store     releases on disk
    unit      the text of a pod's unit          units    units on disk
    decide    what must be done (pure)          engine   doing it, and going back when it fails
    backend   the rooms beneath, as the engine needs them
"""

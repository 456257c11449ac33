"""Desired state: what a host should have, compared with what it has, and brought about.

    document  what was asked for: JSON, checked strictly
    sets      which objects a set of documents made, so that ``prune`` removes no others
    plan      what must be done: a pure function of the document and the facts
    host      the facts, and the hands: the rooms beneath as apply needs them
    act       doing it, in order, and the result

Idempotency lives here, once. A run that has nothing to do opens no connection, starts no pod, and starts at
most one process (``systemctl show``) for all pods together.
"""

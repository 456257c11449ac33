"""Networks of pods: none, the host's, or the built-in ``default``.

``plan`` decides (at prepare, imports what it likes); ``wire`` does it (at launch, imports almost nothing).

``default``: a veth pair, an address from 172.16.28.0/24 for the pod, the host's end is 172.16.28.1 on every
pair, everything is routed (pods never share a segment), traffic to the outside is masqueraded.
"""

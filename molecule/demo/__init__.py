"""The demonstration: fresh hosts, one playbook, a signed pod on each, a second run that changes nothing.

``make demo`` runs it; ``make demo KEEP=1`` leaves the hosts up. Nothing in it is a stand-in: the collection
is installed from its artifact, the hosts are booted for it, and every proof is taken from outside.
"""

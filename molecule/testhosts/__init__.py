"""Fresh Debian hosts for tests and for the demo, made in seconds and gone without a trace.

A *fleet* is a handful of hosts on a bridge in a network namespace of its own, described by one YAML file and
kept in one state directory. Two kinds share one interface: *machines* (systemd-nspawn booting a real
systemd) and *vms* (qemu). See docs/test-hosts.md.

    python -m testhosts create --state DIR SPEC.yml
    python -m testhosts ssh --state DIR NAME
    python -m testhosts destroy --state DIR
"""

"""Isolation flavors. Given the namespaces of a sandbox and a bundle, a flavor runs an app in it.

``flavor`` is the interface; ``oci`` is the flavor that runs apps by runc or crun. ``spec``, ``seccomp``,
``capabilities`` and ``isolators`` compile what an app asked for into an OCI configuration, at prepare.
"""

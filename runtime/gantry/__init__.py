"""Gantry: fetch, verify and run App Containers on Linux hosts.

One noun, one room. The rooms and the direction in which they may import each other are drawn in
docs/architecture.md and enforced by tests/unit/test_architecture.py.
"""

__version__ = "0.1.0"
APPC_VERSION = "0.8.11"

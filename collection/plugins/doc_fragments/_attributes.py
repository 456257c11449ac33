# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""PRIVATE to the collection: what modules support, said once."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes of modules that change a host."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in C(check_mode) and return the changed status prediction without modifying the target.
    details:
      - Also on a host where the runtime is not installed yet; everything that is wanted then counts as a change.
  diff_mode:
    support: full
    description: Returns details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
  idempotent:
    support: full
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
  platform:
    support: full
    description: Target OS and families that can be operated against.
    platforms: linux
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in C(check_mode) and return the changed status prediction without modifying the target.
    details:
      - This module never changes anything.
  diff_mode:
    support: N/A
    description: Returns details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
  idempotent:
    support: full
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
  platform:
    support: full
    description: Target OS and families that can be operated against.
    platforms: linux
"""

    ACTIONGROUP = r"""
options: {}
attributes:
  action_group:
    support: full
    description: Use C(group/appc.gantry.gantry) in C(module_defaults) to set defaults for this module.
    membership:
      - appc.gantry.gantry
"""

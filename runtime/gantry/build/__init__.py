"""Make images: the same input gives the same bytes.

- :func:`build_directory`: from an image layout, a directory with ``manifest`` and ``rootfs``.
- :func:`build_image`: from a root file system and a manifest that lie anywhere.
- :func:`build_archive`: from a tar of a root file system, and a manifest.
"""

from __future__ import annotations

from gantry.build.builder import Built, build_archive, build_directory, build_image
from gantry.build.packing import BuildError

__all__ = ["BuildError", "Built", "build_archive", "build_directory", "build_image"]

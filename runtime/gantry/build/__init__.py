"""Make images from directories: the same input gives the same bytes.

- :func:`build_directory`: from an image layout, a directory with ``manifest`` and ``rootfs``.
- :func:`build_image`: from a root file system and a manifest that lie anywhere.
"""

from __future__ import annotations

from gantry.build.builder import BuildError, Built, build_directory, build_image

__all__ = ["BuildError", "Built", "build_directory", "build_image"]

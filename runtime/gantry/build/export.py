"""What is laid down already as an image that depends on nothing: a rendered tree, the root of an app."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gantry.appc import document
from gantry.build.builder import Built, build_image, check_output
from gantry.build.packing import BuildError
from gantry.images.checking import verify
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.rendering import render
from gantry.images.space import require
from gantry.images.targets import refuse_own
from gantry.pods.merged import merged

if TYPE_CHECKING:
    from gantry.config import Paths
    from gantry.images.store import Store

#: Fields of a manifest that say how the tree is made; in the result that has happened.
_APPLIED = ("dependencies", "pathWhitelist")


def export_rendered(
    store: Store, image_id: str, output: str, *, compression: str = "gzip", overwrite: bool = False
) -> Built:
    """Pack an image with all that it depends on as one image of its own.

    The manifest is the image's, without ``dependencies`` and ``pathWhitelist``: they have been applied. So
    rendering the result gives the same tree, but for what :func:`gantry.build.build_image` does to times:
    whole seconds, none after ``SOURCE_DATE_EPOCH``. It is another image, with an ID of its own and unsigned.

    Args:
        store: The store.
        image_id: As for :meth:`gantry.images.store.Store.find`.
        output: The image file; ends in ``.aci``.
        compression: As for :func:`gantry.build.build_image`.
        overwrite: Replace the output if it exists.

    Raises:
        BuildError: The tree could not be rendered faithfully (this user is not root, say), or the manifest
            has what no writer may write.
        GantryError: See :func:`gantry.images.render` and :func:`gantry.build.build_image`.
    """
    refuse_own(store.paths.data, os.path.realpath(output))
    verify(store, store.find(image_id))  # what somebody changed in the tree is not the image's
    with store.hold():  # so that the tree stays
        tree = render(store, image_id)
        if tree.downgrades:
            lost = ", ".join(tree.downgrades)
            raise BuildError(
                f"the tree of {image_id} is not all that the image says: {lost} were lost",
                hint="export it as root, and with the store on a file system that keeps everything",
            )
        size = sum(image.size for each in set(tree.images) if (image := store.get(each)) is not None)
        require(os.path.dirname(output), size, f"write {output}")  # as compressed as they came
        return build_image(
            tree.rootfs,
            _applied(store.manifest_bytes(tree.image)),
            output,
            compression=compression,
            overwrite=overwrite,
            limits=store.limits,
        )


def export_app(
    paths: Paths,
    pod: str,
    output: str,
    *,
    app: str | None = None,
    overwrite: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Built:
    """Pack the root of an app of an exited pod, as the app left it (RKT-INVENTORY 4.11).

    What belongs to volumes and what the launch made for its mounts is not in it: :mod:`gantry.pods.merged`.

    Args:
        paths: Where pods are.
        pod: A UUID, or the beginning of one.
        output: The image file; ends in ``.aci``.
        app: Its name; not needed if it is the only one.
        overwrite: Replace the output if it exists.
        limits: The bounds on images.

    Raises:
        GantryError: See :func:`gantry.pods.merged.merged` and :func:`gantry.build.build_image`.
    """
    check_output(output, "gzip", overwrite=overwrite)
    refuse_own(paths.data, os.path.realpath(output))
    with merged(paths, pod, app) as root:
        return build_image(
            root.rootfs,
            _applied(root.manifest),
            output,
            overwrite=overwrite,
            limits=limits,
            without=root.without,
            instead=root.instead,
        )


def _applied(manifest: bytes) -> bytes:
    whole, _ = document.load(manifest)
    return document.dump({key: value for key, value in whole.items() if key not in _APPLIED})

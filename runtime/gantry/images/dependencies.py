"""Which images an image consists of, and in what order they are laid down. Pure: the store is a function.

The order is depth-first, dependencies in list order before the image itself, without memory: an image
reached twice is laid down twice (DEP-08, DEP-12, TRAP-05). ``A -> [B, C]``, ``B -> [D]``, ``C -> [D]`` gives
D B D C A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.images.errors import DependencyError, ImageNotFoundError
from gantry.images.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gantry.appc.image_manifest import Dependency, ImageManifest
    from gantry.images.records import Image

_UNCLEAR = "the record of what the tree was made from does not fit those images"
_UNCLEAR_HINT = "once no pod uses the tree, gantry image gc removes it, and it is rendered anew"


class Node(NamedTuple):
    """One image at one place of the graph.

    Attributes:
        image: The image.
        whitelist: Its pathWhitelist as paths below the root, without slashes at the ends; empty: everything.
        dependencies: What lies below it, in order.
    """

    image: Image
    whitelist: frozenset[bytes]
    dependencies: tuple[Node, ...]


def choose(dependency: Dependency, candidates: list[Image]) -> Image:
    """The image that a dependency means, of those whose name and labels fit.

    Implements DEP-02, DEP-05, SIG-12: name and labels select, the ID is compared afterwards.

    Raises:
        ImageNotFoundError: There is none.
        DependencyError: Those there have another ID.
    """
    if not candidates:
        raise ImageNotFoundError(
            f'the dependency "{dependency.ref}" is not in the store', hint=f"gantry fetch {dependency.ref}"
        )
    wanted = dependency.image_id
    if wanted is None:
        return candidates[0]
    for image in candidates:
        if image.id.startswith(wanted):
            return image
    raise DependencyError(
        f'the dependency "{dependency.ref}" has to be {wanted.short()}, but the store has '
        f"{candidates[0].id.short()}",
        hint="fetch the image again with --pull-policy=update",
    )


def resolve(
    top: Image,
    manifest_of: Callable[[str], ImageManifest],
    find_all: Callable[[Dependency], list[Image]],
    limits: Limits = DEFAULT_LIMITS,
) -> Node:
    """The graph below *top*, as a tree.

    Implements DEP-05, DEP-09, DEP-10.

    Args:
        top: The image to be rendered.
        manifest_of: Image ID -> manifest.
        find_all: Dependency -> the images in the store that fit its name and labels, the one to choose first.
        limits: The bounds.

    Raises:
        DependencyError: A cycle, a chain or a number of passes beyond the bounds, or a wrong ID.
        ImageNotFoundError: A dependency is not in the store.
    """
    known: dict[str, Node] = {}
    passes: dict[str, int] = {}

    def visit(image: Image, above: tuple[Image, ...]) -> Node:
        if any(image.id == upper.id for upper in above):
            chain = " -> ".join(str(each) for each in (*above, image))
            raise DependencyError(
                f"the dependencies form a cycle: {chain}", hint="its publisher has to fix that"
            )
        if len(above) >= limits.nesting:
            raise DependencyError(
                f"the dependencies of {top} are nested deeper than {limits.nesting} (bound: nesting)"
            )
        if image.id in known:
            return known[image.id]
        manifest = manifest_of(image.id)
        below = []
        count = 1
        for dependency in manifest.dependencies:
            chosen = choose(dependency, find_all(dependency))
            below.append(visit(chosen, (*above, image)))
            count += passes[chosen.id]
            if count > limits.passes:
                raise DependencyError(
                    f"{top} is laid down in more than {limits.passes} passes (bound: passes)",
                    hint="its dependencies share each other too often",
                )
        node = Node(image, _whitelist(manifest), tuple(below))
        known[image.id] = node
        passes[image.id] = count
        return node

    return visit(top, ())


def recall(
    images: Sequence[str], image_of: Callable[[str], Image], manifest_of: Callable[[str], ImageManifest]
) -> Node:
    """The graph that once gave this order, whatever its names would mean today.

    An order is read from its end, where the image itself stands: before each image stands the last of its
    dependencies, with all that lies below that one.

    Args:
        images: Image IDs as :func:`order` gave them.
        image_of: Image ID -> image.
        manifest_of: Image ID -> manifest.

    Raises:
        DependencyError: No graph gives this order.
        ImageNotFoundError: An image is gone.
    """
    left = list(images)

    def take(depth: int, name: str | None) -> Node:
        image = image_of(left.pop()) if left else None
        if image is None or depth > len(images) or (name is not None and image.name != name):
            raise DependencyError(_UNCLEAR, hint=_UNCLEAR_HINT)
        manifest = manifest_of(image.id)
        below = [take(depth + 1, dependency.ref.name) for dependency in reversed(manifest.dependencies)]
        return Node(image, _whitelist(manifest), tuple(reversed(below)))

    top = take(0, None)
    if left:
        raise DependencyError(_UNCLEAR, hint=_UNCLEAR_HINT)
    return top


def _whitelist(manifest: ImageManifest) -> frozenset[bytes]:
    return frozenset(path.strip("/").encode() for path in manifest.path_whitelist)


def order(node: Node) -> Iterator[Node]:
    """The passes: what is laid down, in order, repetitions included."""
    for dependency in node.dependencies:
        yield from order(dependency)
    yield node

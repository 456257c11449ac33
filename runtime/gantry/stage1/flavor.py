"""What every isolation flavor can do, and which there are.

Whoever makes or ends pods asks here and never a flavor's own module. A plan names its flavor.

On the launch path.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Flavor(Protocol):
        """A flavor of isolation, over one pod that is being launched.

        The pod's namespaces exist, its file systems are mounted in the caller's mount namespace, and the
        caller is the one to whom orphaned processes fall.
        """

        def start(
            self,
            app: str,
            bundle: str,
            *,
            own_input: bool = False,
            console: str | None = None,
            streams: tuple[int, int] | None = None,
        ) -> int:
            """Start an app from *bundle*, return as soon as it runs: its process number, as the host counts.

            Args:
                app: Its name.
                bundle: The directory of its ``config.json``.
                own_input: It reads our standard input; else an empty file.
                console: Where to send the terminal that its configuration asks for.
                streams: Descriptors for its standard output and error; ours by default.

            Raises:
                HostError: It could not be started.
            """

        def run(self, name: str, bundle: str, *, streams: tuple[int, int] | None = None) -> int:
            """Run a program from *bundle* to its end, in the place of the app: its exit status.

            Args:
                name: What the flavor calls it.
                bundle: See :meth:`start`.
                streams: See :meth:`start`.

            Raises:
                HostError: It could not be started.
            """

        def enter(self, app: str, process: str, *, place: str, console: str | None = None) -> int:
            """Start a program beside a running app, with all that holds for that app: its process number.

            It falls to the caller, and has our standard streams.

            Args:
                app: The app's name.
                process: A file with the OCI *process*: what, as whom, with which capabilities.
                place: A directory for files of this call.
                console: Where to send the terminal that *process* asks for.

            Raises:
                HostError: It could not be started.
            """


#: A flavor keeps what it must remember of a pod in RUN/FLAVOR/UUID, as files and nothing else: when nothing
#: of the pod runs any more, whoever cleans up removes them.
NAMES = ("oci", "fly", "stage1")
#: An annotation of a bundle's configuration: so many of its last mounts are the pod's volumes and files; what
#: is before them is what every Linux container has.
OWN_MOUNTS = "gantry/own-mounts"


def find(name: str, *, runtime: str, run: str, uuid: str, lock: int | None, bound: bool = True) -> Flavor:
    """The flavor *name*, for one pod.

    Args:
        name: As the pod's plan says.
        runtime: What the plan has chosen for it: a program, or the directory of somebody else's flavor.
        run: The run directory.
        uuid: The pod.
        lock: Descriptor of the pod's lock: a runtime still at work when we are killed keeps it, so that
            nobody cleans up while it makes something. Apps do not get it. ``None``: somebody else holds it.

        bound: Apps die with the caller, in whatever way the flavor brings that about.

    Raises:
        GantryError: It is not there, or not as it should be.
    """
    if name == "oci":
        from gantry.stage1.oci import Oci  # noqa: PLC0415 - only what the plan asks for is loaded

        return Oci(runtime, f"{run}/oci/{uuid}", lock)
    if name == "fly":
        from gantry.stage1.fly import Fly  # noqa: PLC0415 - likewise

        return Fly(f"{run}/fly/{uuid}", bound=bound)
    from gantry.stage1.external import External  # noqa: PLC0415 - likewise

    return External(runtime, f"{run}/stage1/{uuid}", uuid, lock)

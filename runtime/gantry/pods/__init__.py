"""One pod's life on disk: prepare compiles a launch plan, launch executes it; then status, stop, rm, gc.

- :func:`prepare`: from a :class:`PodRequest` to a prepared pod;
- ``gantry.pods.launch``: ``run-prepared`` and ``pod-stopped``, the launch path;
- :func:`list_pods`, :func:`get`, :func:`manifest_bytes`: what is there;
- :func:`stop`, :func:`remove`, :func:`collect` (gc).

Everything is loaded when it is first used: the launch path imports this package and must not pay for the
rest.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gantry.pods.compile import prepare
    from gantry.pods.info import AppInfo, PodInfo, find_uuid, get, list_pods, manifest_bytes
    from gantry.pods.lifecycle import Collected, collect, remove, stop
    from gantry.pods.request import AppRequest, MountRequest, PodContext, PodRequest, PortForward
    from gantry.pods.state import PodStateError

__all__ = [
    "AppInfo",
    "AppRequest",
    "Collected",
    "MountRequest",
    "PodContext",
    "PodInfo",
    "PodRequest",
    "PodStateError",
    "PortForward",
    "collect",
    "find_uuid",
    "get",
    "list_pods",
    "manifest_bytes",
    "prepare",
    "remove",
    "stop",
]

_HOMES = {
    "compile": ("prepare",),
    "info": ("AppInfo", "PodInfo", "find_uuid", "get", "list_pods", "manifest_bytes"),
    "lifecycle": ("Collected", "collect", "remove", "stop"),
    "request": ("AppRequest", "MountRequest", "PodContext", "PodRequest", "PortForward"),
    "state": ("PodStateError",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            import importlib  # noqa: PLC0415 - see above; also `from gantry.pods import state` comes by here

            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

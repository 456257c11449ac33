"""A flavor of somebody else's: executables that follow docs/stage1-interface.md, one for each entry point.

On the launch path of such pods only.
"""

from __future__ import annotations

import os

from gantry.errors import HostError, NotFoundError
from gantry.linux.lean import dumps, loads
from gantry.linux.programs import Program, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The version of the interface that this speaks.
INTERFACE = 1
#: Where flavors lie, below the directories of the administrator and the vendor.
PLACE = "stage1.d"
_NEEDED = ("start",)
_KNOWN = ("start", "enter", "gc")
_MAX_FILE = 1 << 16


def read(directory: str) -> dict[str, Any]:
    """The checked ``flavor.json`` of a flavor: ``name``, ``enforces`` and absolute paths in ``entrypoints``.

    Raises:
        NotFoundError: There is none.
        HostError: It is not what the interface says.
    """
    path = f"{directory}/flavor.json"
    try:
        with open(path, "rb") as file:
            told = loads(file.read(_MAX_FILE))
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no {path}", hint="docs/stage1-interface.md says what belongs there"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _refusal(path, f"cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise _refusal(path, "is no JSON object")
    if told.get("interface") != INTERFACE:
        raise _refusal(
            path, f"speaks interface {told.get('interface')!r}, and this version speaks {INTERFACE}"
        )
    name = os.path.basename(directory)
    if told.get("name") != name:
        raise _refusal(path, f'has to have the name "{name}", as its directory')
    enforces = told.get("enforces", [])
    if not isinstance(enforces, list) or not all(isinstance(each, str) for each in enforces):
        raise _refusal(path, '"enforces" has to be a list of names of isolators')
    points = told.get("entrypoints")
    if not isinstance(points, dict) or not all(isinstance(each, str) for each in points.values()):
        raise _refusal(path, '"entrypoints" has to be an object of paths')
    missing = [each for each in _NEEDED if each not in points]
    unknown = [each for each in points if each not in _KNOWN]
    if missing or unknown:
        what = (
            f"lacks {missing[0]}" if missing else f'has "{unknown[0]}", which interface {INTERFACE} has not'
        )
        raise _refusal(path, f'"entrypoints" {what}')
    found = {}
    for point, program in points.items():
        whole = os.path.normpath(os.path.join(directory, program))
        if not os.access(whole, os.X_OK) or os.path.isdir(whole):
            raise _refusal(path, f"{whole}, its entry point {point}, is no program")
        found[point] = whole
    return {"name": name, "enforces": enforces, "entrypoints": found}


def _refusal(path: str, why: str) -> HostError:
    return HostError(f"{path} {why}", hint="mend or remove it; see docs/stage1-interface.md")


class External:
    """The flavor for one pod, see :class:`gantry.stage1.flavor.Flavor`.

    Args:
        directory: Of the flavor.
        root: The directory for its state, this pod's own.
        uuid: The pod.
        lock: See :func:`gantry.stage1.flavor.find`.
    """

    __slots__ = ("_directory", "_lock", "_points", "_root", "_uuid")

    def __init__(self, directory: str, root: str, uuid: str, lock: int | None) -> None:
        self._directory = directory
        self._points: dict[str, str] = read(directory)["entrypoints"]
        self._root = root
        self._uuid = uuid
        self._lock = lock

    def start(
        self,
        app: str,
        bundle: str,
        *,
        own_input: bool = False,
        console: str | None = None,
        streams: tuple[int, int] | None = None,
    ) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        return self._call(
            "start", app, bundle, {"bundle": bundle, "console": console}, own_input=own_input, streams=streams
        )

    def run(self, name: str, bundle: str, *, streams: tuple[int, int] | None = None) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        return exit_code(os.waitpid(self.start(name, bundle, streams=streams), 0)[1])

    def enter(self, app: str, process: str, *, place: str, console: str | None = None) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        return self._call("enter", app, place, {"process": process, "console": console}, own_input=True)

    def _call(
        self,
        point: str,
        app: str,
        place: str,
        more: dict[str, Any],
        *,
        own_input: bool,
        streams: tuple[int, int] | None = None,
    ) -> int:
        if point not in self._points:
            raise HostError(
                f'the flavor "{os.path.basename(self._directory)}" has no entry point {point}',
                hint="its own documentation says what it can do",
            )
        os.makedirs(self._root, 0o700, exist_ok=True)
        with open(f"{self._root}/flavor", "w", encoding="utf-8") as out:  # for whoever cleans up
            out.write(self._directory)
        pid_file, errors = f"{place}/pid", f"{place}/error"
        document = {
            "interface": INTERFACE,
            "call": point,
            "pod": self._uuid,
            "app": app,
            "state": self._root,
            "pid_file": pid_file,
            "error_file": errors,
            **more,
        }
        with open(f"{place}/call.json", "w", encoding="utf-8") as out:
            out.write(dumps(document))
        output, error_stream = streams or (None, None)
        program = Program(
            [self._points[point], f"{place}/call.json"],
            own_input=own_input,
            output=output,
            errors=error_stream,
            keep_errors=False,
            hold=self._lock,
        )
        status = program.wait()
        if status:
            said = _read(errors) or f"status {status}"
            raise HostError(
                f'cannot {point} app "{app}": {os.path.basename(self._directory)} said: {said}',
                hint="mend what it names and start the pod again",
            )
        text = _read(pid_file)
        if not text.isdigit() or not os.path.exists(f"/proc/{text}"):
            raise HostError(
                f'cannot {point} app "{app}": {os.path.basename(self._directory)} '
                f"wrote no process to {pid_file}",
                hint="the flavor does not follow docs/stage1-interface.md",
            )
        return int(text)


def clean(root: str, uuid: str) -> None:
    """Have the flavor that left its state in *root* give back what is not a file there.

    Raises:
        HostError: It refused.
    """
    directory = _read(f"{root}/flavor")
    if not directory:
        return
    point = read(directory)["entrypoints"].get("gc")
    if point is None:
        return
    document = {
        "interface": INTERFACE,
        "call": "gc",
        "pod": uuid,
        "state": root,
        "error_file": f"{root}/error",
    }
    with open(f"{root}/call.json", "w", encoding="utf-8") as out:
        out.write(dumps(document))
    status = Program([point, f"{root}/call.json"]).wait()
    if status:
        raise HostError(
            f'the flavor "{os.path.basename(directory)}" cannot clean up after pod {uuid}: '
            f"{_read(f'{root}/error') or f'status {status}'}"
        )


def _read(path: str) -> str:
    """The last line of a small file; empty when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_MAX_FILE).strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""

"""Fill in what only the launch knows into an app's configuration.

On the launch path.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def fill(
    template: str,
    bundle: str,
    plan: dict[str, Any],
    *,
    url: str | None,
    group: str,
    pause: int,
    size: tuple[int, int] | None = None,
) -> str:
    """Write ``config.json`` into a directory of its own.

    Args:
        template: The configuration with places to fill in (:mod:`gantry.stage1.spec`).
        bundle: The directory; made if it is missing.
        plan: The pod's.
        url: Of the metadata service; ``None``: there is none.
        group: The app's control group.
        pause: The pod's first process.
        size: Rows and columns of the terminal that an interactive app gets; ``None``: it gets none.

    Returns:
        The directory.
    """
    mark = plan["placeholder"]
    with open(template, encoding="utf-8") as file:
        text = file.read()
    text = text.replace(f'"{mark}:url",', f'"AC_METADATA_URL={url}",' if url else "")
    text = text.replace(f"{mark}:group", group.replace("\\", "\\\\")).replace(f"{mark}:pause", str(pause))
    if plan.get("interactive"):
        # Made with its size: the app may look at once.
        told = f'true,"consoleSize":{{"height":{size[0]},"width":{size[1]}}}' if size else "false"
        text = text.replace(f'"{mark}:terminal"', told)
        text = text.replace(f'"{mark}:console",', "" if size else plan["console"])
    os.makedirs(bundle, 0o700, exist_ok=True)
    fd = os.open(f"{bundle}/config.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as out:
        out.write(text)
    return bundle

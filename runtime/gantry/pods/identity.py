"""Make a pod known to the signer and the metadata service, before its apps start.

On the launch path; the clients are loaded only where there are services.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gantry.sandbox import Sandbox


def register(
    run: str,
    path: str,
    uuid: str,
    digest: str,
    *,
    sandbox: Sandbox,
    listens: bool,
    warn: Callable[[str], None],
) -> None:
    """Do so; what can wait is a warning.

    Args:
        run: The run directory.
        path: The pod's directory.
        uuid: The pod.
        digest: SHA-256 of its token.
        sandbox: Its sandbox, ready.
        listens: Whether that has a listening socket (a pod in the host's network has none).
        warn: Told what does not work yet.

    Raises:
        GantryError: A service refused.
    """
    signer = f"{run}/signer.sock"
    if os.path.exists(signer):
        from gantry.signer import client as signer_client  # noqa: PLC0415 - see above

        signer_client.create(signer, uuid, digest)
    else:
        warn("the signer is not installed: the pod cannot sign")
    from gantry.metadata import client  # noqa: PLC0415 - see above

    document = os.open(f"{path}/metadata.json", os.O_RDONLY | os.O_CLOEXEC)
    listener = sandbox.listening_socket() if listens else None
    try:
        if not client.register(f"{run}/metadata-svc.sock", uuid, document, listener, pause_pid=sandbox.pid):
            warn("the metadata service has not answered yet: requests wait for it")
    finally:
        os.close(document)
        if listener is not None:
            os.close(listener)

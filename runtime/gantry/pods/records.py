"""What the audit record says of a pod that is started.

On the launch path.
"""

from __future__ import annotations

from gantry import audit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gantry.network.wire import Reservation


def record_start(
    data: str, uuid: str, plan: dict[str, Any], reservation: Reservation | None, warnings: list[str]
) -> None:
    """Put the start of a pod on record; before any app starts, for what is not on record is not run."""
    audit.record(
        data,
        "pod.run",
        uuid=uuid,
        name=plan["pod_name"],
        apps=[
            {"name": app["name"], "image": app["image_name"], "image_id": app["image_id"]}
            for app in plan["apps"]
        ],
        network=plan["network"]["mode"],
        address=reservation.record.address if reservation else None,
        ports=plan["network"]["ports"] or None,
        host_changed=(reservation.changed or None) if reservation else None,
        warnings=[*plan["warnings"], *warnings] or None,
    )

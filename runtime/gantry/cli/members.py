"""``image adopt``, and what a member of the group is told who fetches."""

from __future__ import annotations

from gantry.cli.context import Context
from gantry.cli.output import FAILURE
from gantry.errors import HostError, NotFoundError
from gantry.images.members import MemberStore
from gantry.images.members import adopt as take_in
from gantry.images.sharing import GROUP, group_id
from gantry.images.store import Store


def adopt(context: Context) -> int:
    """Take in what members have handed over; what is refused is told, on record, and removed.

    What this host has no room for, say, waits on, and is the only failure.
    """
    store, output = context.store(), context.output
    if group_id() is None:
        raise NotFoundError(f'there is no group "{GROUP}" on this host', hint=f"groupadd --system {GROUP}")
    found = take_in(store, context.keys())
    if output.form:
        shown = [
            {"member": each.member, "id": each.image_id}
            | ({"error": each.error.as_dict()} if each.error else {"name": str(each.image)})
            for each in found
        ]
        output.json(shown)
    for each in () if output.form else found:
        if each.error is not None:
            output.failed(each.error)
        else:
            output.line(f'adopted image "{each.image_id}" from {each.member}')
    return FAILURE if any(isinstance(each.error, HostError) for each in found) else 0


def tell_handed_over(context: Context, store: Store) -> None:
    """Say what a member has brought, and that it is not in the host's store yet."""
    if not isinstance(store, MemberStore) or not (brought := store.handed_over()):
        return
    store.wake()
    context.output.notice(
        f"handed over: {len(brought)} image(s) will be in the host's store when root has taken them in "
        "(gantry image adopt)"
    )

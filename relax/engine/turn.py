"""One call at a time: the maps of a problem share its registers, and a second call would overwrite the first's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from relax.base.fem.blocks import hand_out
from relax.errors import BadInput

_guard = threading.Lock()
_busy: dict[int, int] = {}


@contextmanager
def turn(state: object) -> Iterator[None]:
    """The maps of the problem with this state are this caller's within the block. Local.

    After it the Functions that the state is made of hold what it holds.

    Raises:
        BadInput: when one of them is in the middle of another call: of another thread, or one that has called this.
    """
    me = threading.get_ident()
    with _guard:
        holder = _busy.get(id(state))
        if holder is not None:
            where = "which has called this (from a method of an observable?)" if holder == me else "in another thread"
            raise BadInput(
                f"a map was called while another call of this problem's maps is under way, {where}: both write the "
                "problem's state and controls. Make a problem and a map for the second one, or wait for the first"
            )
        _busy[id(state)] = me
    try:
        yield
    finally:
        hand_out(state)
        with _guard:
            del _busy[id(state)]

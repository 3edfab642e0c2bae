"""SIGUSR1, by which a batch system, or a person, asks a program to keep what it has done and to end."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from types import FrameType
from typing import Any

_has_come = False


class Ear:
    """Hears the signal for as long as it is there. Local: the ranks agree by what they make of it.

    The signal is meant for the process: what one ear has heard, all hear, those that are made later too, until it is
    ``answered``. It reaches the main thread alone, and only there can it be listened for: an ear made elsewhere hears
    what another one does. When none is left the signal kills again.

    Args:
        takes: the signal from whoever has it, until ``close``. Without this it is listened for only where it would kill
            the process: a handler of somebody else's stays.
    """

    def __init__(self, *, takes: bool = False) -> None:
        self._old: Any = None
        if threading.current_thread() is threading.main_thread():
            old = signal.getsignal(signal.SIGUSR1)
            if takes or old is signal.SIG_DFL:
                signal.signal(signal.SIGUSR1, _hear)
                self._old = old if takes else None
        _EARS.add(self)

    def has_heard(self) -> bool:
        """Whether the signal has come, and nobody has answered it."""
        return _has_come

    def close(self) -> None:
        """Listen no more, and give back what was taken."""
        _EARS.discard(self)
        if self._old is not None:
            signal.signal(signal.SIGUSR1, self._old)
            self._old = None


_EARS: weakref.WeakSet[Ear] = weakref.WeakSet()


def answered() -> None:
    """What was asked for is being done: the next signal is another one. Local."""
    global _has_come
    _has_come = False


def _hear(number: int, frame: FrameType | None) -> None:
    global _has_come
    if _EARS:
        _has_come = True
        return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

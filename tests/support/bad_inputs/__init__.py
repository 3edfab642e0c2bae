"""What a user may hand over by mistake, a line each: the mistake, how it is made, and what must be said.

``test_bad_input.py`` makes all of them in one process of two ranks, ``tests/mistakes.py`` (``make faults``) each in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from bad_inputs import arguments, equations, job_files, maps
from bad_inputs.command_line import CommandLine

Call = tuple[Callable[[Any], Any], str]

_areas = {"equations": equations.MISTAKES, "maps": maps.MISTAKES}
if find_spec("torch") is not None:
    from bad_inputs import learning

    _areas["learning"] = learning.MISTAKES
#: Of calls: the area and the mistake, made with what is given, and what the error must say.
CALLS: dict[str, Call] = {f"{area}: {name}": call for area, calls in _areas.items() for name, call in calls.items()}
#: Of the command ``relax``.
COMMAND_LINES: dict[str, CommandLine] = job_files.MISTAKES | arguments.MISTAKES

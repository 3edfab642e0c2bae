"""Every error that relax raises on purpose.

All of them are raised on every rank of the communicator concerned, never on one rank alone (see
:func:`relax.base.parallel.raise_together`), and say what was expected, what was found, and what to try next.
"""


class RelaxError(Exception):
    """The root of relax's own errors.

    Attributes:
        of_another_rank: what failed did so on another rank, whose traceback says where.
    """

    of_another_rank: bool = False


class SolveFailed(RelaxError):
    """A linear or nonlinear solve gave no trustworthy answer.

    The message names the solver, its PETSc options prefix, the reason as a sentence, the iterations, the last norm, and
    what to try.
    """


class NotConverged(SolveFailed):
    """An iteration of relax's own (an optimiser, a continuation) stopped short of its tolerance."""


class PointsOutsideMesh(RelaxError):
    """Points at which a value was asked for lie outside the mesh; the message names them."""


class BadProblem(RelaxError):
    """A ``Problem`` or an observable does not fit together (a control that is in no form, a state of another space)."""


class BadInput(RelaxError, ValueError):
    """A value handed to relax has the wrong shape, kind or content (a NaN, an unknown key, a missing file)."""


class CheckFailed(RelaxError, AssertionError):
    """``check_map`` found a derivative that is not the derivative; ``report`` holds what it measured."""

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report

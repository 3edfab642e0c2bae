"""Observations y = B(u): what is seen of a state."""

from relax.base.fem.points import points_inside
from relax.observe.base import Look, Observable, Stack
from relax.observe.expressions import ExpressionField, ExpressionValues
from relax.observe.fields import FieldValues, fill
from relax.observe.functional import Functional
from relax.observe.points import PointValues
from relax.observe.steps import AtSteps, TimeIntegral

__all__ = [
    "AtSteps",
    "ExpressionField",
    "ExpressionValues",
    "FieldValues",
    "Functional",
    "Look",
    "Observable",
    "PointValues",
    "Stack",
    "TimeIntegral",
    "fill",
    "points_inside",
]

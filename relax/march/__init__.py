"""The solution of equations in time: forward, and tangents and adjoints through time."""

from relax.march.plan import expanded
from relax.march.solution import March

__all__ = ["March", "expanded"]

"""The solution of equations in time: forward, and tangents and adjoints through time."""

from relax.engine.march.march import March
from relax.engine.march.plan import expanded

__all__ = ["March", "expanded"]

"""A landscape relaxed on a mesh: its values and derivatives at any point and time, its minima, descents."""

from relax.relaxation.landscape.descent import Descent
from relax.relaxation.landscape.landscape import RelaxedLandscape
from relax.relaxation.landscape.minima import Minimisers

__all__ = ["Descent", "Minimisers", "RelaxedLandscape"]

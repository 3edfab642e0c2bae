"""The arrays that are passed around."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

#: Real numbers.
Array: TypeAlias = npt.NDArray[np.float64]
#: Local or global numbers of degrees of freedom, cells, points.
Indices: TypeAlias = npt.NDArray[np.int64]

"""References for the viscous Hamilton–Jacobi equation on the whole space, without a mesh.

    u(x, t) = -(1/beta) log E[exp(-beta f(x + sqrt(t/beta) Z))],  Z ~ N(0, I),

which solves u_t = -1/2 |grad u|^2 + 1/(2 beta) Lap u with u(x, 0) = f(x). Functions of x take coordinates of shape
(d, n) and give (n,), as DOLFINx has it (x[0] is the first coordinate); points are arrays of shape (n, d).
"""

from relax.relaxation.cole_hopf.closed_forms import (
    ClosedForm,
    ControlledQuadratic,
    affine,
    cosine,
    inviscid_correction,
    kink,
    quadratic,
)
from relax.relaxation.cole_hopf.quadrature import (
    GaussHermite,
    Gibbs,
    Trapezoidal,
    density,
    gibbs,
    gradient,
    heat,
    hessian,
    value,
)

__all__ = [
    "ClosedForm",
    "ControlledQuadratic",
    "GaussHermite",
    "Gibbs",
    "Trapezoidal",
    "affine",
    "cosine",
    "density",
    "gibbs",
    "gradient",
    "heat",
    "hessian",
    "inviscid_correction",
    "kink",
    "quadratic",
    "value",
]

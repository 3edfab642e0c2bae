"""One quadrature for a form and everything derived from it.

UFL estimates a quadrature degree for each form by itself. The derivative of ``exp(m) grad u`` in m gets a higher degree
than ``exp(m) grad u``: integrated by another rule, it is no longer the derivative of the sum that is solved, and Taylor
remainders stall (at 1e-7 of the slope, on coarse meshes). So degrees are fixed before anything is differentiated.
"""

from __future__ import annotations

import numpy as np
import ufl
from ufl.algorithms import compute_form_data
from ufl.core.expr import Expr

from relax.base.fem.pointwise import PointLaw, laws_in

# In the metadata of an integral: its degree is an estimate for the spaces that stand in it.
_ESTIMATED = "degree_is_estimated"


def with_fixed_degrees(form: ufl.Form, *, for_good: bool = True) -> ufl.Form:
    """The form with the quadrature degree that FFCx would choose for it written into its integrals.

    Degrees that the user has set stay. Integrals of one kind (cells, exterior facets, ...) share the largest. A point
    law counts as the exponential of its inputs does.

    Args:
        form: the form.
        for_good: ``with_free_degrees`` does not give them free again.
    """
    largest: dict[str, int] = {}
    laws = laws_in(form)
    # The same passes as FFCx makes, so a form with one subdomain of a kind is integrated as it is without us.
    data = compute_form_data(
        ufl.replace(form, {law: _as_smooth_as(law) for law in laws}) if laws else form,
        do_apply_function_pullbacks=True,
        do_apply_integral_scaling=True,
        do_apply_geometry_lowering=True,
        preserve_geometry_types=(ufl.classes.Jacobian,),
        do_apply_restrictions=True,
        do_append_everywhere_integrals=False,
    )
    for group in data.integral_data:
        for integral in group.integrals:
            degree = integral.metadata().get("estimated_polynomial_degree", 0)
            degree = max(degree) if isinstance(degree, tuple) else degree
            kind = integral.integral_type()
            largest[kind] = max(largest.get(kind, 0), int(degree))
    integrals = []
    for integral in form.integrals():
        metadata = dict(integral.metadata())
        if metadata.get("quadrature_degree", -1) == -1 and "quadrature_rule" not in metadata:
            metadata["quadrature_degree"] = largest.get(integral.integral_type(), 0)
            if not for_good:
                metadata[_ESTIMATED] = True
        integrals.append(integral.reconstruct(metadata=metadata))
    return ufl.Form(integrals)


def with_free_degrees(form: ufl.Form) -> ufl.Form:
    """The form without the degrees that were fixed for its spaces, and not for good: to be one of other spaces."""
    integrals = []
    for integral in form.integrals():
        metadata = dict(integral.metadata())
        if metadata.pop(_ESTIMATED, False):
            del metadata["quadrature_degree"]
        integrals.append(integral.reconstruct(metadata=metadata))
    return ufl.Form(integrals)


def _as_smooth_as(law: PointLaw) -> Expr:
    """An expression of UFL of the law's shape, which a network is no smoother than."""
    value = ufl.exp(sum(law.z[j] for j in range(len(law.z))))
    return ufl.as_tensor(np.full(law.ufl_shape, value, dtype=object).tolist()) if law.ufl_shape else value

"""Forms that are compiled together.

The C compiler takes most of the time of a first call, and most of its own time whatever it is given: the four forms of
a residual that a gradient needs take less than half as long in one module as in four.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import ffcx
import ffcx.codegeneration.jit
import ufl
from dolfinx import default_scalar_type, fem, jit
from dolfinx.fem.forms import CompiledForm, get_integration_domains
from dolfinx.mesh import Mesh

# Seconds that a process waits for a module which another one compiles: it is several forms long, on a busy machine.
_PATIENCE = 100

Forms: TypeAlias = ufl.Form | list[ufl.Form] | None


class Together:
    """Forms on one mesh, compiled as one module when the first of them is used.

    Args:
        mesh: the mesh.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._waiting: list[Later] = []

    def add(self, forms: Forms) -> Later:
        """A form, several that make one thing, or none. Local."""
        later = Later(self, forms)
        self._waiting.append(later)
        return later

    def compile(self) -> None:
        """Compile what has been added since the last time. Collective."""
        forms = list(chain.from_iterable(later.forms for later in self._waiting))
        made = iter(compiled_together(forms, self._mesh))
        # Only now: what does not compile is tried again, and says why again.
        waiting, self._waiting = self._waiting, []
        for later in waiting:
            later.made = [next(made) for _ in later.forms]


class Later:
    """What has been added to ``Together``; called, it is there, as ``fem.Form``, list or None. Collective."""

    def __init__(self, together: Together, forms: Forms) -> None:
        self._together = together
        self._is_list = isinstance(forms, list)
        self.forms: list[ufl.Form] = forms if isinstance(forms, list) else [] if forms is None else [forms]
        self.made: list[fem.Form] | None = None

    def __call__(self) -> Any:
        if self.made is None:
            self._together.compile()
        assert self.made is not None
        if self._is_list:
            return self.made or None
        return self.made[0] if self.made else None


def compiled_together(forms: Sequence[ufl.Form], mesh: Mesh) -> list[fem.Form]:
    """What ``fem.form`` gives for each, from one module. Collective.

    Args:
        forms: each integrates over ``mesh`` alone; none is empty.
        mesh: the mesh.
    """
    if not forms:
        return []
    if len(forms) == 1:
        return [fem.form(forms[0])]
    objects, module, code = _compiled(mesh.comm, list(forms))
    return [
        fem.create_form(
            CompiledForm(form, made, module, code, default_scalar_type),
            [argument.ufl_function_space() for argument in form.arguments()],
            mesh,
            _subdomains(form),
            {f: f for f in form.coefficients()},
            {c: c for c in form.constants()},
        )
        for form, made in zip(forms, objects, strict=True)
    ]


@jit.mpi_jit_decorator
def _compiled(forms: list[ufl.Form]) -> Any:
    settings = jit.get_options()
    settings["timeout"] = max(settings["timeout"], _PATIENCE)
    options = ffcx.get_options({"scalar_type": default_scalar_type})
    return ffcx.codegeneration.jit.compile_forms(forms, options=options, **settings)


def _subdomains(form: ufl.Form) -> dict[fem.IntegralType, Any]:
    """For each kind of integral the tagged parts of the mesh: (tag, entities). Local."""
    parts = {}
    (of_domain,) = form.subdomain_data().values()
    for kind, data in of_domain.items():
        integrals = [i for i in form.integrals() if i.integral_type() == kind and i.subdomain_data() is not None]
        given = [i.subdomain_id() for i in integrals]
        tags = {tag for tags in given for tag in (tags if isinstance(tags, tuple) else (tags,)) if tag != "everywhere"}
        name = getattr(fem.IntegralType, kind)
        parts[name] = get_integration_domains(name, data[0], sorted(tags))
    return parts

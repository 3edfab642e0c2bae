"""Forms that are compiled together.

The C compiler takes most of the time of a first call, and most of its own time whatever it is given: the four forms of
a residual that a gradient needs take less than half as long in one module as in four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ffcx
import ffcx.codegeneration.jit
import ufl
from dolfinx import default_scalar_type, fem, jit
from dolfinx.fem.forms import CompiledForm, get_integration_domains
from dolfinx.mesh import Mesh

from relax.base.fem.jit import on_all_ranks
from relax.base.fem.submeshes import entity_maps
from relax.errors import BadProblem


class Together:
    """Forms on one mesh, derived and compiled as one module when the first of them is used.

    Args:
        mesh: the mesh.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._waiting: list[Later] = []

    def add(self, make: Callable[[], ufl.Form | None]) -> Later:
        """What derives a form, or none. Local."""
        later = Later(self, make)
        self._waiting.append(later)
        return later

    def compile(self, asked: Later) -> None:
        """Make what has been added since the last time. Collective.

        Where that fails the one that is asked for is made by itself: another one's fault is for those who ask for it.
        """
        try:
            self._make(self._waiting)
        except Exception:
            if self._waiting == [asked]:
                raise
            self._make([asked])

    def _make(self, wanted: list[Later]) -> None:
        forms = [later.make() for later in wanted]
        compiled = iter(compiled_together([form for form in forms if form is not None], self._mesh))
        for later, form in zip(wanted, forms, strict=True):
            later.made = None if form is None else next(compiled)
            later.is_made = True
        self._waiting = [later for later in self._waiting if not later.is_made]


class Later:
    """What has been added to ``Together``; called, it is there, as ``fem.Form`` or None. Collective."""

    def __init__(self, together: Together, make: Callable[[], ufl.Form | None]) -> None:
        self._together = together
        self.make = make
        self.made: fem.Form | None = None
        self.is_made = False

    def __call__(self) -> fem.Form | None:
        if not self.is_made:
            self._together.compile(self)
        return self.made


def compiled_together(forms: Sequence[ufl.Form], mesh: Mesh) -> list[fem.Form]:
    """What ``fem.form`` gives for each, from one module. Collective.

    Args:
        forms: each integrates over ``mesh`` alone; none is empty.
        mesh: the mesh.

    Raises:
        BadProblem: on every rank, where integrals of one kind have tags in two places.
    """
    if not forms:
        return []
    subdomains = [_subdomains(form) for form in forms]
    objects, module, code = _compiled(mesh.comm, list(forms))
    made = []
    for form, compiled, parts in zip(forms, objects, subdomains, strict=True):
        coefficients = form.coefficients()
        if compiled.num_coefficients != len(coefficients):
            # FFCx has dropped some, and DOLFINx 0.9 then takes others in their places.
            made.append(fem.form(form, entity_maps=entity_maps(form)))
            continue
        made.append(
            fem.create_form(
                CompiledForm(form, compiled, module, code, default_scalar_type),
                [argument.ufl_function_space() for argument in form.arguments()],
                mesh,
                parts,
                {f: f for f in coefficients},
                {c: c for c in form.constants()},
                entity_maps(form),
            )
        )
    return made


@on_all_ranks
def _compiled(forms: list[ufl.Form]) -> Any:
    options = ffcx.get_options({"scalar_type": default_scalar_type})
    return ffcx.codegeneration.jit.compile_forms(forms, options=options, **jit.get_options())


def _subdomains(form: ufl.Form) -> dict[fem.IntegralType, Any]:
    """For each kind of integral the tagged parts of the mesh: (tag, entities). Local."""
    parts = {}
    (of_domain,) = form.subdomain_data().values()
    for kind, data in of_domain.items():
        given = {id(tags): tags for tags in data if tags is not None}
        if len(given) > 1:
            raise BadProblem(
                f"residual: expected the tags of all its {kind} integrals in one place, got {len(given)} sets of them; "
                "put them together with relax.meshes.set_tags, or into one MeshTags"
            )
        integrals = [i for i in form.integrals() if i.integral_type() == kind and i.subdomain_data() is not None]
        numbers = [i.subdomain_id() for i in integrals]
        tags = {tag for of in numbers for tag in (of if isinstance(of, tuple) else (of,)) if tag != "everywhere"}
        name = getattr(fem.IntegralType, kind)
        parts[name] = get_integration_domains(name, next(iter(given.values()), None), sorted(tags))
    return parts

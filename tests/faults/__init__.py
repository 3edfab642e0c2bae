"""The mutants of ``make mutants``, by package: faults that a maintainer could make, and what should see them."""

from faults import (
    base,
    discovery,
    ),
    Mutant(
    engine,
    invert,
    jobs,
    layer_and_train,
    march,
    meshes_and_observables,
    problems,
    relaxation,
)

PACKAGES = (
    base,
    meshes_and_observables,
    problems,
    engine,
    march,
    invert,
    discovery,
    relaxation,
    layer_and_train,
    jobs,
)
    ),
    Mutant(
    symbolic,
)

PACKAGES = (
    base, meshes_and_observables, problems, engine, march, invert, relaxation, symbolic, layer_and_train, jobs,
)  # fmt: skip
MUTANTS = [mutant for of_package in PACKAGES for mutant in of_package.MUTANTS]

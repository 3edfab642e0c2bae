"""The mutants of ``make mutants``, by package: faults that a maintainer could make, and what should see them."""

from faults import (
    base,
    discovery,
    eigen,
    engine,
    fields,
    invert,
    jobs,
    layer,
    linear_algebra,
    march,
    meshes_and_observables,
    problems,
    relaxation,
    solve,
    symbolic,
    train,
)

PACKAGES = (
    base,
    linear_algebra,
    fields,
    meshes_and_observables,
    problems,
    engine,
    solve,
    march,
    eigen,
    invert,
    discovery,
    relaxation,
    symbolic,
    layer,
    train,
    jobs,
)
MUTANTS = [mutant for of_package in PACKAGES for mutant in of_package.MUTANTS]

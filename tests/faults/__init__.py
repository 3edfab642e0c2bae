"""The mutants of ``make mutants``, by package: faults that a maintainer could make, and what should see them."""

from faults import base, engine, invert, jobs, layer_and_train, march, meshes_and_observables, problems, relaxation

MUTANTS = [
    mutant
    for of_package in (base, meshes_and_observables, problems, engine, march, invert, relaxation, layer_and_train, jobs)
    for mutant in of_package.MUTANTS
]

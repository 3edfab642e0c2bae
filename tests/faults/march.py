"""Faults of equations in time: the steps, their derivatives, what is kept of a trajectory."""

from __future__ import annotations

from faults.mutant import Mutant

HEAT = "test_heat.py::TestEverything"
THETA = "test_heat.py test_evolution.py -k 'by_hand or order_in_time or theta'"
SUBSTITUTED = "test_hamilton_jacobi.py::TestColeHopf"

MUTANTS = [
    Mutant(
        "(c, place.at(max(n - 1, 0))) for c, place in self._system",
        "(c, place.at(min(n, self._system.evolution.num_steps - 1))) for c, place in self._system",
        "test_controls.py -k led_to_them",
        "a step is seen beside the controls that led to it",
    ),
    Mutant(
        "seen.controls.install(parts)",
        "pass",
        "test_controls.py -k runs_that_share",
        "each of several runs is seen beside its own controls",
    ),
    Mutant(
        "self._is_walked = True",
        "self._is_walked = False",
        "test_momenta.py -k on_the_way",
        "two sweeps at once share the states of a schedule",
    ),
    Mutant(
        "substitution.unknown_slope(substitution.state(unknown))",
        "substitution.state_slope(unknown)",
        "test_momenta.py -k cole_hopf",
        "a momentum of the unknown in place of the state",
    ),
    Mutant(
        "if isinstance(controls[place], fem.Function) or comm.rank == 0:",
        "if True:",
        "test_momenta.py -k schrodinger",
        "a number's gradient is counted once a rank",
        ranks=2,
    ),
    Mutant(
        "into += gradient",
        "into -= gradient",
        HEAT,
        "the sign of Cᵀ λ from one step to the one before",
        file="backwards.py",
    ),
    Mutant(
        "collect(place, dual * slope)",
        "collect(place, -dual * slope)",
        HEAT,
        "the sign of the gradient in the initial state",
    ),
    Mutant(
        "collect(place, duals * bent[",
        "collect(place, -duals * bent[",
        SUBSTITUTED,
        "the sign of the initial state's curvature",
    ),
    Mutant(
        "observation.add_seconds(0, first[0], here, seeds, first[1:][which], along, second, total.put_row)",
        "pass",
        "test_evolution_edges.py -k corners",
        "the curvature of what is seen of the initial state",
    ),
    Mutant(
        "system.registers.install_state_tangent(owned[k])",
        "register[: owned.shape[1]] = owned[k]",
        HEAT + " -k 'derivatives or layouts'",
        "a missing ghost update of tangents in time",
        ranks=2,
    ),
    Mutant(
        "with system.lent():",
        "if True:",
        "test_evolution.py::Test_bilinear test_evolution.py::Test_heat -k 'parameters or many'",
        "parameters not given back by derivatives in time",
    ),
    Mutant("self.tell(n + 1)", "self.tell(n)", THETA, "the load of the step before"),
    Mutant(
        "if self._changes or self._run is not run:",
        "if self._run is not run:",
        THETA,
        "a stale load: that of the first step",
    ),
    Mutant(
        "if self._stamp is None or self._stamp() is not stamp:",
        "if self._stamp is None:",
        "test_evolution_edges.py -k old_points",
        "a stale matrix: the terms of other parameters",
    ),
    Mutant(
        "changes[i, look.part] += look.weight * change",
        "changes[i, look.part] += change",
        "test_evolution.py::Test_heat -k derivatives",
        "tangents without the weight of their step",
    ),
    Mutant(
        "bent = self._substitution.state_curvature(record) * tangents[i]",
        "bent = -self._substitution.state_curvature(record) * tangents[i]",
        SUBSTITUTED,
        "the sign of the curvature of what is seen",
    ),
    Mutant(
        "before[..., newer] = after[..., older]",
        "pass",
        "test_several_equations.py -k three_steps",
        "what is handed back from the state two steps later is lost",
    ),
    Mutant(
        "if not any(is_same(c, other) for other in named[:i])",
        "if not any(c is other for other in named[:i])",
        "test_learned_coefficient.py -k share_a_network",
        "weights of one network that two equations hold are two controls",
    ),
    Mutant(
        "into += weight * dual",
        "into += dual",
        "test_newmark.py::test_derivatives",
        "a velocity hands back without its weights",
    ),
    Mutant(
        'whole(run, mine, n).part(b"".join(run.constants[c][n + 1] for c in standing))',
        "whole(run, mine, n)",
        "test_data_in_time.py -k equals_dolfinx",
        "a stale factor: that of the first length of steps",
    ),
    Mutant(
        "return self._values_of.at(max(n - 1, 0), grid)",
        "return self._values_of.at(n, grid)",
        "test_data_in_time.py -k start_count",
        "a step begins with the data of its end",
    ),
    Mutant(
        "seen = [c for c in own if stands_in(c, balance, still)]",
        "seen = []",
        "test_newmark.py::test_derivatives",
        "the acceleration at the start does not depend on the controls",
    ),
    Mutant(
        "self._here = (n, item.start)",
        "self._here = (n, self.first)",
        "test_storage.py -k 'same_bits and nonlinear and Revolve'",
        "steps are made again from the first state",
    ),
    Mutant(
        "self.everything_key = Key()",
        "pass",
        "test_contract.py::TestSource test_evolution_edges.py -k parameters",
        "stale matrices: parameters that stand in them have changed",
        below="            self.operator_key = Key()",
    ),
]

"""Trajectories held as a schedule says: the same gradient bit for bit, as many states as slots, also on disk."""

from __future__ import annotations

import os

import evolutions
import numpy as np
import pytest
from checkpoint_schedules import (
    HRevolve,
    MixedCheckpointSchedule,
    MultistageCheckpointSchedule,
    NoneCheckpointSchedule,
    PeriodicDiskRevolve,
    Revolve,
    SingleDiskStorageSchedule,
    SingleMemoryStorageSchedule,
    StorageType,
    TwoLevelCheckpointSchedule,
)
from contract import raised_everywhere, same

from relax import AtSteps, BadInput, FieldValues, ReducedMap, SolveFailed, check_map, meshes
from relax.engine.march.runs import Runs

N = 9

SCHEDULES = {
    "memory": lambda: SingleMemoryStorageSchedule(),
    "disk": lambda: SingleDiskStorageSchedule(),
    "disk, moved": lambda: SingleDiskStorageSchedule(move_data=True),
    "Revolve": lambda: Revolve(N, 2),
    "multistage": lambda: MultistageCheckpointSchedule(N, 1, 2),
    "mixed in memory": lambda: MixedCheckpointSchedule(N, 3, storage=StorageType.RAM),
    "mixed on disk": lambda: MixedCheckpointSchedule(N, 3, storage=StorageType.DISK),
    "two levels": lambda: TwoLevelCheckpointSchedule(4, 2, binomial_storage=StorageType.RAM),
    "H-Revolve": lambda: HRevolve(N, 1, 2),
    "periodic disk": lambda: PeriodicDiskRevolve(N, 2, 2),
}


def heat(mesh):
    return evolutions.heat(mesh, num_steps=N, name="stored_heat")


def nonlinear(mesh):
    """Burgers' equation in more steps."""
    problem = evolutions.burgers(mesh)
    settings = {k: getattr(problem, k) for k in ("step", "previous", "per_step", "time", "dt", "start")}
    return type(problem)(initial=problem.initial_state, num_steps=N, **settings)


def make(evolution, storage=None):
    problem = evolution(meshes.unit_square(3))
    looks = AtSteps(FieldValues(problem.state.function_space), [0, 4, N])
    return ReducedMap(problem, looks, storage=storage)


def products(G):
    """Every product, gradients and Hessian actions more than once."""
    rng = np.random.default_rng(3)
    m = G.present_control() + 0.1 * rng.standard_normal(G.size_in)
    W, d = rng.standard_normal((2, G.size_out)), rng.standard_normal(G.size_in)
    with G.linearize(m) as lin:
        return [lin.value, lin.vjp(W), lin.vjp(W[0]), lin.jvp(d), lin.hvp(W, d), lin.vjp(W[1]), lin.hvp(W[1], d)]


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("evolution", [heat, nonlinear])
def test_every_schedule_gives_the_same_bits(evolution, schedule):
    with make(evolution) as G, make(evolution, SCHEDULES[schedule]()) as H:
        for found, expected in zip(products(H), products(G), strict=True):
            same(found, expected)


@pytest.mark.parametrize("slots", [1, 3, 5])
def test_slots_and_recomputation_are_what_revolve_promises(slots):
    """Griewank and Walther 2000: s slots and at most r forward runs of a step reach binomial(s + r, s) steps."""
    with make(heat, Revolve(N, slots)) as G:
        with G.linearize(G.present_control()) as lin:
            assert G.counts["forward"] == N
            lin.vjp(np.ones(G.size_out))
        assert G.counts["stored"] == slots
        assert G.counts["adjoint"] == N
        forward = [a for a in _actions(Revolve(N, slots)) if type(a).__name__ == "Forward"]
        assert G.counts["forward"] == sum(a.n1 - a.n0 for a in forward)
    with make(heat) as G, G.linearize(G.present_control()) as lin:
        assert G.counts["stored"] == N + 1
        lin.hvp(np.ones(G.size_out), np.ones((3, G.size_in)))
        # Each state with the tangents of three directions.
        assert G.counts["stored"] == 4 * (N + 1)


def _actions(schedule):
    for action in schedule:
        yield action
        if type(action).__name__ == "EndReverse":
            return


def test_derivatives_are_derivatives():
    with make(nonlinear, Revolve(N, 3)) as G:
        assert check_map(G).failures == []


@pytest.mark.ranks(1, 2)
def test_files_go_when_the_map_does(shared_tmp, monkeypatch):
    """Each rank's states lie under TMPDIR while they are needed, and nothing is left."""
    monkeypatch.setenv("TMPDIR", str(shared_tmp))
    before = set(os.listdir(shared_tmp))
    G = make(heat, SingleDiskStorageSchedule())
    lin = G.linearize(G.present_control())
    lin.vjp(np.ones(G.size_out))
    assert set(os.listdir(shared_tmp)) - before
    lin.close()
    del lin
    G.close()
    G.problem.mesh.comm.Barrier()
    assert set(os.listdir(shared_tmp)) == before


@pytest.mark.ranks(1, 2)
def test_a_disk_that_cannot_be_written(shared_tmp, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(shared_tmp / "nowhere"))
    G = make(heat, SingleDiskStorageSchedule())
    error = raised_everywhere(BadInput, lambda: G.linearize(G.present_control()))
    assert "TMPDIR" in str(error)


@pytest.mark.ranks(1, 2)
def test_a_sweep_that_fails_can_be_made_again(monkeypatch):
    """An adjoint that dies half-way leaves nothing behind that the next one trips over."""
    with make(heat, Revolve(N, 2)) as G:
        m = G.present_control()
        lin = G.linearize(m)
        calls, original = [], Runs.advance

        def dies(self, run, n, state):
            calls.append(n)
            if len(calls) == 3:
                raise SolveFailed("power cut")
            return original(self, run, n, state)

        monkeypatch.setattr(Runs, "advance", dies)
        raised_everywhere(SolveFailed, lambda: lin.vjp(np.ones(G.size_out)))
        monkeypatch.undo()
        with G.linearize(m) as fresh:
            same(lin.vjp(np.ones(G.size_out)), fresh.vjp(np.ones(G.size_out)))


@pytest.mark.ranks(1, 2)
def test_schedules_that_do_not_fit():
    for wrong in (Revolve(N + 1, 2), NoneCheckpointSchedule(), "Revolve", 20):
        error = raised_everywhere(BadInput, lambda wrong=wrong: make(heat, wrong))
        assert "storage" in str(error)
    used = Revolve(N, 2)
    next(used)
    raised_everywhere(BadInput, lambda: make(heat, used))


def test_a_schedule_is_not_used_up():
    """One schedule object serves many points at once."""
    G = make(heat, Revolve(N, 2))
    m = G.present_control()
    first, second = G.linearize(m), G.linearize(m + 1.0)
    w = np.ones(G.size_out)
    same(second.vjp(w), first.vjp(w))

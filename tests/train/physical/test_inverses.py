"""Inverses of reduced maps against closed forms, dense algebra, relax's optimisers, and themselves sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import COMM, close, everyone_has, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from problems import POINTS, cubic_reaction, reaction_constant

import relax
from relax.train.inverses.gauss_newton import gauss_newton_inverse
from relax.train.inverses.lbfgs import lbfgs_inverse

NOISE = 1e-3


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def linear_map(comm=COMM, n=4):
    """Few values of the solution of a Poisson equation with its source as control."""
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(n, comm=comm))
    return relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, POINTS))


def curved_map(comm=COMM, n=3):
    """Few values of a nonlinear equation."""
    problem = cubic_reaction(relax.meshes.unit_square(n, comm=comm))
    return relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, POINTS))


def smooth(G, std=5.0, mean=0.0):
    return relax.SmoothnessPrior(G.problem.controls[0].function_space, length=0.5, std=std, mean=mean)


def jacobian(G, m):
    with G.linearize(m) as lin:
        return lin.matrix()


def dense(prior, n):
    """The prior's covariance as a matrix."""
    return prior.covariance(np.eye(n))


# -- Gauss-Newton ------------------------------------------------------------------------------------------------------


def test_linear_map_with_a_wide_prior_is_the_pseudo_inverse():
    """std / noise = 1e7 and singular values of J of about 1e-2: the prior shows in 1e-10 of the step."""
    G = linear_map()
    x, dy = random(5, G.size_in), random(5, G.size_out, seed=1)
    exact = dy @ np.linalg.pinv(jacobian(G, x[0])).T
    close(gauss_newton_inverse(G)(dy), exact)
    wide = relax.IdentityPrior(G, std=1e4, mean=0.0)
    found = gauss_newton_inverse(G, noise=1e-5, prior=wide).at(0.0 * x)(dy)
    close(found, exact)
    with G:
        close(G(x + gauss_newton_inverse(G)(dy)) - G(x), dy)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_the_step_is_that_of_the_normal_equations(damping):
    """(Jᵀ Σ⁻² J + (1 + λ) C⁻¹) dx = Jᵀ Σ⁻² dy - C⁻¹ (x - mean), C⁻¹ from a dense inverse."""
    for G in (linear_map(), curved_map()):
        prior = smooth(G, mean=1.0)
        sigma = NOISE * np.array([1.0, 2.0, 0.5])
        x, dy = 10.0 + random(3, G.size_in), 0.01 * random(3, G.size_out, seed=1)
        found = gauss_newton_inverse(G, noise=sigma, prior=prior, damping=damping).at(x)(dy)
        precision = np.linalg.inv(dense(prior, G.size_in))
        for i in range(3):
            J = jacobian(G, x[i])
            H = J.T @ (J / sigma[:, None] ** 2) + (1.0 + damping) * precision
            rhs = J.T @ (dy[i] / sigma**2) - precision @ (x[i] - 1.0)
            close(found[i], np.linalg.solve(H, rhs), 1e-8)
        everyone_has(found)
        prior.close()
        G.close()


def test_more_observations_than_controls():
    """The side of the control: one number, seen in all values of the state."""
    problem = reaction_constant(relax.meshes.unit_square(3))
    V = problem.state.function_space
    with relax.ReducedMap(problem, relax.FieldValues(V)) as G:
        x, dy = np.array([[0.3], [1.0]]), 0.01 * random(2, G.size_out)
        prior = relax.IdentityPrior(1, std=2.0, mean=0.5)
        found = gauss_newton_inverse(G, noise=NOISE, prior=prior).at(x)(dy)
        least = gauss_newton_inverse(G).at(x)(dy)
        for i in range(2):
            J = jacobian(G, x[i])[:, 0] / NOISE
            close(found[i, 0], (J @ dy[i] / NOISE - (x[i, 0] - 0.5) / 4.0) / (J @ J + 0.25))
            close(least[i, 0], (J @ dy[i] / NOISE) / (J @ J))


def test_without_a_prior_damping_bounds_the_step():
    """(JᵀJ + λ) dx = Jᵀ dy: Levenberg-Marquardt; small singular values are dropped at rcond."""
    with linear_map() as G:
        dy = random(4, G.size_out)
        J = jacobian(G, np.zeros(G.size_in))
        exact = np.linalg.solve(J.T @ J + 1e-3 * np.eye(G.size_in), J.T @ dy.T).T
        close(gauss_newton_inverse(G, damping=1e-3)(dy), exact)
        s = np.linalg.svd(J, compute_uv=False)
        cut = 0.5 * (s[1] + s[2]) / s[0]
        close(gauss_newton_inverse(G, rcond=cut)(dy), dy @ np.linalg.pinv(J, rcond=cut).T)


@pytest.mark.parametrize("make", [linear_map, curved_map])
def test_iterated_it_is_the_most_probable_control(make):
    """relax.gauss_newton from the same point, which searches along lines and stops by the gradient."""
    with make() as G:
        prior = smooth(G)
        x = 10.0 * prior.sample(1)
        dy = 0.05 * random(G.size_out)
        found = x + gauss_newton_inverse(G, noise=NOISE, prior=prior, steps=12).at(x)(dy)
        # |g| <= atol bounds the distance by 1e-8 standard deviations of the prior.
        result = relax.gauss_newton(G, G(x) + dy, x, noise=NOISE, prior=prior, rtol=1e-14, atol=1e-8)
        assert result.converged
        close(found, result.value, 1e-7)
        other = x + lbfgs_inverse(G, noise=NOISE, prior=prior, max_steps=500, rtol=1e-12).at(x)(dy)
        close(other, result.value, 1e-5)
        prior.close()


def test_products_are_the_matrix():
    """Conjugate gradients to 1e-10 against the dense solve."""
    for G in (linear_map(), curved_map()):
        prior = smooth(G)
        x, dy = random(2, G.size_in), 0.05 * random(2, G.size_out, seed=1)
        exact = gauss_newton_inverse(G, noise=NOISE, prior=prior, damping=0.3).at(x)(dy)
        found = gauss_newton_inverse(G, noise=NOISE, prior=prior, damping=0.3, jacobian="products", cg_rtol=1e-11).at(
            x
        )(dy)
        close(found, exact, 1e-7)
        prior.close()
        G.close()


@pytest.mark.parametrize("make", [linear_map, curved_map])
def test_a_batch_is_its_samples(make):
    """Leading axes, tensors and arrays, both precisions, an empty batch; no samples cost no solve."""
    with make() as G:
        inverse = gauss_newton_inverse(G, steps=2)
        x, dy = random(2, 3, G.size_in), 0.05 * random(2, 3, G.size_out, seed=1)
        found = inverse.at(x)(dy)
        assert isinstance(found, np.ndarray)
        for index in np.ndindex(2, 3):
            close(found[index], inverse.at(x[index])(dy[index]), 1e-9)
        tensor = inverse.at(torch.from_numpy(x))(torch.from_numpy(dy).float())
        assert tensor.dtype == torch.float32
        close(tensor, found, 1e-5)
        before = dict(G.counts)
        assert inverse.at(x[:0])(dy[:0]).shape == (0, 3, G.size_in)
        assert G.counts == before


def test_a_linear_map_is_solved_once():
    """J by size_out adjoints at the first call, in one block; products with a matrix after that."""
    with linear_map() as G:
        inverse = gauss_newton_inverse(G, steps=3)
        dy = random(7, G.size_out)
        first = inverse(dy)
        assert G.counts == {"forward": 1, "tangent": 0, "adjoint": G.size_out}
        close(inverse(dy), first)
        assert G.counts["forward"] == 1 and G.counts["adjoint"] == G.size_out


def test_changed_parameters_make_a_new_inverse():
    mesh = relax.meshes.unit_square(3)
    k = fem.Constant(mesh, 1.0)
    problem = relax.pdes.poisson.source(mesh, conductivity=k)
    with relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, POINTS)) as G:
        inverse = gauss_newton_inverse(G)
        dy = random(G.size_out)
        first = inverse(dy)
        k.value = 2.0
        close(inverse(dy), 2.0 * first)


@pytest.mark.ranks(1, 2)
def test_a_changed_damping_makes_a_new_step():
    """As Levenberg and Marquardt adapt it: everywhere in the formula, with the Jacobian kept; rank 0's counts."""
    with linear_map() as G:
        prior = smooth(G, mean=1.0)
        x, dy = random(2, G.size_in), 0.01 * random(2, G.size_out, seed=1)
        for options in ({"noise": NOISE, "prior": prior}, {}):
            inverse = gauss_newton_inverse(G, **options)
            inverse.at(x)(dy)
            counts = dict(G.counts)
            inverse.damping = np.float64(2.0 + COMM.rank)
            found = inverse.at(x)(dy)
            assert inverse.damping == 2.0 and G.counts == counts
            close(found, gauss_newton_inverse(G, damping=2.0, **options).at(x)(dy))
            everyone_has(found)

            def spoil(inverse=inverse):
                inverse.damping = -1.0 if COMM.rank == COMM.size - 1 else 1.0

            assert "damping" in str(raised_everywhere(relax.BadInput, spoil)) and inverse.damping == 2.0
            for name in ("noise", "prior", "steps"):
                with pytest.raises(AttributeError, match=name):
                    setattr(inverse, name, 1)
            with pytest.raises(ValueError, match="read-only"):
                inverse.noise[:] = 1.0
        prior.close()


def test_observing_saves_the_forward_solves():
    with curved_map() as G:
        inverse = gauss_newton_inverse(G)
        x, dy = torch.from_numpy(random(2, G.size_in)), torch.from_numpy(0.05 * random(2, G.size_out, seed=1))
        y = inverse.observe(x)
        close(y, G(x.numpy()))
        counts = dict(G.counts)
        found = inverse.at(x)(dy)
        assert G.counts["forward"] == counts["forward"] and G.counts["adjoint"] == 2 * G.size_out
        close(found, inverse.at(x)(dy))
        assert G.counts["forward"] == counts["forward"] + 2


def test_what_was_observed_before_parameters_changed_is_not_used():
    mesh = relax.meshes.unit_square(3)
    f = fem.Constant(mesh, 1.0)
    problem = relax.pdes.poisson.diffusion(mesh, source=f)
    with relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, POINTS)) as G:
        inverse = gauss_newton_inverse(G)
        x, dy = 0.1 * random(2, G.size_in), 0.01 * random(2, G.size_out, seed=1)
        inverse.observe(x)
        f.value = 3.0
        found = inverse.at(x)(dy)
        close(found, gauss_newton_inverse(G).at(x)(dy))
        inverse.observe(x)
        before = G.counts["forward"]
        close(inverse.at(x)(dy), found)
        assert G.counts["forward"] == before


def test_a_map_of_another_kind_is_observed_too():
    """Energies of a potential: a map without parameters."""
    with relax.EigenMap(relax.meshes.interval(6), 2) as G:
        inverse = gauss_newton_inverse(G)
        x, dy = random(G.size_in), np.array([0.1, -0.2])
        close(inverse.observe(x), G(x))
        before = G.counts["forward"]
        found = inverse.at(x)(dy)
        assert G.counts["forward"] == before
        close(found, np.linalg.pinv(jacobian(G, x)) @ dy, 1e-8)


def test_tensors_of_any_real_dtype():
    """Integers give float64, as arrays do; half precision comes back as it came."""
    with linear_map() as G:
        inverse = gauss_newton_inverse(G)
        dy = torch.ones(2, G.size_out, dtype=torch.int64)
        found = inverse(dy)
        assert found.dtype == torch.float64
        close(found, inverse(dy.double()))
        assert inverse.observe(torch.ones(G.size_in, dtype=torch.int32)).dtype == torch.float64
        prior = relax.IdentityPrior(G, std=1.0)
        sigma = torch.full((G.size_out,), 0.5, dtype=torch.bfloat16)
        local = gauss_newton_inverse(G, noise=sigma, prior=prior)
        close(local.noise, np.full(G.size_out, 0.5))
        for dtype in (torch.bfloat16, torch.float16):
            x = torch.ones(2, G.size_in, dtype=dtype, requires_grad=True)
            exact = local.at(np.ones((2, G.size_in)))(np.ones((2, G.size_out)))
            close(local.at(x)(dy), exact)
            half = local.at(x)(dy.to(dtype))
            assert half.dtype == dtype and not half.requires_grad
            assert torch.equal(half, torch.from_numpy(exact).to(dtype))


# -- over ranks --------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(2)
@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("make", [linear_map, curved_map])
def test_samples_over_teams_equal_one_process(make, samples):
    teams = relax.Teams(COMM, 1)
    shared, alone = make(teams.space), make(MPI.COMM_SELF)
    x, dy = random(samples, alone.size_in), 0.05 * random(samples, alone.size_out, seed=1)
    exact = gauss_newton_inverse(alone).at(x)(dy)
    inverse = gauss_newton_inverse(shared, teams=teams)
    close(inverse.observe(x), alone(x))
    found = inverse.at(x)(dy)
    close(found, exact)
    everyone_has(found)
    prior = relax.IdentityPrior(alone, std=3.0)
    exact = lbfgs_inverse(alone, noise=NOISE, prior=prior, max_steps=3).at(x)(dy)
    close(lbfgs_inverse(shared, noise=NOISE, prior=prior, max_steps=3, teams=teams).at(x)(dy), exact, 1e-8)
    shared.close()
    alone.close()
    teams.close()


@pytest.mark.ranks(2)
@pytest.mark.parametrize("make", [linear_map, curved_map])
def test_a_mesh_over_ranks_gives_the_same_correction(make):
    whole, alone = make(), make(MPI.COMM_SELF)
    x, dy = random(3, alone.size_in), 0.05 * random(3, alone.size_out, seed=1)
    close(gauss_newton_inverse(whole).at(x)(dy), gauss_newton_inverse(alone).at(x)(dy), 1e-9)
    whole.close()
    alone.close()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_what_does_not_fit_is_refused_on_every_rank():
    with linear_map() as G, curved_map() as H:
        prior = smooth(G)
        other = relax.IdentityPrior(3, std=1.0)
        dy = np.zeros((2, G.size_out))
        nan = dy.copy()
        nan[: int(COMM.rank == COMM.size - 1)] = np.nan
        for words, action in (
            ("noise", lambda: gauss_newton_inverse(G, prior=prior)),
            ("noise", lambda: gauss_newton_inverse(G, noise=[1.0, 0.0, 1.0])),
            ("prior", lambda: gauss_newton_inverse(G, noise=1.0, prior=other)),
            ("prior", lambda: gauss_newton_inverse(G, jacobian="products")),
            ("steps", lambda: gauss_newton_inverse(G, steps=0)),
            ("damping", lambda: gauss_newton_inverse(G, damping=-1.0)),
            ("'dense'", lambda: gauss_newton_inverse(G, jacobian="dense")),
            ("at(x)", lambda: gauss_newton_inverse(H)(dy)),
            ("at(x)", lambda: gauss_newton_inverse(G, noise=1.0, prior=prior)(dy)),
            ("residual", lambda: gauss_newton_inverse(G)(dy[:, :2])),
            ("NaN", lambda: gauss_newton_inverse(G)(nan)),
            ("as many", lambda: gauss_newton_inverse(H).at(np.zeros((3, H.size_in)))(dy)),
            ("callback", lambda: lbfgs_inverse(G, noise=1.0, prior=prior, callback=print)),
            ("prior", lambda: lbfgs_inverse(G, noise=1.0, prior=None)),
        ):
            message = str(raised_everywhere(relax.BadInput, action))
            assert words in message, message
        inverse = lbfgs_inverse(H, noise=NOISE, prior=relax.IdentityPrior(H, std=1.0), max_steps=1, must_converge=True)
        raised_everywhere(relax.NotConverged, lambda: inverse.at(np.ones(H.size_in))(np.ones(H.size_out)))
        prior.close()
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(2))
    with relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space), layout="owned") as owned:
        assert "replicated" in str(raised_everywhere(relax.BadInput, lambda: gauss_newton_inverse(owned)))

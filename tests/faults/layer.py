"""Faults of layers, of losses by the residual and of graphs of meshes."""

from __future__ import annotations

from faults.mutant import Mutant

LAYER = "test_layer.py::TestDiffusion"
LEARNED = "test_learned_coefficient.py"

MUTANTS = [
    Mutant(
        "ends = topology.connectivity(1, 0).array.reshape(-1, 2)[: topology.index_map(1).size_local]",
        "ends = topology.connectivity(1, 0).array.reshape(-1, 2)",
        "test_graph.py",
        "edges of a mesh's graph that several ranks share, counted by each",
        ranks=2,
    ),
    Mutant(
        "of - 0.5 * bend for of, bend",
        "of + 0.5 * bend for of, bend",
        "test_residual_loss.py -k conductivity",
        "the sign of what the norm itself depends on a control",
    ),
    Mutant(
        "length = BLOCK if is_shared else 1",
        "length = BLOCK",
        "test_residual_loss.py -k batches_and_teams",
        "a norm that depends on the control is that of one sample for all",
    ),
    Mutant(
        "of_state = w if is_known else factor.solver.solve_many(of_state)",
        "of_state = w",
        "test_residual_loss.py -k one_by_one",
        "the representer of the residual, not of the derivative",
    ),
    Mutant(
        "of_state[residual.boundary.owned] = 0.0",
        "pass",
        "test_residual_loss.py -k derivatives",
        "a derivative in values that are given",
    ),
    Mutant(
        "residual.gradient(of_state if residual.boundary.has_controls else None, Key())",
        "residual.gradient(None, Key())",
        "test_residual_loss.py -k derivatives",
        "a boundary value that is a control, without derivative",
    ),
    Mutant(
        "of_control, of_field = _Once.apply(m, u, of_control, of_field)",
        "pass",
        "test_residual_loss.py -k does_not_fit",
        "a second derivative that is zero without a word",
    ),
    Mutant(
        "_check_positive(factor)",
        "pass",
        "test_residual_loss.py -k does_not_fit",
        "an indefinite operator taken for a norm where the residual's square is positive",
    ),
    Mutant(
        "for_dm = _Hvp.apply(m, dy, w, ctx.call) if ctx.needs_input_grad[2]",
        "for_dm = torch.zeros_like(dm) if ctx.needs_input_grad[2]",
        "test_layer.py -k batches_itself",
        "a Hessian action by two sweeps is none",
    ),
    Mutant(
        "return y.to(device=m.device, dtype=m.dtype)", "return y.to(device=m.device)", LAYER, "float32 in, float64 out"
    ),
    Mutant(
        "product.unflatten(-2, (size, mapped[0].shape[-2]))",
        "product.unflatten(-2, (mapped[0].shape[-2], size))",
        LAYER,
        "vmap takes directions for its own axis",
    ),
    Mutant(
        "_tangent(_Jvp, _SecondTangent, ctx, m_dot, dm_dot)",
        "_tangent(_Jvp, _SecondTangent, ctx, None, dm_dot)",
        LAYER,
        "forward over forward without curvature",
    ),
    Mutant(
        "actions = point.hvp(np.eye(result.shape[2]), b[s, k])",
        "actions = point.hvp(np.eye(result.shape[2]), a[s, k])",
        LAYER,
        "G''[a, a] for G''[a, b]",
    ),
    Mutant(
        "for_m = _Hvp.apply(_Last.apply(m, ctx.call), dy, w, ctx.call)",
        "for_m = -_Hvp.apply(_Last.apply(m, ctx.call), dy, w, ctx.call)",
        LAYER,
        "the sign of a Hessian action in a backward pass",
    ),
    Mutant(
        "directions.append(law.moved(dz))",
        "directions.append(2.0 * law.moved(dz))",
        f"{LEARNED} -k every_derivative",
        "the chain rule through a learned coefficient",
    ),
    Mutant(
        "self._z, self._seen, self._has_slope = z, [a.copy() for a in now], False",
        "self._z, self._seen = z, [a.copy() for a in now]",
        f"{LEARNED} -k every_derivative",
        "slopes of a learned coefficient are those of another point",
    ),
    Mutant(
        "self._along = (z, dz, dw.copy())",
        "self._along = (z, dz, dw)",
        f"{LEARNED} -k linear_in_the_state",
        "a learned coefficient's change is that along the direction before",
    ),
    Mutant(
        "return ufl.replace(given, {**moved, **laws})",
        "return ufl.replace(given, moved)",
        f"{LEARNED} -k each_term",
        "a learned coefficient of u_n in the term of u_{n-1}",
    ),
    Mutant(
        "terminals = [*(t for t in held if not isinstance(t, PointLaw)), *at_points]",
        "terminals = [t for t in held if not isinstance(t, PointLaw)]",
        f"{LEARNED} -k operator_is_newtons",
        "Cholesky for an operator whose asymmetry is that of a learned coefficient",
    ),
    Mutant(
        "total += law.collected_change(*duals)",
        "total += law.collected_change(duals[0], 0.0 * duals[1])",
        f"{LEARNED} -k every_derivative",
        "the second derivative in weights of a learned coefficient without that of the adjoint",
    ),
]

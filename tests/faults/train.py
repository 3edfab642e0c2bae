"""Faults of half-inverse gradients, closed loops, settling, paths and inverses of the physics."""

from __future__ import annotations

from faults.mutant import Mutant

LOOP = "test_closed_loop.py"
FORMULA = "test_half_inverse.py -k 'formula and (dense or fewer or positions) or damping or powers or points_down'"

MUTANTS = [
    Mutant(
        "frozen(state[0], times[n])",
        "frozen(state[0].detach(), times[n])",
        "test_paths.py -k landing",
        "a path that is cut where parameters are held",
    ),
    Mutant(
        '"stl": self._held_control',
        '"stl": self._control',
        "test_paths.py -k landing",
        "sticking the landing without held parameters",
    ),
    Mutant(
        "[0.5 * (a + b) for a, b in zip(here, there, strict=True)], 1.0 / steps, kick",
        "[0.5 * (a + b) for a, b in zip(here, there, strict=True)], 1.0 / steps, 0.5 * kick",
        "test_paths.py -k evidence_at",
        "the noise of Heun's steps",
    ),
    Mutant(
        "energy = 0.5 * (((f - prior(w, t)) / sigma) ** 2).sum(-1)",
        "energy = 0.5 * ((f / sigma) ** 2).sum(-1)",
        "test_paths.py -k evidence_at",
        "a log ratio to another prior",
    ),
    Mutant(
        "learnt = [*Everyones.apply(self._shares, *learnt)] if learnt else []",
        "pass",
        "test_paths.py -k share_the_paths",
        "gradients of a rank's own paths alone",
        ranks=2,
    ),
    Mutant(
        "nn.init.zeros_(self.net[-1].weight)",
        "nn.init.ones_(self.net[-1].weight)",
        "test_path_layers.py -k begins",
        "a layer that does not begin at its prior",
    ),
    Mutant(
        "torch.baddbmm(shift[:, None], h, matrix.view(",
        "torch.baddbmm(0.0 * shift[:, None], h, matrix.view(",
        "test_path_layers.py -k its_equation",
        "a layer without its shift",
    ),
    Mutant(
        "enough = max(STEERED * size, _BY_CHANCE * self._noise * np.sqrt(theta.size))",
        "enough = max(STEERED * size, self._noise)",
        "test_aeqprop.py -k noise",
        "when what is measured with noise has been steered back",
    ),
    Mutant(
        "return rest.theta + self._metric.moved(",
        "return rest.theta - self._metric.moved(",
        "test_aeqprop.py -k 'order_in_the_nudging'",
        "the sign of what holds the parameters",
    ),
    Mutant(
        "rows[:, self.clamped] = 0.0",
        "pass",
        "test_aeqprop.py -k order_in_the_nudging",
        "observations of clamped values in Newton's step",
    ),
    Mutant(
        "bc.refresh()",
        "pass",
        "test_aeqprop.py -k follow",
        "a boundary value of an energy that keeps its first value",
        file="terms.py",
    ),
    Mutant(
        "moved[self._terms.clamped] = 0.0",
        "pass",
        "test_aeqprop.py -k order_in_the_nudging",
        "clamped rows of what state and parameters share",
    ),
    Mutant(
        "E = with_fixed_degrees(compat.one_subdomain_data(energy.E))",
        "E = energy.E",
        "test_aeqprop.py -k long",
        "derivatives by another quadrature than the energy's",
    ),
    Mutant(
        "np.clip(there[-1], self._low, self._high, out=there[-1])",
        "pass",
        "test_aeqprop_bounds.py",
        "steps of learning past the bounds",
    ),
    Mutant(
        "self._betas[0], is_bounded=False",
        "self._betas[0], is_bounded=True",
        "test_aeqprop_bounds.py -k steering",
        "knobs that are steered by the bounds",
    ),
    Mutant(
        "((theta <= self._low) & (downhill > 0.0))",
        "((theta <= self._low) & (downhill < 0.0))",
        "test_aeqprop_bounds.py",
        "parameters that a lower bound holds though they would leave it",
    ),
    Mutant(
        "terms, factors, batch, 1.0 / batch.total",
        "terms, factors, batch, 1.0",
        "test_aeqprop_batches.py -k alike",
        "a sum over samples for a mean",
    ),
    Mutant(
        "found += self._share * coupling.to_parameters(",
        "found = self._share * coupling.to_parameters(",
        "test_aeqprop_batches.py -k slopes",
        "the curvature of the last sample alone",
    ),
    Mutant(
        "slice(0, samples) if self.teams is None else self.teams.mine(samples)",
        "slice(0, samples)",
        "test_aeqprop_batches.py -k teams",
        "samples that each of the teams has",
        ranks=2,
        file="shares.py",
    ),
    Mutant(
        "if not self._shares.agree(theta):",
        "if False:",
        "test_aeqprop_batches.py -k team",
        "teams that begin with other parameters",
        ranks=2,
    ),
    Mutant(
        "!= {id(t) for t in given[0] or {}}",
        "!= {id(t) for t in inputs or {}}",
        "test_aeqprop_batches.py -k fit",
        "samples without an input that others have",
    ),
    Mutant(
        "count = self._solver.negative_pivots() or 0",
        "count = 0",
        "test_aeqprop_doubtful.py -k maximum",
        "rest at a maximum of the energy",
    ),
    Mutant(
        "if abs(tried - value) <= _BLURRED * abs(value) and (",
        "if False and (",
        "test_aeqprop_doubtful.py -k rounding",
        "a step that ends where the energy is blurred by rounding",
    ),
    Mutant(
        "abs(before) and not settling.is_held(",
        "abs(before) and not settling.is_held and (",
        "test_aeqprop_doubtful.py -k runs_away",
        "knobs that hold nothing, and nobody is told",
    ),
    Mutant(
        "write(terminal, kept)",
        "pass",
        "test_aeqprop_doubtful.py -k leaves_all",
        "inputs that a failed step leaves behind",
        below="for terminal, kept in zip(terminals, before, strict=True):",
    ),
    Mutant(
        "if np.shape(found[0]) != self.theta.shape:",
        "if False:",
        "test_aeqprop_doubtful.py -k device",
        "parameters of another shape from a device",
    ),
    Mutant(
        "any(gives(terminal, bc) for bc in energy.bcs)",
        "False",
        "test_aeqprop_doubtful.py -k boundary",
        "a Constant that is a boundary value is no input",
    ),
    Mutant(
        "if any(theta is p for theta in energy.parameters for p in misfit.observable.parameters):",
        "if False:",
        "test_aeqprop_doubtful.py -k misfits",
        "a misfit that depends on a parameter itself",
    ),
    Mutant(
        '"physics": (True, False)',
        '"physics": (True, True)',
        LOOP + " -k autograd",
        "the gradient of physics goes into what the controller sees",
    ),
    Mutant(
        "memories[i] = grads[1:held] if by_physics",
        "memories[i] = tuple(map(torch.zeros_like, grads[1:held])) if by_physics",
        LOOP + " -k memory",
        "a memory without gradient",
    ),
    Mutant(
        "seeds.append((by_control + of_control,",
        "seeds.append((by_control,",
        LOOP + " -k autograd",
        "a loss of the control without gradient",
    ),
    Mutant(
        "return not any(bool(g[B:].any()) for g in swept)",
        "return True",
        LOOP + " -k hides_nothing",
        "a step that mixes samples is taken with the batch twice",
    ),
    Mutant(
        "                raise NotByRows",
        "                pass",
        LOOP + " -k hides_nothing",
        "a controller that mixes samples is taken for all steps at once",
    ),
    Mutant(
        "self._unrolls[kind] = agree((loss, totals), known)",
        "self._unrolls[kind] = True",
        LOOP + " -k one_batch",
        "a step that counts samples is taken with the batch twice",
    ),
    Mutant(
        'or positional(step)[2:3] == ["t"]',
        "or len(positional(step)) > 2",
        LOOP + " -k third_argument",
        "a step size that the step knows is overwritten by the number of the step",
    ),
    Mutant(
        "[list(map(torch.clone, found[flow])) for flow in flows]",
        "[list(found[flow]) for flow in flows]",
        LOOP + " -k gradients_of_their_own",
        "two parameters with one tensor as their gradient",
    ),
    Mutant(
        "like[t + 1] = kinds(after)",
        "like.update(dict.fromkeys(range(1, self.steps + 1), kinds(after)))",
        LOOP + " -k grows",
        "a memory read in the shape of another step",
    ),
    Mutant(
        "return seeded(seed) if self._repeats else nullcontext()",
        "return nullcontext()",
        LOOP + " -k draw",
        "a step that is made again draws other numbers",
    ),
    Mutant(
        "torch.where(p.sign() == f.sign(), p, 0.0)",
        "torch.where(p.sign() == f.sign(), f, 0.0)",
        LOOP + " -k signs_agree",
        "the combination of flows with the magnitudes of the full gradient",
    ),
    Mutant(
        "clock.set(t + 1, clock.grid(t + 1))",
        "clock.set(t, clock.grid(t + 1))",
        "test_one_step.py -k knows_its_time",
        "a step at the time of its start",
    ),
    Mutant(
        "if value not in _OF_TORCH[key]:",
        "if False:",
        "test_optim.py -k keywords",
        "capturable=True is taken, and nothing is captured",
    ),
    Mutant(
        "exponent = -0.5 * (1.0 + self.power)", "exponent = -0.5 * self.power", FORMULA, "s^-power for s^-(1 + power)"
    ),
    Mutant(
        "pulled = pulled - (betas[-1] if betas else 0.0) * v",
        "pulled = pulled + (betas[-1] if betas else 0.0) * v",
        FORMULA,
        "a sign in the bidiagonalisation",
    ),
    Mutant(
        "float(cap * 2.0 / (curvature * scale))",
        "float(cap / (curvature * scale))",
        "test_half_inverse_settings.py -k 'bound or cap'",
        "half the bound of stability",
    ),
    Mutant(
        "age < self.keep_factor",
        "age <= self.keep_factor",
        "test_half_inverse_settings.py -k factor",
        "a stale factor: one step too old",
    ),
    Mutant(
        "values = parallel.sum_over_ranks(self._batch, values)",
        "pass",
        "test_half_inverse_ranks.py -k 'one_process'",
        "a reduction left out between teams",
        ranks=2,
    ),
    Mutant(
        "return sum(counts[: self._batch.rank]), sum(counts)",
        "return 0, sum(counts)",
        "test_half_inverse_ranks.py -k 'one_process'",
        "a wrong owner: each team takes the first samples for its own",
        ranks=2,
    ),
    Mutant(
        "return dx if pull is None else dx - pull",
        "return dx",
        "test_inverses.py -k 'normal or iterated or products'",
        "a step that the prior does not pull",
    ),
    Mutant(
        "weights * residual) - prior.gradient(x)",
        "weights * residual) + prior.gradient(x)",
        "test_inverses.py -k 'normal or iterated or products'",
        "the sign of the prior's gradient",
    ),
    Mutant(
        "if self._operators is None or self._operators[0] is not key:",
        "if self._operators is None:",
        "test_inverses_exact.py",
        "a stale operator of an exact inverse: parameters have changed",
    ),
    Mutant(
        "p = expit(0.5 * ((a / n) ** 2 - (a / s) ** 2))",
        "p = expit(0.5 * ((a / s) ** 2 - (a / n) ** 2))",
        "test_inverses_exact.py",
        "signal for noise",
    ),
    Mutant(
        "values[i] + residual[i])",
        "values[i] - residual[i])",
        "test_inverses.py test_physical_gradient.py -k 'lbfgs or inverse'",
        "the sign of what L-BFGS is to fit",
        file="lbfgs.py",
    ),
    Mutant(
        "gap = ((x - here) - dx)", "gap = ((x - here) + dx)", "test_physical_gradient.py", "a physical gradient uphill"
    ),
]

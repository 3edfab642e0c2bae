"""The posterior over paths as a stochastic equation with a learnt drift.

Xu, Chen, Li, Duvenaud, "Infinitely deep Bayesian neural networks with stochastic differential equations", AISTATS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor
from torch.func import functional_call

from relax.base import parallel
from relax.base.checks import array_like, at_least, one_of
from relax.base.monte_carlo import Paths
from relax.base.teams import Teams, check_teams
from relax.errors import BadInput, SolveFailed
from relax.train.aeqprop.shares import Shares
from relax.train.paths.ranks import Everyones, Total, check_same, leaves
from relax.train.paths.walk import ESTIMATORS, SCHEMES, Drift, Rate, Walked, walk

# Paths that share a stream of random numbers, and so a rank: batches of training are small.
_BLOCK = 16


class PathPosterior(torch.nn.Module):
    """dw = f(w, t) dt + σ dB, 0 < t < 1, for the prior's dw = b(w, t) dt + σ dB, given data y on w(1). Dimensionless.

    With u = (f - b)/σ, and E over paths of f, log evidence ≥ E [log p(y | w(1)) - log ratio], equal where f is the
    posterior's drift b - σ² grad V with V(w, t) = -log E_prior[p(y | w(1)) | w(t) = w], which solves

        V_s = -½ σ² |grad V|² + b · grad V + ½ σ² Lap V,   V(., s = 0) = -log p(y | .),   s = 1 - t.

    In up to three dimensions the Hamilton-Jacobi equation gives it (``relax.relaxation.control.OptimalControl`` with V
    and s scaled by σ²). Estimators differ in the log ratio, and agree in the mean, of value and gradient:

    - "ckl": ½ ∫ |u|² dt;
    - "fmc": the same + ∫ u · dB;
    - "stl": sticking the landing: the same, with the *parameters* of f and b within that u · dB held, though not the
      path: its gradient's noise vanishes with the step as f becomes the posterior's.

    Steps are Heun's, of weak order 2 as the noise is additive, for the ½ ∫ |u|² dt too; or Euler-Maruyama's, of order
    1, with which the bound holds exactly for the prior in the same steps. ∫ u · dB is Ito's sum. The graph of all steps
    is held.

    Random numbers belong to the paths: the same on any device and number of ranks, in either precision but for
    rounding. With ``teams`` every method is collective over ``teams.comm``: each team walks its share of the paths, and
    loss and gradient are the whole ones on each rank, in the parameters of f, b, start and of a ``log_likelihood`` that
    is a torch module; differentiable once. Without, every method is local. ``torch.compile`` goes around :meth:`elbo`;
    f may be compiled.

    Args:
        drift: f, a torch module, or any function for "ckl" and "fmc": (w (k, d), t, a tensor without axes) -> (k, d).
            It is the same function at each call: no dropout.
        prior: "ou" for b = -w, or a drift, which may have parameters to be learnt.
        start: w(0) of both, (d,), or a number for d = 1; a ``torch.nn.Parameter`` is learnt, the prior's with it.
        sigma: σ, above 0: a number or (d,).
        steps: between 0 and 1.
        scheme: "heun" or "euler".
        teams: whose teams share the paths.

    Raises:
        BadInput: for arguments that do not fit, and values of functions that do not; with ``teams`` for parameters that
            differ between ranks.
        SolveFailed: when the bound is not finite.
    """

    def __init__(
        self,
        drift: Drift,
        prior: str | Drift = "ou",
        *,
        start: float | Tensor = 0.0,
        sigma: float | Tensor = 0.2,
        steps: int = 20,
        scheme: str = "heun",
        teams: Teams | None = None,
    ) -> None:
        super().__init__()
        if not callable(drift):
            raise BadInput(f"PathPosterior: drift: expected a function of w and t, got {drift!r:.80}")
        if not callable(prior):
            one_of(prior, ("ou", "a function of w and t"), "PathPosterior: prior")
        one_of(scheme, SCHEMES, "PathPosterior: scheme")
        check_teams(teams)
        self.drift: Drift = drift
        self.prior: Drift = _restoring if isinstance(prior, str) else prior
        self.steps = at_least(steps, 1, "PathPosterior: steps")
        self.scheme = scheme
        self._shares = Shares(MPI.COMM_SELF if teams is None else teams.space, teams)
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        point = _point(start, like, "start")
        if point.dtype != like.dtype and like.numel():
            raise BadInput(
                f"PathPosterior: start: expected it in the precision of the drift's parameters, {like.dtype}, got "
                f"{point.dtype}; give start.to({like.dtype}), or drift.to({point.dtype})"
            )
        noise = _point(sigma, point, "sigma").to(point)
        if noise.requires_grad or len(noise) not in (1, len(point)) or not bool((noise > 0.0).all()):
            raise BadInput(
                f"PathPosterior: sigma: expected a number above 0, or {len(point)} of them, without a gradient, got "
                f"{sigma!r:.80}"
            )
        if isinstance(point, torch.nn.Parameter):
            self.start = point
        else:
            self.register_buffer("start", point)
        self.register_buffer("sigma", noise)

    def forward(
        self, increments: Tensor, estimator: str = "stl", hidden: Tensor | None = None, rate: Rate | None = None
    ) -> Walked:
        """Paths for given increments of B, with their graph. Local.

        Args:
            increments: (steps, k, d), independent, of variance 1/steps.
            estimator: of the log ratio.
            hidden: h(0), of a state that goes along, dh = rate(h, w, t) dt.
            rate: that.
        """
        frozen = {"ckl": None, "fmc": self._control, "stl": self._held_control}[estimator]
        start = self.start.expand(increments.shape[1:])
        return walk(
            start, increments, lambda w, t: _drift(self.drift, {}, w, t, "drift"),
            lambda w, t: _drift(self.prior, {}, w, t, "prior"), self.sigma, self.scheme,
            frozen=frozen, hidden=hidden, rate=rate,
        )  # fmt: skip

    @torch.compiler.disable  # type: ignore[misc,untyped-decorator,unused-ignore]
    def elbo(
        self,
        log_likelihood: Callable[[Tensor], Tensor],
        *,
        estimator: str = "stl",
        num: int = 64,
        seed: int | None = None,
    ) -> Tensor:
        """A lower bound of the log evidence, to be maximised: the mean over paths of log p(y | w(1)) - log ratio.

        Args:
            log_likelihood: w(1) (k, d) -> (k,), differentiable by torch; with parameters of its own a torch module.
            estimator: "ckl", "fmc" or "stl".
            num: paths over all ranks.
            seed: of the paths; None draws one from torch's global generator.
        """
        num, seed, estimator = self._of_rank_0(num, seed, estimator)
        one_of(estimator, ESTIMATORS, "PathPosterior.elbo: estimator")
        paths, mine = self._paths(num, seed), _learnt(self)
        its = _learnt(log_likelihood)
        learnt = [*mine, *its]
        if self._teams is not None:
            check_same(self._teams.comm, [*learnt, self.start, self.sigma])
            learnt = [*Everyones.apply(self._shares, *learnt)] if learnt else []
        with self._shares.alone():
            if estimator == "stl":
                self._check_held()
            done: Walked = _called(self, mine, learnt[: len(mine)], self._increments(paths), estimator)
            values = _called(log_likelihood, its, learnt[len(mine) :], done.path[-1])
            self._check_values(values, done.path[-1])
            part = (values - done.log_ratio).sum() / num
            if self._teams is not None:
                self._check_summed(part, [*mine, *its])
        bound: Tensor = part if self._teams is None else Total.apply(part, self._shares)
        if not math.isfinite(number := float(bound.detach())):
            raise SolveFailed(
                f"PathPosterior.elbo: the bound is {number}; have paths run away, or is the likelihood not "
                "finite? Try more steps, or a smaller learning rate"
            )
        return bound

    @torch.no_grad()
    def paths(self, num: int, *, seed: int | None = None) -> Tensor:
        """Whole paths, without a graph: (steps + 1, num, d), the same on every rank.

        Args:
            num: over all ranks.
            seed: of the paths; None draws one from torch's global generator.
        """
        num, seed, _ = self._of_rank_0(num, seed, None)
        paths = self._paths(num, seed)
        with self._shares.alone():
            path = torch.stack(self(self._increments(paths), "ckl").path, dim=1)
        whole = paths.gathered(path.double().cpu().numpy())
        return torch.from_numpy(whole).to(self.start).transpose(0, 1)

    # -- ranks ---------------------------------------------------------------------------------------------------------

    @property
    def _teams(self) -> Teams | None:
        return self._shares.teams

    def _of_rank_0(self, num: int, seed: int | None, estimator: Any) -> tuple[int, int, Any]:
        """Arguments, with a seed where there is none."""
        given = num, int(torch.randint(1 << 62, ())) if seed is None else seed, estimator
        return given if self._teams is None else parallel.of_rank_0(self._teams.comm, given)

    def _paths(self, num: int, seed: int) -> Paths:
        return Paths(num, seed, MPI.COMM_SELF if self._teams is None else self._teams.batch, _BLOCK)

    def _increments(self, paths: Paths) -> Tensor:
        """dB of this team's paths, (steps, k, d)."""
        d = len(self.start)
        normal = paths.normal(self.steps * d).reshape(paths.count, self.steps, d).transpose(1, 0, 2)
        return torch.from_numpy(np.ascontiguousarray(normal / math.sqrt(self.steps))).to(self.start)

    # -- drifts --------------------------------------------------------------------------------------------------------

    def _control(self, w: Tensor, t: Tensor) -> Tensor:
        """u."""
        return (_drift(self.drift, {}, w, t, "drift") - _drift(self.prior, {}, w, t, "prior")) / self.sigma

    def _held_control(self, w: Tensor, t: Tensor) -> Tensor:
        """The same, with parameters that get no gradient; w does."""
        held = (_drift(f, _held(f), w, t, what) for f, what in ((self.drift, "drift"), (self.prior, "prior")))
        return (next(held) - next(held)) / self.sigma

    def _check_held(self) -> None:
        """Refuse for "stl" a drift whose parameters cannot be held.

        Raises:
            BadInput: then.
        """
        expected = 'PathPosterior.elbo: "stl" holds the parameters of the drift, and expected a torch module'
        if not isinstance(self.drift, torch.nn.Module):
            raise BadInput(f'{expected}, got {self.drift!r:.80}; "ckl" and "fmc" take any function')
        at = self.start.detach()[None]
        if _drift(self.drift, _held(self.drift), at, at.new_zeros(()), "drift").requires_grad:
            raise BadInput(
                f"{expected} with all of them among its .parameters(), got one that depends on others; register them"
            )

    @staticmethod
    def _check_values(values: Any, w: Tensor) -> None:
        """Refuse log-likelihoods that are not one number per path.

        Raises:
            BadInput: then.
        """
        if not isinstance(values, torch.Tensor) or values.shape != w.shape[:1]:
            got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise BadInput(
                f"PathPosterior.elbo: log_likelihood: expected one number per path, a tensor ({len(w)},) of w(1) "
                f"{tuple(w.shape)}, got {got}"
            )

    @staticmethod
    def _check_summed(part: Tensor, learnt: list[Tensor]) -> None:
        """Refuse tensors whose gradients nobody would sum over the teams.

        Raises:
            BadInput: then.
        """
        known = {id(p) for p in learnt}
        if any(id(leaf) not in known for leaf in leaves(part)):
            raise BadInput(
                "PathPosterior.elbo: expected drifts and a log_likelihood that are torch modules, whose parameters' "
                "gradients are summed over the teams, got a function of another tensor that requires a gradient; make "
                "it a parameter of a module, or detach it"
            )


def _restoring(w: Tensor, t: Tensor) -> Tensor:
    """The drift of Ornstein and Uhlenbeck."""
    return -w


def _drift(function: Drift, parameters: dict[str, Tensor], w: Tensor, t: Tensor, what: str) -> Tensor:
    f = functional_call(function, parameters, (w, t), tie_weights=False) if parameters else function(w, t)
    if not isinstance(f, torch.Tensor) or f.shape != w.shape:
        got = tuple(f.shape) if isinstance(f, torch.Tensor) else type(f).__name__
        raise BadInput(f"PathPosterior: {what}: expected a tensor of the shape of w, {tuple(w.shape)}, got {got}")
    return f


def _slots(function: Any) -> dict[str, Tensor]:
    """Its parameters by name: one that two modules share twice, those of a module with two names once.

    ``functional_call`` would leave the latter behind changed, if it were to tie them itself [torch 2.x].
    """
    modules = function.named_modules() if isinstance(function, torch.nn.Module) else ()
    return {
        name: p
        for prefix, module in modules
        for name, p in module.named_parameters(prefix, recurse=False, remove_duplicate=False)
    }


def _held(function: Any) -> dict[str, Tensor]:
    """Its parameters, without gradients."""
    return {name: p.detach() for name, p in _slots(function).items()}


def _learnt(function: Any) -> list[Tensor]:
    """Parameters that require gradients, each once."""
    return list({id(p): p for p in _slots(function).values() if p.requires_grad}.values())


def _called(function: Any, learnt: Sequence[Tensor], tensors: Sequence[Tensor], *arguments: Any) -> Any:
    """A function, or a module with other tensors in place of those that are learnt."""
    instead = {id(p): tensor for p, tensor in zip(learnt, tensors, strict=True)}
    parameters = {name: instead[id(p)] for name, p in _slots(function).items() if id(p) in instead}
    return functional_call(function, parameters, arguments, tie_weights=False) if parameters else function(*arguments)


def _point(value: Any, like: Tensor, what: str) -> Tensor:
    """A number or (d,) as (d,).

    Raises:
        BadInput: for anything else.
    """
    if not isinstance(value, torch.Tensor):
        value = torch.as_tensor(array_like(value, f"PathPosterior: {what}"), dtype=like.dtype, device=like.device)
    elif not isinstance(value, torch.nn.Parameter) and value.requires_grad:
        raise BadInput(f"PathPosterior: {what}: expected a torch.nn.Parameter, got another tensor with a gradient")
    point = value if value.ndim else value.reshape(1)
    if point.ndim != 1 or not len(point) or not point.is_floating_point() or not bool(torch.isfinite(point).all()):
        raise BadInput(f"PathPosterior: {what}: expected a finite number, or finite numbers (d,), got {value!r:.80}")
    return point

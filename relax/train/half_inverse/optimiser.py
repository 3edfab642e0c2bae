"""Half-inverse gradients as a torch optimiser."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relax.base.checks import check_of_torch
from relax.base.log import logger
from relax.base.start import one_torch_thread_per_rank
from relax.base.teams import Teams, check_teams
from relax.base.types import Array
from relax.errors import BadInput, NotConverged
from relax.train.half_inverse.by_matrix import Direction, by_blocks, by_gram, by_svd
from relax.train.half_inverse.by_products import by_krylov
from relax.train.half_inverse.exchange import Exchange
from relax.train.half_inverse.jacobian import BatchJacobian
from relax.train.half_inverse.outputs import Outputs, as_metric
from relax.train.half_inverse.settings import OWN, StepReport, check_groups, check_own, check_tensors, listed
from relax.train.half_inverse.spectrum import Filter, Symmetric

#: Computes the outputs, (batch, outputs), with their graph, and the loss from them; no ``backward``.
Closure: TypeAlias = Callable[[], tuple[Tensor, Tensor]]

one_torch_thread_per_rank()

# What "auto" takes for too many rows of a Gram matrix: 1 GiB, and about a minute for its eigenvalues.
_MOST_ROWS = 11_000
# Steps of "krylov", and the size of a space that it goes through as a whole.
_KRYLOV_STEPS, _EXHAUSTED = 80, 256
# What rows by layers and an ordinary sweep may differ by, relative: solvers are not exact, and half precision is not.
_AGREEMENT, _LOOSEST = 1e-4, 0.1
# By how much |d| may differ from what a kept factor says.
_AGED = 0.1


class HalfInverse(torch.optim.Optimizer):
    """theta <- theta - lr V S^(-power) Uᵀ dL/dy, with J = dy/dtheta = U S Vᵀ over the whole batch.

    power = 1/2 is the half-inverse gradient of Schnell, Holl and Thuerey, "Half-Inverse Gradients for Physical Deep
    Learning", ICLR 2022; 1 is Gauss–Newton, -1 gradient descent. To first order y moves by -lr K^((1 - power)/2) dL/dy
    with K = J Jᵀ. No momentum: the direction is used as it is.

    ::

        optimizer = HalfInverse(net.parameters(), lr=1.0)

        def closure():
            y = layer(net(x))                              # (batch, outputs), any torch graph, SolutionLayer or not
            return y, ((y - target) ** 2).sum() / len(y)

        loss = optimizer.step(closure)

    How it is computed: d = Jᵀ (J Jᵀ)^(-(1 + power)/2) dL/dy, so neither V nor a pseudo-inverse is needed. The autograd
    graph behind y is read for the dense and convolution layers that parameters are in. One sweep for each output, of
    all samples at once, brings the sensitivities of the layers; a ``SolutionLayer`` in the graph sees them as one block
    of adjoint directions per sample. From sensitivities and inputs of the layers comes J Jᵀ in float64, then its
    eigenvalues, then one ordinary backward sweep gives d. Other uses of a parameter (normalisations, gains) take the
    backward step of their own node for each row. Each step looks whether samples know of each other (as in batch
    normalisation in training), and compares the rows with an ordinary sweep. Where they do, or the rows differ, each
    row of J takes a sweep of its own, now and in later batches of this size: right, but batch times as dear, and a
    warning says so. Many sweeps go together, under ``vmap``: what hooks keep of them is not to be read.

    Scales. The step is not free of units: c y in the place of y, under an L2 loss, multiplies it by c^(1 - power). A
    batch repeated k times, with a mean loss, multiplies it by k^(-(1 + power)/2), with the sum by k^((1 - power)/2).
    ``batch_invariant=True`` multiplies by batch^((1 + power)/2): under a mean loss the step is then that of one copy,
    and Gauss–Newton's is the usual one. Linear stability for a loss of curvature c in y: lr c s_max^(1 - power) < 2.

    Small singular values dominate the step: ``rcond`` decides how much of the noise of J is let in. A float32 network
    has noise of 1e-7 s_max. Noise of a solver counts less than that, since it is in all rows alike: with adjoints to a
    relative 1e-6 the step of a Poisson problem is right to 7e-8 at rcond = 1e-2, to 3e-7 at the default 1e-5, to 5e-7
    at 1e-6 (``benchmarks/half_inverse_noise.py``). relax solves to 1e-10 and better.

    Ranks. Without ``teams`` a step is local: every rank that holds the same batch and weights takes the same step. With
    ``teams`` it is collective over ``teams.comm``: each team's closure returns its own samples, and its part of a loss
    that is a sum over the samples of all teams (a mean is a sum divided by the whole batch). Physics in the closure is
    on a mesh over ``teams.space``. Factors of J are exchanged, never J; all ranks take the same step to the last bit.
    It is that of one process up to rounding, which is eps (s_max/s)² for the least s that is kept, 2e-6 for s at the
    default rcond, by "gram", and eps s_max/s by "svd". Parameters are rank 0's from the start, frozen ones too; buffers
    (running means) are each rank's own.

    Gradients in ``p.grad`` are neither read nor written. Terms of the loss that do not go through y (a penalty on the
    weights) have no part in the step.

    Args:
        params: parameters or groups of them, real; a group may have its own ``lr``.
        lr: of the step. Its size depends on units (above); ``lr=math.inf, cap=0.5`` is a choice that does not.
        power: of the inverse singular values, from -1 to 1.
        rcond: singular values up to ``rcond * s_max`` are left out.
        method: "gram" as above, on the side of the parameters where they are fewer than the outputs; "svd" by TSQR, for
            rcond that a Gram matrix of n rows cannot resolve, below sqrt(n) 1.5e-8; "krylov" by products with J and Jᵀ
            alone, a regularised half-inverse, with memory independent of outputs * parameters (see
            :mod:`relax.train.half_inverse.by_products`); "auto" is "gram", or "svd" for such an rcond, or "krylov" for
            more than 11 000 rows and columns.
        damping: lambda in (s² + lambda² s_max²)^(-(1 + power)/2), instead of or beside leaving out.
        metric: M, of y: (outputs,) for a diagonal, or (outputs, outputs), symmetric positive definite, such as a mass
            matrix. J becomes M^(1/2) J and dL/dy its representer in M; the step then does not depend on the mesh.
        batch_invariant: see above.
        cap: lower lr to cap * 2/(c s_max^(1 - power)), c the largest curvature of the loss in y, found by
            Lanczos' method; 0.5 is careful, 1 the bound of linear stability.
        sub_batches: cut each team's samples into so many runs, and leave out what they have in common: eigenvalues of
            small matrices, nothing exchanged; by "gram". None for the whole.
        keep_factor: use the eigenvalues and eigenvectors of J Jᵀ for so many steps, or until |d| differs by a tenth
            from what they say. For full batches: sample i of the next step must be sample i of this one, and for fewer
            outputs than parameters.
        krylov_steps: at most so many products with J and Jᵀ each. None for 80, or for all that there can be where those
            are 256 or fewer: then nothing is left out but what ``rcond`` says.
        krylov_tolerance: stop when they change the result by so much of its norm.
        measure: call the closure again after each step, without a graph, for ``report.actual``. An error of this call
            comes after the step.
        teams: see above.
        of_torch: keywords of torch's optimisers, where they ask for nothing: ``foreach``, ``maximize=False``, ...

    Attributes:
        report: what the last step did, a :class:`StepReport`; None before the first.

    Raises:
        BadInput: on every rank, for settings out of their range, other closures, other shapes.
        NotConverged: on every rank, for outputs, losses or derivatives that are not finite. The weights are then those
            before the step.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1.0,
        power: float = 0.5,
        rcond: float = 1e-5,
        method: str = "auto",
        damping: float = 0.0,
        metric: Tensor | npt.ArrayLike | None = None,
        batch_invariant: bool = False,
        cap: float | None = None,
        sub_batches: int | None = None,
        keep_factor: int = 1,
        krylov_steps: int | None = None,
        krylov_tolerance: float = 1e-12,
        measure: bool = False,
        teams: Teams | None = None,
        **of_torch: Any,
    ) -> None:
        if of_torch.pop("maximize", False):
            raise BadInput("HalfInverse: maximize: expected False; return -loss from the closure to ascend")
        check_of_torch("HalfInverse", of_torch, OWN)
        self.method = method
        self.batch_invariant = batch_invariant
        self.sub_batches = sub_batches
        self.keep_factor = keep_factor
        self.krylov_steps = krylov_steps
        self.krylov_tolerance = krylov_tolerance
        self.measure = measure
        self.report: StepReport | None = None
        check_teams(teams)
        self._exchange = Exchange(teams)
        self._coupled: set[int] = set()
        self._all_kept = True
        self._kept: tuple[int, Symmetric] | None = None
        with self._exchange.together():
            self._metric = as_metric(metric)
            check_own(self._own())
            params = listed(params)
        if not self._exchange.agree(str(sum(isinstance(p, dict) for p in params))):
            raise BadInput("HalfInverse: expected as many groups of parameters on each rank")
        super().__init__(params, {"lr": lr, "power": power, "rcond": rcond, "damping": damping, "cap": cap})

    # -- the step ------------------------------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Tensor:
        """Take a step, and return the loss before it, of all teams. Collective over the teams.

        Args:
            closure: computes the outputs y, (batch, outputs), and the loss from them, and returns both.
        """
        params = self._params()
        with self._exchange.together():
            if not params:
                raise BadInput("HalfInverse.step: expected parameters that require gradients, got none")
            check_own(self._own())
            check_groups(self.param_groups)
            outputs = Outputs.of(closure, self._metric)
        J = BatchJacobian(outputs.y, params, outputs.basis, self._exchange)
        J.by_layers = J.num_rows not in self._coupled
        self._check_reached(outputs.y, params)
        g = self._exchange.all_rows(outputs.gradient.reshape(-1))
        loss = float(self._exchange.sum(np.array([outputs.loss]))[0])
        direction, method = self._direction(J, g)
        rates = self._rates(outputs, direction, J.num_rows / outputs.y.shape[1])
        predicted = self._slope(J, g, direction, rates)
        self._move(direction.d, rates)
        s, kept = direction.singular_values, direction.kept
        self.report = StepReport(loss, predicted, None, rates[0], s, kept, method, direction.iterations, J.by_layers)
        if self.measure:
            self.report = replace(self.report, actual=self._fall(closure, loss))
        return outputs.total(loss)

    def _check_reached(self, y: Tensor, params: Sequence[Tensor]) -> None:
        """Refuse outputs of another network. Looked at once: it takes a sweep."""
        if self.report is not None:
            return
        with self._exchange.together():
            slopes = torch.autograd.grad(y, params, torch.ones_like(y), retain_graph=True, allow_unused=True)
        if not self._exchange.any(any(g is not None for g in slopes)):
            raise BadInput(
                "HalfInverse.step: expected outputs that depend on the parameters of this optimiser, got others; is it "
                "the same network?"
            )

    def _rates(self, outputs: Outputs, direction: Direction, samples: float) -> list[float]:
        """What multiplies d for each group, the same on every rank."""
        scale = samples ** (0.5 * (1.0 + self._setting("power"))) if self.batch_invariant else 1.0
        limit = self._limit(outputs, direction)
        rates = np.array([min(float(group["lr"]) * scale, limit) for group in self.param_groups])
        return [float(rate) for rate in self._exchange.of_first(rates)]

    def _move(self, d: Array, rates: Sequence[float]) -> None:
        """All weights, or none where one would not be finite."""
        steps = torch.from_numpy(d)
        start, moved = 0, []
        with torch.no_grad():
            for group, rate in zip(self.param_groups, rates, strict=True):
                for p in group["params"]:
                    if p.requires_grad:
                        own = steps[start : start + p.numel()].view(p.shape)
                        moved.append((p, p - (rate * own).to(p)))
                        start += p.numel()
            if not all(bool(torch.isfinite(new).all()) for _, new in moved):
                raise NotConverged(
                    "HalfInverse: weights would not be finite; they are those before this step. Try a smaller lr, or "
                    "cap=0.5"
                )
            for p, new in moved:
                p.copy_(new)

    def _slope(self, J: BatchJacobian, g: Array, direction: Direction, rates: Sequence[float]) -> float:
        """By how much the loss falls to first order."""
        if len(set(rates)) == 1:
            return rates[0] * direction.slope
        sizes = [sum(p.numel() for p in group["params"] if p.requires_grad) for group in self.param_groups]
        return float((J.vjp(g) * np.repeat(rates, sizes)) @ direction.d)

    def _direction(self, J: BatchJacobian, g: Array) -> tuple[Direction, str]:
        phi = Filter(self._setting("power"), self._setting("rcond"), self._setting("damping"))
        method = self._method(J, phi)
        if not np.any(g):
            return Direction(np.zeros(J.num_columns), 0.0, np.zeros(1), 0), method
        if method == "krylov":
            most = min(J.num_rows, J.num_columns + 1)
            steps = self.krylov_steps or (most if most <= _EXHAUSTED else _KRYLOV_STEPS)
            return by_krylov(J, g, phi, iterations=steps, tolerance=self.krylov_tolerance), method
        direction = self._from_matrix(J, g, phi, method)
        tolerance = min(_LOOSEST, max(_AGREEMENT, 1e4 * J.epsilon))
        if J.by_layers and self._exchange.any(direction.discrepancy > tolerance):
            J.by_layers = False
            J.forget()
            self._kept = None
            direction = self._from_matrix(J, g, phi, method)
        if not J.by_layers and J.num_rows not in self._coupled:
            if not self._coupled:
                logger.warning(
                    "HalfInverse: samples of the batch know of each other, or parameters are used in a way that the "
                    "graph does not show; each row of the Jacobian takes a sweep of its own"
                )
            self._coupled.add(J.num_rows)
        return replace(direction, d=self._exchange.of_first(direction.d)), method

    def _method(self, J: BatchJacobian, phi: Filter) -> str:
        if self.method != "auto":
            return self.method
        rows = J.num_rows if self.sub_batches is None else 0
        if min(rows, J.num_columns) > _MOST_ROWS:
            return "krylov"
        # Of singular values below it nothing is left in a Gram matrix.
        lost = math.sqrt(min(J.num_rows, J.num_columns) * sys.float_info.epsilon)
        return "svd" if phi.rcond < lost and self.sub_batches is None and self.keep_factor == 1 else "gram"

    def _from_matrix(self, J: BatchJacobian, g: Array, phi: Filter, method: str) -> Direction:
        if method == "svd":
            return by_svd(J, g, phi)
        if self.sub_batches is not None:
            return by_blocks(J, g, phi, self.sub_batches)
        age, factor = self._kept or (0, None)
        self._kept = None
        if factor is not None and len(factor.eigenvalues) == J.num_rows < J.num_columns:
            direction = by_gram(J, g, phi, factor)
            if not self._exchange.any(direction.discrepancy > _AGED):
                self._keep(age + 1, direction)
                return replace(direction, discrepancy=0.0)
        direction = by_gram(J, g, phi, by_band=self._all_kept and self.keep_factor == 1)
        self._all_kept = not self._exchange.any(direction.kept < len(direction.singular_values))
        self._keep(1, direction)
        return direction

    def _keep(self, age: int, direction: Direction) -> None:
        if age < self.keep_factor and direction.factor is not None:
            self._kept = age, direction.factor

    def _limit(self, outputs: Outputs, direction: Direction) -> float:
        """What ``cap`` allows as lr."""
        cap = self._setting("cap")
        if not direction.kept:
            return 0.0
        if cap is None:
            return math.inf
        curvature = outputs.largest_curvature(self._exchange)
        scale = direction.singular_values[0] ** (1.0 - self._setting("power"))
        if curvature <= 0.0 and math.isinf(max(float(group["lr"]) for group in self.param_groups)):
            raise BadInput("HalfInverse: expected a finite lr for a loss that has no curvature in y, which cap goes by")
        return math.inf if curvature <= 0.0 else float(cap * 2.0 / (curvature * scale))

    def _fall(self, closure: Closure | None, before: float) -> float:
        assert closure is not None
        with torch.no_grad(), self._exchange.together():
            _, loss = closure()
        return before - float(self._exchange.sum(np.array([float(loss)]))[0])

    # -- settings and state --------------------------------------------------------------------------------------------

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _setting(self, key: str) -> Any:
        return self.param_groups[0][key]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with an ``lr`` of their own if wished.

        Raises:
            BadInput: for settings out of their range, or other settings than the first group's: they share one J.
        """
        before = len(self.param_groups)
        try:
            with self._exchange.together():
                super().add_param_group(param_group)
                check_groups(self.param_groups)
                check_tensors(self.param_groups[-1]["params"])
            # Those that do not train, too: the network is the same on all ranks.
            self._exchange.same_start(self.param_groups[-1]["params"])
        except BaseException:
            del self.param_groups[before:]
            raise

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OWN}

    def __getstate__(self) -> dict[str, Any]:
        if self._exchange.is_shared:
            raise TypeError("HalfInverse: an optimiser with teams cannot be copied or pickled; state_dict() can")
        own = {
            name: self.__dict__[name]
            for name in (*OWN, "report", "_metric", "_exchange", "_coupled", "_kept", "_all_kept")
        }
        return {**super().__getstate__(), **own}

    def state_dict(self) -> dict[str, Any]:
        """All settings but ``teams``, and a factor that is kept: ``torch.save`` and ``load`` take it."""
        saved = super().state_dict()
        age, factor = self._kept or (0, None)
        own = self._own()
        saved["half_inverse"] = {
            "settings": {name: value.item() if isinstance(value, np.generic) else value for name, value in own.items()},
            "metric": None if self._metric is None else self._metric.clone(),
            "age": age,
            "all_kept": self._all_kept,
            "coupled": sorted(self._coupled),
            "factor": None if factor is None else {k: torch.from_numpy(np.array(a)) for k, a in factor.state().items()},
        }
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a saved run: the next steps are those that the saved optimiser would have taken, to the bit."""
        if "half_inverse" not in state_dict:
            raise BadInput(
                f"HalfInverse.load_state_dict: expected the state of a HalfInverse, got one with {sorted(state_dict)}"
            )
        own = state_dict["half_inverse"]
        check_own(own["settings"])
        super().load_state_dict(state_dict)
        for name, value in own["settings"].items():
            setattr(self, name, value)
        self._metric = own["metric"]
        self._all_kept = own["all_kept"]
        self._coupled = set(own["coupled"])
        self._kept = None
        if own["factor"] is not None:
            factor = Symmetric.restored({key: np.array(t.cpu().numpy()) for key, t in own["factor"].items()})
            self._kept = own["age"], factor

"""Controllers trained through the physics: gradients of a closed loop, and those without its explosive part.

Schnell and Thuerey, "Stabilizing Backpropagation Through Time to Learn Complex Physics", ICLR 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.checks import at_least, of_kind, one_of
from relax.base.teams import Teams, check_teams
from relax.base.types import Array
from relax.engine.march.storage import Storage
from relax.errors import BadInput, RelaxError, SolveFailed
from relax.train.closed_loop import unrolled
from relax.train.closed_loop.arguments import Loss, losses_by_step, observed, takes_time
from relax.train.closed_loop.graphs import Products, Recorded, SweptOnce, kinds, packed, seeded, swept, unpacked
from relax.train.closed_loop.one_step import OneStep
from relax.train.closed_loop.unrolled import Loop, agree, is_by_rows

# What of λ_{t+1} goes on to λ_t: by the physics, and by the controller's input.
_PARTS = {"full": (True, True), "physics": (True, False), "stop": (False, False)}


@dataclass(frozen=True)
class LoopReport:
    """What a sweep has found.

    Attributes:
        loss: J.
        norms: the Euclidean norm of each flow's gradient.
        cosine: of the angle between "full" and "physics"; None where not both were asked for, NaN where one is zero.
        kept: the part of the weights that "combined" changes; None where not both were asked for.
    """

    loss: float
    norms: dict[str, float]
    cosine: float | None
    kept: float | None


class ClosedLoop:
    """c_t = N(s_t; θ), s_{t+1} = S(s_t, c_t), t = 0, ..., T-1; J = Σ_t ℓ_t(s_t): gradients of J in θ by flows.

    One run forwards and one sweep backwards give all flows that are asked for. With N_θ, N_s, S_s, S_c the derivatives
    at step t, and λ_T = ∂ℓ_T,

        g = Σ_t N_θᵀ S_cᵀ λ_{t+1},    λ_t = ∂ℓ_t + a S_sᵀ λ_{t+1} + b N_sᵀ S_cᵀ λ_{t+1}

    - "full": a = b = 1, the gradient of J, as autograd has it through the loop unrolled;
    - "physics": a = 1, b = 0, no gradient into what the controller sees: the adjoint of the physics under controls as
      given. Where the physics does not blow sensitivities up, as a unitary step, λ cannot explode;
    - "stop": a = b = 0, a controller that cares for the next state alone; its memory carries no gradient either;
    - "combined": entry by entry "physics" where its sign is that of "full", else 0 (Schnell and Thuerey, above).
      Clipping and momenta come after it. The rule depends on the basis of the weights; it is no gradient of any loss.

    A step through a ``SolutionLayer`` takes the cotangents of all flows in one block solve; where a node has no rule
    for ``vmap`` each flow takes its sweep. With ``storage`` the graph of one step is held at a time. Where torch does
    the steps by itself, sample by sample, "full" and "physics" are one backward pass through the loop unrolled.

    Collective where the step is. A controller with a memory returns (c, h), and gets h, a tensor or a tuple of tensors,
    as second argument of its next call; of its first it gets none.

    Over ``teams`` each team has samples of its own, and gradients and loss are summed over the teams before signs are
    compared: divide a mean by the samples of all.

    Args:
        step: (s, c) -> s or (s, c, t) -> s, differentiable by torch: (batch, n), (batch, k) -> (batch, n) with t the
            number of the step; any shapes will do. A third argument with a default is t where that is its name. It
            does not change its arguments in place. :func:`one_step` makes one of an ``Evolution``.
        controller: N, a torch module, with the parameters θ.
        steps: T.
        losses: {t: ℓ_t} with t from 1 to T, or one for all of them: functions of s_t, or of s_t and the control
            c_{t-1} that has led there, with one number as value, a mean over the batch.
        observe: what the controller sees of s: a function, a matrix (p, n), or a linear ``Observable`` of the state of
            a :func:`one_step`. Without it, all.
        storage: a schedule of the package ``checkpoint_schedules`` that has not been used yet, for T steps: which
            states are held, and which are computed again. None holds all graphs.
        teams: whose samples are summed.

    Attributes:
        report: what the latest sweep has found, or None.
        observe: what the controller sees of a state, as a function of it.

    Raises:
        BadInput: for arguments that do not fit, and values of functions that do not.
        SolveFailed: when a loss is not finite, with its step.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        controller: torch.nn.Module,
        *,
        steps: int,
        losses: Loss | Mapping[int, Loss],
        observe: Any = None,
        storage: Any = None,
        teams: Teams | None = None,
    ) -> None:
        if not callable(step):
            raise BadInput(f"ClosedLoop: step: expected a function of a state and a control, got {step!r:.80}")
        of_kind(controller, torch.nn.Module, "a torch module", "ClosedLoop: controller")
        check_teams(teams)
        if teams is not None and isinstance(step, OneStep) and step.comm.size != teams.space.size:
            raise BadInput(
                "ClosedLoop: teams: expected a step on a mesh over teams.space, without teams of its own: each team "
                "has samples of its own here"
            )
        self.steps = at_least(steps, 1, "ClosedLoop: steps")
        self.report: LoopReport | None = None
        self._step, self._takes_time = step, takes_time(step)
        self._controller = controller
        self._losses = losses_by_step(losses, self.steps)
        self.observe = observed(observe, step)
        comm = step.G.comm if isinstance(step, OneStep) else MPI.COMM_SELF
        self._storage = Storage(storage, self.steps, comm)
        self._teams = teams
        self._of_step, self._of_controller = Products(), Products()
        # Found out at the first sweep: whether a graph of the controller serves but once, its memory is a tuple, and,
        # by flows and the controller's mode, whether the loop may be unrolled.
        self._swept_once = self._holds_tuple = False
        self._unrolls: dict[tuple[frozenset[str], bool], bool] = {}

    def backward(self, s0: Tensor, flow: str = "combined") -> Tensor:
        """Add the gradient of a flow to ``p.grad`` of the controller's parameters; J, without graph.

        Args:
            s0: (batch, n) the states that the loop starts from.
            flow: "full", "physics", "stop" or "combined".
        """
        one_of(flow, (*_PARTS, "combined"), "ClosedLoop.backward: flow")
        flows = ("full", "physics") if flow == "combined" else (flow,)
        found = self.gradients(s0, flows)
        chosen = combined(found["physics"], found["full"]) if flow == "combined" else found[flow]
        for p, g in zip(self._parameters(), chosen, strict=True):
            p.grad = g if p.grad is None else p.grad.add_(g)
        assert self.report is not None
        return torch.tensor(self.report.loss, dtype=s0.dtype)

    def gradients(
        self,
        s0: Tensor,
        flows: Sequence[str] = ("full", "physics"),
        *,
        watch: Callable[[int, dict[str, Tensor]], None] | None = None,
    ) -> dict[str, list[Tensor]]:
        """The gradients of some flows in the controller's parameters, for those who combine them otherwise.

        Args:
            s0: as of ``backward``.
            flows: some of "full", "physics" and "stop".
            watch: called with t and λ_t of each flow, for t = T, ..., 0.

        Returns:
            {flow: a tensor per parameter that requires a gradient}.
        """
        if not flows or isinstance(flows, str):
            raise BadInput(
                f"ClosedLoop.gradients: flows: expected a list of 'full', 'physics' or 'stop', got {flows!r}"
            )
        for flow in flows:
            one_of(flow, tuple(_PARTS), "ClosedLoop.gradients: flows")
        if not isinstance(s0, torch.Tensor) or not s0.is_floating_point() or s0.ndim == 0:
            raise BadInput(f"ClosedLoop: s0: expected a tensor of floating point numbers, (batch, n), got {s0!r:.80}")
        if not self._parameters():
            raise BadInput("ClosedLoop: controller: expected parameters that require a gradient, got none")
        # What fails in one team does in all: the others would wait for its part of the sum.
        with nullcontext() if self._teams is None else parallel.together(self._teams.comm):
            known = None if watch is not None else self._unrolled(s0.detach(), flows)
            loss, totals = known or self._swept(s0.detach(), flows, watch)
        loss, totals = self._summed(loss, totals)
        self.report = _report(loss, dict(zip(flows, totals, strict=True)))
        return dict(zip(flows, totals, strict=True))

    # -- the run -------------------------------------------------------------------------------------------------------

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self._controller.parameters() if p.requires_grad]

    def _control(self, seen: Tensor, held: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """c and the memory that the controller carries on."""
        memory = () if not held else (held,) if self._holds_tuple else (held[0],)
        answer = self._controller(self.observe(seen), *memory)
        c, h = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, ())
        self._holds_tuple = isinstance(h, tuple)
        carried = h if isinstance(h, tuple) else (h,)
        for tensor in (c, *carried):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
                raise BadInput(
                    "ClosedLoop: controller: expected a tensor, or (control, memory) with a tensor or a tuple of "
                    f"tensors for the memory, all of floating point numbers, got {got}"
                )
        return c, carried

    def _stepped(self, s: Tensor, c: Tensor, t: int) -> Tensor:
        after = self._step(s, c, t) if self._takes_time else self._step(s, c)
        if not isinstance(after, torch.Tensor) or after.shape != s.shape:
            got = tuple(after.shape) if isinstance(after, torch.Tensor) else type(after).__name__
            raise BadInput(
                f"ClosedLoop: step: expected a state of the shape of the one before, {tuple(s.shape)}, got {got}"
            )
        return after

    def _recorded(self, t: int, s: Tensor, hidden: tuple[Tensor, ...], seed: int) -> Recorded:
        """The step from s_t, with its graphs."""
        with torch.enable_grad(), self._chances(seed + t):
            seen, before = s.detach().requires_grad_(), s.detach().requires_grad_()
            held = tuple(h.detach().requires_grad_() for h in hidden)
            c, carried = self._control(seen, held)
            given = c.detach().requires_grad_()
            after = self._stepped(before, given, t)
        return Recorded(seen, held, c, carried, before, given, after)

    def _chances(self, seed: int) -> AbstractContextManager[None]:
        """Steps that are done again draw what they drew before; others draw from torch's generator as it goes."""
        return seeded(seed) if self._repeats else nullcontext()

    def _backwards(self, s0: Tensor, seed: int) -> Iterator[tuple[int, Recorded]]:
        """The steps from the last to the first, each with its graphs."""
        if self._storage.keeps_all:
            tape: list[Recorded] = []
            s, hidden = s0, ()
            for t in range(self.steps):
                tape.append(self._recorded(t, s, hidden, seed))
                s, hidden = tape[-1].after.detach(), tuple(h.detach() for h in tape[-1].carried)
            for t in reversed(range(self.steps)):
                yield t, tape.pop()
            return
        like = {0: kinds([s0])}

        def advance(t: int, record: Array) -> Array:
            one = self._recorded(t, *unpacked(record, like[t]), seed)
            after = [one.after.detach(), *(h.detach() for h in one.carried)]
            like[t + 1] = kinds(after)
            return packed(after)

        walk = self._storage.walk(packed([s0]), advance)
        walk.forward(lambda n, record: None)
        for t, before, _ in walk.backward():
            yield t, self._recorded(t, *unpacked(before, like[t]), seed)

    def _unrolled(self, s0: Tensor, flows: Sequence[str]) -> tuple[float, list[list[Tensor]]] | None:
        """As ``_sweep``, by one backward pass through the loop unrolled; None where that cannot be."""
        is_torchs = not isinstance(self._step, OneStep) and self._storage.keeps_all
        if not is_torchs or "stop" in flows or len(set(flows)) < len(flows) or s0.ndim < 2:
            return None
        loop = Loop(self._stepped, lambda s: self._control(s, ())[0], self._loss, self.steps)
        kind = frozenset(flows), self._controller.training
        is_first = kind not in self._unrolls
        try:
            if is_first and (self._control(s0, ())[1] or not is_by_rows(loop, s0)):
                self._unrolls[kind] = False
            if not self._unrolls.get(kind, True):
                return None
            loss, found = unrolled.sweep(loop, s0, flows, self._parameters())
        except RelaxError:
            raise
        except Exception:
            # A controller for a batch of this size alone, or what is wrong in any case: the sweep finds out.
            self._unrolls[kind] = False
            return None
        # Autograd hands out one tensor for two parameters that are summed, and gradients are changed in place.
        totals = [list(map(torch.clone, found[flow])) for flow in flows]
        if is_first:
            # Derivatives that are zero at this point hide who looks at whose rows: both ways, once.
            known = self._swept(s0, flows, None)
            self._unrolls[kind] = agree((loss, totals), known)
            return known
        return loss, totals

    # -- the sweep -----------------------------------------------------------------------------------------------------

    def _swept(
        self, s0: Tensor, flows: Sequence[str], watch: Callable[[int, dict[str, Tensor]], None] | None
    ) -> tuple[float, list[list[Tensor]]]:
        """As ``_sweep``, once more where a graph turns out to serve but once."""
        try:
            return self._sweep(s0, flows, watch)
        except SweptOnce:
            self._swept_once = True
            return self._sweep(s0, flows, watch)

    def _sweep(
        self, s0: Tensor, flows: Sequence[str], watch: Callable[[int, dict[str, Tensor]], None] | None
    ) -> tuple[float, list[list[Tensor]]]:
        """J, and for each flow a gradient per parameter."""
        params = self._parameters()
        totals = [[torch.zeros_like(p) for p in params] for _ in flows]
        costates = [torch.zeros_like(s0) for _ in flows]
        memories: list[tuple[Tensor, ...]] = [() for _ in flows]
        loss = 0.0
        seed = int(torch.randint(2**62, ())) if self._repeats else 0
        for t, one in self._backwards(s0, seed):
            value, of_state, of_control = self._loss_at(t + 1, one)
            loss += value
            costates = [costate + of_state for costate in costates]
            if watch is not None:
                watch(t + 1, dict(zip(flows, costates, strict=True)))
            by_step = self._of_step.swept((one.after,), (one.before, one.given), [(c,) for c in costates])
            seeds = []
            for (_, by_control), memory in zip(by_step, memories, strict=True):
                seeds.append((by_control + of_control, *(memory or map(torch.zeros_like, one.carried))))
            by_controller = self._by_controller(one, seed + t, params, seeds)
            held = 1 + len(one.held)
            for i, (flow, (by_state, _), grads) in enumerate(zip(flows, by_step, by_controller, strict=True)):
                by_physics, by_sight = _PARTS[flow]
                costates[i] = by_state if by_physics else torch.zeros_like(by_state)
                if by_sight:
                    costates[i] = costates[i] + grads[0]
                memories[i] = grads[1:held] if by_physics else tuple(map(torch.zeros_like, grads[1:held]))
                torch._foreach_add_(totals[i], list(grads[held:]))
        if watch is not None:
            watch(0, dict(zip(flows, costates, strict=True)))
        return loss, totals

    @property
    def _repeats(self) -> bool:
        """Whether steps are done more than once."""
        return self._swept_once or not self._storage.keeps_all

    def _by_controller(
        self, one: Recorded, seed: int, params: Sequence[Tensor], seeds: Sequence[tuple[Tensor, ...]]
    ) -> list[tuple[Tensor, ...]]:
        """The controller's products; with a graph for each cotangent where one serves one sweep alone."""
        inputs = (one.seen, *one.held, *params)
        if not self._swept_once:
            return self._of_controller.swept((one.c, *one.carried), inputs, seeds)
        products = []
        for cotangents in seeds:
            with torch.enable_grad(), self._chances(seed):
                c, carried = self._control(one.seen, one.held)
            products.append(swept((c, *carried), inputs, cotangents, retain=False))
        return products

    def _loss(self, t: int, s: Tensor, c: Tensor) -> Tensor | None:
        """ℓ_t at s_t and c_{t-1}; None where there is none."""
        known = self._losses(t)
        if known is None:
            return None
        loss, takes_control = known
        value = loss(s, c) if takes_control else loss(s)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise BadInput(f"ClosedLoop: losses: expected one number at t = {t}, a mean over the batch, got {got}")
        if not math.isfinite(number := float(value.detach())):
            raise SolveFailed(f"ClosedLoop: the loss at t = {t} of {self.steps} is {number}; has the loop run away?")
        return value.reshape(())

    def _loss_at(self, t: int, one: Recorded) -> tuple[float, Tensor, Tensor]:
        """ℓ_t and its derivatives in s_t and c_{t-1}."""
        with torch.enable_grad():
            s, c = one.after.detach().requires_grad_(), one.given.detach().requires_grad_()
            value = self._loss(t, s, c)
        if value is None or not value.requires_grad:
            return 0.0 if value is None else float(value), torch.zeros_like(s), torch.zeros_like(c)
        by_state, by_control = torch.autograd.grad(value, (s, c), allow_unused=True, materialize_grads=True)
        return float(value.detach()), by_state, by_control

    def _summed(self, loss: float, totals: list[list[Tensor]]) -> tuple[float, list[list[Tensor]]]:
        """Over the teams."""
        if self._teams is None:
            return loss, totals
        flat = [np.array([loss]), *(g.detach().double().cpu().numpy().ravel() for total in totals for g in total)]
        whole = torch.from_numpy(parallel.sum_over_ranks(self._teams.batch, np.concatenate(flat)))
        parts = iter(whole[1:].split([g.numel() for total in totals for g in total]))
        return float(whole[0]), [[next(parts).to(g).reshape(g.shape) for g in total] for total in totals]


def combined(physics: Sequence[Tensor], full: Sequence[Tensor]) -> list[Tensor]:
    """Entry by entry "physics" where its sign is that of "full", else 0."""
    return [torch.where(p.sign() == f.sign(), p, 0.0) for p, f in zip(physics, full, strict=True)]


def _report(loss: float, gradients: Mapping[str, Sequence[Tensor]]) -> LoopReport:
    flat = {flow: torch.cat([g.detach().double().reshape(-1) for g in of]) for flow, of in gradients.items()}
    norms = {flow: float(g.norm()) for flow, g in flat.items()}
    if not {"full", "physics"} <= flat.keys():
        return LoopReport(loss, norms, None, None)
    product = norms["full"] * norms["physics"]
    cosine = float(flat["full"] @ flat["physics"]) / product if product > 0.0 else math.nan
    kept = float((flat["full"].sign() == flat["physics"].sign()).double().mean())
    return LoopReport(loss, norms, cosine, kept)

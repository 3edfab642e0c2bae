"""What every optimiser must do, whatever its closure is: closures that fail, learning rates, states that are saved."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from relax.errors import BadInput, NotConverged

# torch loads its compiler with the first optimiser that is made. Done now, its many objects are frozen with those of
# the other imports, and the collection of garbage behind each test need not look at them.
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

CURVATURES = torch.tensor([1.0, 1.5, 3.0], dtype=torch.float64)
CENTRE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def quadratic(x, optimizer, curvatures=CURVATURES, centre=CENTRE):
    """A closure of f = 1/2 sum lambda (x - c)^2."""

    def closure():
        optimizer.zero_grad()
        loss = (0.5 * curvatures.to(x.dtype) * (x - centre.to(x.dtype)) ** 2).sum()
        loss.backward()
        return loss

    return closure


def parameter(values, dtype=torch.float64):
    return torch.nn.Parameter(torch.as_tensor(values, dtype=dtype).clone())


class Trainer:
    """A network, random mini-batches that a generator of its own picks, and the optimiser under test."""

    def __init__(self, make, dtype=torch.float64, **options):
        torch.manual_seed(3)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).to(dtype)
        self.inputs = torch.randn(32, 4, dtype=dtype)
        self.targets = torch.randn(32, 2, dtype=dtype)
        self.picks = torch.Generator().manual_seed(5)
        self.calls = 0
        self.optimizer = make(self.model.parameters(), **options)

    def closure(self):
        self.calls += 1
        rows = torch.randint(32, (8,), generator=self.picks)
        self.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self.model(self.inputs[rows]), self.targets[rows])
        loss.backward()
        return loss

    @staticmethod
    def spoiled(result):
        """What a closure returned, with a loss that is not a number."""
        return result * np.nan

    @staticmethod
    def loss(result):
        """The loss of what a closure returned."""
        return result.detach()

    def train(self, steps):
        return [self.optimizer.step(self.closure) for _ in range(steps)]

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def equal(first, second):
    """Bitwise."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class CommonContract:
    """Inherited by the contracts of optimisers.

    Attributes:
        make: parameters and options to an optimiser, whose settings descend and, where it has noise, have some.
        noiseless: options that turn its noise off; None when it has none.
        trainer: a network, and closures for the optimiser.
        quadratic: (parameter, optimiser, curvatures, centre) to a closure.
        remembering: options with which a step depends on the steps before it.
        calls: how often a step calls the closure.
        first_loss: whether a step returns what the first call gave.
        linear_in_lr: whether the first step of all is proportional to lr.
        no_closure: a pattern of the error without a closure.
        no_loss: one for a closure that returns nothing.
        foreign: one for a state of another optimiser.
    """

    make = None
    noiseless = None
    trainer = Trainer
    quadratic = staticmethod(quadratic)
    remembering = {}
    calls = 1
    first_loss = True
    linear_in_lr = True
    no_closure = no_loss = foreign = ""

    @classmethod
    def new(cls, params, *, seed=None, **options):
        """The optimiser, with a seed where it takes one."""
        seeded = {} if seed is None or cls.noiseless is None else {"seed": seed}
        return cls.make(params, **seeded, **options)

    @classmethod
    def quiet(cls, params, **options):
        """The optimiser without noise."""
        return cls.make(params, **(cls.noiseless or {}), **options)

    # -- descent -------------------------------------------------------------------------------------------------------

    def test_finds_the_minimiser_of_a_quadratic(self):
        for dtype in (torch.float64, torch.float32):
            x = parameter([3.0, 3.0, 3.0], dtype)
            optimizer = self.quiet([x])
            closure = self.quadratic(x, optimizer)
            for _ in range(150):
                optimizer.step(closure)
            tolerance = 1e-8 if dtype == torch.float64 else 1e-5
            assert x.dtype == dtype
            torch.testing.assert_close(x.detach(), CENTRE.to(dtype), rtol=0.0, atol=tolerance)

    # -- closures ------------------------------------------------------------------------------------------------------

    def test_calls_and_loss(self):
        trainer = self.trainer(self.new)
        seen = []

        def closure():
            seen.append(trainer.closure())
            return seen[-1]

        loss = trainer.optimizer.step(closure)
        assert len(seen) == self.calls
        losses = [trainer.loss(result) for result in seen]
        expected = losses[0] if self.first_loss else torch.stack(losses).mean()
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0.0)

    def test_without_a_closure(self):
        trainer = self.trainer(self.new)
        before = trainer.weights()
        with pytest.raises(BadInput, match=self.no_closure):
            trainer.optimizer.step()
        with pytest.raises(BadInput, match=self.no_loss):
            trainer.optimizer.step(lambda: None)
        assert equal(trainer.weights(), before)

    def test_a_failing_closure_leaves_everything_as_it_was(self):
        """Weights, noise, momentum, counts: the run goes on as if the failed step had not been tried."""
        for kind in (ZeroDivisionError, KeyboardInterrupt, NotConverged):
            self.failed_and_continued(kind)

    def failed_and_continued(self, kind):
        trainer, undisturbed = (self.trainer(self.new, seed=7, **self.remembering) for _ in range(2))
        trainer.train(2)
        before = trainer.weights()
        picks = trainer.picks.get_state()
        last = trainer.calls + self.calls

        def closure():
            loss = trainer.closure()
            if trainer.calls < last:
                return loss
            if kind is NotConverged:
                return trainer.spoiled(loss)
            raise kind

        with pytest.raises(kind):
            trainer.optimizer.step(closure)
        assert equal(trainer.weights(), before)
        trainer.picks.set_state(picks)
        trainer.train(2)
        undisturbed.train(4)
        assert equal(trainer.weights(), undisturbed.weights())

    # -- learning rates ------------------------------------------------------------------------------------------------

    def test_a_learning_rate_schedule(self):
        """LambdaLR halves what the quadratic's first step does, and lr = 0 moves nothing."""
        moved = []
        for factor in (1.0, 0.5, 0.0):
            x = parameter([3.0, 3.0, 3.0])
            optimizer = self.quiet([x])
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, factor=factor: factor)
            optimizer.step(self.quadratic(x, optimizer))
            schedule.step()
            moved.append(3.0 - x.detach())
        if self.linear_in_lr:
            torch.testing.assert_close(moved[1], 0.5 * moved[0], rtol=1e-12, atol=1e-15)
        assert (moved[0] != 0.0).all() and (moved[2] == 0.0).all()
        optimizer = self.new([x], **self.remembering)
        momentum = "momentum" in optimizer.defaults
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5, cycle_momentum=momentum)
        assert cycle.get_last_lr()[0] < 0.1

    # -- saving --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("way", ["dict", "file", "pickle"])
    def test_a_saved_run_goes_on_to_the_bit(self, way):
        for dtype in (torch.float64, torch.float32):
            self.saved_and_continued(way, dtype)

    def saved_and_continued(self, way, dtype):
        options = {"seed": 7, "dtype": dtype, **self.remembering}
        whole, first = self.trainer(self.new, **options), self.trainer(self.new, **options)
        whole.train(3)
        whole_losses = whole.train(4)
        first.train(3)
        if way == "pickle":
            first.model, first.optimizer = pickle.loads(pickle.dumps((first.model, first.optimizer)))
            first.model, first.optimizer = copy.deepcopy((first.model, first.optimizer))
            second = first
        else:
            state = {"model": first.model.state_dict(), "optimizer": first.optimizer.state_dict()}
            if way == "file":
                file = io.BytesIO()
                torch.save(state, file)
                file.seek(0)
                # Only numbers, strings and tensors: what torch.load takes from a file that it does not trust.
                state = torch.load(file, weights_only=True)
            else:
                state["model"] = copy.deepcopy(state["model"])
            picks = first.picks.get_state()
            first.train(2)
            second = self.trainer(self.new, dtype=dtype, seed=8)
            second.train(1)
            second.model.load_state_dict(state["model"])
            second.optimizer.load_state_dict(state["optimizer"])
            second.picks.set_state(picks)
        losses = second.train(4)
        assert equal(second.weights(), whole.weights())
        assert equal([loss.detach() for loss in losses], [loss.detach() for loss in whole_losses])

    def test_two_loads_of_one_state_share_nothing(self):
        saved = self.trainer(self.new, seed=7, **self.remembering)
        saved.train(2)
        weights, state, picks = saved.weights(), saved.optimizer.state_dict(), saved.picks.get_state()
        ends = []
        for _ in range(2):
            other = self.trainer(self.new)
            with torch.no_grad():
                for p, w in zip(other.model.parameters(), weights, strict=True):
                    p.copy_(w)
            other.optimizer.load_state_dict(state)
            other.picks.set_state(picks)
            other.train(3)
            ends.append(other.weights())
        saved.train(3)
        assert equal(ends[0], ends[1]) and equal(ends[0], saved.weights())

    def test_a_foreign_state_is_refused(self):
        trainer = self.trainer(self.new)
        with pytest.raises(BadInput, match=self.foreign):
            trainer.optimizer.load_state_dict(torch.optim.SGD(trainer.model.parameters(), lr=0.1).state_dict())

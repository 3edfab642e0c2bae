"""What every optimiser of relax.relaxation must do, on an anisotropic quadratic and on a small network."""

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

    def train(self, steps):
        return [self.optimizer.step(self.closure) for _ in range(steps)]

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def equal(first, second):
    """Bitwise."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class OptimizerContract:
    """Inherited by one class for each optimiser.

    Attributes:
        make: parameters and options to an optimiser, whose settings descend and, where it has noise, have some.
        noiseless: options that turn its noise off; None when it has none.
        calls: how often a step calls the closure.
        first_loss: whether a step returns what the first call gave.
        linear_in_lr: whether the first step of all is proportional to lr.
    """

    make = None
    noiseless = None
    calls = 1
    first_loss = True
    linear_in_lr = True

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
            closure = quadratic(x, optimizer)
            for _ in range(150):
                optimizer.step(closure)
            tolerance = 1e-8 if dtype == torch.float64 else 1e-5
            assert x.dtype == dtype
            torch.testing.assert_close(x.detach(), CENTRE.to(dtype), rtol=0.0, atol=tolerance)

    def test_maximize_is_the_descent_of_the_negative(self):
        a, b = parameter([3.0, 3.0, 3.0]), parameter([3.0, 3.0, 3.0])
        up, down = self.new([a], maximize=True, seed=7), self.new([b], seed=7)
        for _ in range(3):
            up.step(quadratic(a, up, curvatures=-CURVATURES))
            down.step(quadratic(b, down))
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0.0)

    def test_weight_decay_is_part_of_the_loss(self):
        a, b = parameter([3.0, 3.0, 3.0]), parameter([3.0, 3.0, 3.0])
        one, other = self.new([a], weight_decay=0.3, seed=7), self.new([b], seed=7)

        def by_hand():
            other.zero_grad()
            loss = (0.5 * CURVATURES * (b - CENTRE) ** 2).sum() + 0.15 * (b**2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            one.step(quadratic(a, one))
            other.step(by_hand)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    def test_momentum_helps_on_a_flat_valley(self):
        lengths = []
        for options in ({}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}):
            x = parameter([1.0])
            optimizer = self.quiet([x], **options)
            flat = torch.tensor([0.02], dtype=torch.float64)
            for _ in range(12):
                optimizer.step(quadratic(x, optimizer, curvatures=flat, centre=torch.zeros(1, dtype=torch.float64)))
            lengths.append(float(x.detach().abs()))
        assert 1.0 - max(lengths[1:]) > 1.5 * (1.0 - lengths[0]) > 0.0

    # -- closures ------------------------------------------------------------------------------------------------------

    def test_calls_and_loss(self):
        trainer = Trainer(self.new)
        seen = []

        def closure():
            seen.append(trainer.closure())
            return seen[-1]

        loss = trainer.optimizer.step(closure)
        assert len(seen) == self.calls
        expected = seen[0] if self.first_loss else torch.stack(seen).mean()
        torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-12, atol=0.0)

    def test_without_a_closure(self):
        trainer = Trainer(self.new)
        before = trainer.weights()
        with pytest.raises(BadInput, match=r"expected a closure.*optimizer\.step\(closure\)"):
            trainer.optimizer.step()
        with pytest.raises(BadInput, match="returns the loss, got None"):
            trainer.optimizer.step(lambda: None)
        assert equal(trainer.weights(), before)

    def test_a_failing_closure_leaves_everything_as_it_was(self):
        """Weights, noise, momentum, counts: the run goes on as if the failed step had not been tried."""
        for kind in (ZeroDivisionError, KeyboardInterrupt, NotConverged):
            self.failed_and_continued(kind)

    def failed_and_continued(self, kind):
        trainer, undisturbed = (Trainer(self.new, momentum=0.5, seed=7) for _ in range(2))
        trainer.train(2)
        before = trainer.weights()
        picks = trainer.picks.get_state()
        last = trainer.calls + self.calls

        def closure():
            loss = trainer.closure()
            if trainer.calls < last:
                return loss
            if kind is NotConverged:
                return loss * np.nan
            raise kind

        with pytest.raises(kind):
            trainer.optimizer.step(closure)
        assert equal(trainer.weights(), before)
        trainer.picks.set_state(picks)
        trainer.train(2)
        undisturbed.train(4)
        assert equal(trainer.weights(), undisturbed.weights())

    def test_a_loss_that_is_not_finite(self):
        trainer = Trainer(self.new)
        with pytest.raises(NotConverged, match="the loss is nan at call 1 .* check_finite=False"):
            trainer.optimizer.step(lambda: trainer.closure() * np.nan)
        lax = Trainer(self.new, check_finite=False)
        assert torch.isnan(lax.optimizer.step(lambda: lax.closure() * np.nan))
        for number in (1.5, np.float64(1.5)):
            assert float(Trainer(self.new).optimizer.step(lambda number=number: number)) == pytest.approx(1.5)

    # -- parameters ----------------------------------------------------------------------------------------------------

    def test_frozen_parameters_and_those_without_gradient_stay(self):
        frozen, unused, x = parameter([1.0, 2.0]), parameter([3.0]), parameter([3.0, 3.0, 3.0])
        frozen.requires_grad_(False)
        optimizer = self.new([frozen, unused, x], weight_decay=0.1, momentum=0.5)
        for _ in range(2):
            optimizer.step(quadratic(x, optimizer))
        assert frozen.tolist() == [1.0, 2.0] and unused.tolist() == [3.0]
        assert (x.detach() != 3.0).all()
        # A parameter may come to life later.
        frozen.requires_grad_()

        def closure():
            optimizer.zero_grad()
            loss = (frozen**2).sum() + (unused**2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert (frozen.detach() != torch.tensor([1.0, 2.0])).all() and unused.item() != 3.0

    def test_mixed_precisions_and_complex_weights(self):
        a, b = parameter([2.0], torch.float32), parameter([2.0, 2.0])
        z = torch.nn.Parameter(torch.tensor([1.0 + 2.0j], dtype=torch.complex128))
        optimizer = self.quiet([a, b, z], momentum=0.5, weight_decay=0.1)
        w = torch.nn.Parameter(torch.view_as_real(z.detach()).clone())
        real = self.quiet([w], momentum=0.5, weight_decay=0.1)

        def closure():
            optimizer.zero_grad()
            loss = (a.double() ** 2).sum() + (b**2).sum() + ((z - 1.0j).abs() ** 2).sum()
            loss.backward()
            return loss

        def of_pairs():
            real.zero_grad()
            loss = ((w - torch.tensor([0.0, 1.0], dtype=torch.float64)) ** 2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
            real.step(of_pairs)
        torch.testing.assert_close(torch.view_as_real(z.detach()), w.detach(), rtol=0.0, atol=1e-14)
        assert a.item() < 2.0 and a.dtype == torch.float32

    def test_sparse_gradients_are_refused(self):
        table = torch.nn.Embedding(4, 2, sparse=True)
        optimizer = self.new(table.parameters())
        before = table.weight.detach().clone()

        def closure():
            optimizer.zero_grad()
            loss = table(torch.tensor([1, 2])).sum()
            loss.backward()
            return loss

        with pytest.raises(BadInput, match="sparse"):
            optimizer.step(closure)
        assert torch.equal(table.weight.detach(), before)

    # -- groups and settings -------------------------------------------------------------------------------------------

    def test_groups_have_settings_of_their_own(self):
        """Two groups are two optimisers, where there is no noise to share."""
        a, b, c, d = (parameter([3.0, 3.0, 3.0]) for _ in range(4))
        both = self.quiet([{"params": [a], "lr": 0.02, "momentum": 0.5}, {"params": [b], "weight_decay": 0.2}])
        first, second = self.quiet([c], lr=0.02, momentum=0.5), self.quiet([d], weight_decay=0.2)

        def closure():
            both.zero_grad()
            loss = sum((0.5 * CURVATURES * (x - CENTRE) ** 2).sum() for x in (a, b))
            loss.backward()
            return loss

        for _ in range(4):
            both.step(closure)
            first.step(quadratic(c, first))
            second.step(quadratic(d, second))
        torch.testing.assert_close((a, b), (c, d), rtol=1e-14, atol=0.0)

    def test_settings_out_of_range(self):
        x = parameter([1.0])
        settings = self.new([x]).param_groups[0]
        wrong = {"lr": -1.0, "momentum": 1.0, "weight_decay": -0.1, "inner_steps": 0, "inner_lr": 0.0, "beta": 0.0}
        wrong |= {"t": -1.0, "averaging": 1.0, "damping": -0.1, "samples": 1.5, "rho": np.nan, "iterations": -1}
        for name in set(wrong) & set(settings):
            with pytest.raises(BadInput, match=f"expected .* as {name}, got"):
                self.new([x], **{name: wrong[name]})
        with pytest.raises(BadInput, match="expected .* as lr, got 'fast'"):
            self.new([x], lr="fast")
        with pytest.raises(BadInput, match="nesterov"):
            self.new([x], nesterov=True)
        optimizer = self.new([x])
        with pytest.raises(BadInput, match="got 'momentun' .* did you mean 'momentum'"):
            optimizer.add_param_group({"params": [parameter([1.0])], "momentun": 0.9})
        assert len(optimizer.param_groups) == 1
        optimizer.add_param_group(
            {"params": [parameter([1.0])], "name": "head", "initial_lr": 0.1, "max_momentum": 0.9}
        )
        for name in {"inner_steps", "samples"} & set(settings):
            with pytest.raises(BadInput, match=f"one {name} for all groups"):
                optimizer.add_param_group({"params": [parameter([1.0])], name: 2 * settings[name]})

    def test_a_learning_rate_schedule(self):
        """LambdaLR halves what the quadratic's first step does, and lr = 0 moves nothing."""
        moved = []
        for factor in (1.0, 0.5, 0.0):
            x = parameter([3.0, 3.0, 3.0])
            optimizer = self.quiet([x])
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, factor=factor: factor)
            optimizer.step(quadratic(x, optimizer))
            schedule.step()
            moved.append(3.0 - x.detach())
        if self.linear_in_lr:
            torch.testing.assert_close(moved[1], 0.5 * moved[0], rtol=1e-12, atol=1e-15)
        assert (moved[0] != 0.0).all() and (moved[2] == 0.0).all()
        cycle = torch.optim.lr_scheduler.OneCycleLR(self.new([x], momentum=0.5), max_lr=0.1, total_steps=5)
        assert cycle.get_last_lr()[0] < 0.1

    # -- random numbers ------------------------------------------------------------------------------------------------

    def test_noise_has_a_generator_of_its_own(self):
        def run(**options):
            trainer = Trainer(self.new, **options)
            trainer.train(2)
            return trainer.weights()

        def generator(seed):
            return {"generator": torch.Generator().manual_seed(seed)}

        if self.noiseless is None:
            assert equal(run(), run())
            return
        assert equal(run(seed=1), run(seed=1)) and not equal(run(seed=1), run(seed=2))
        assert equal(run(**generator(4)), run(**generator(4))) and not equal(run(**generator(4)), run(**generator(5)))
        # The global generator gives a seed and is not touched again: Trainer sets it.
        assert equal(run(), run())
        trainer = Trainer(self.new)
        before = torch.get_rng_state()
        trainer.train(1)
        assert torch.equal(torch.get_rng_state(), before)
        with pytest.raises(BadInput, match="both"):
            Trainer(self.new, seed=1, **generator(4))

    # -- saving --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("way", ["dict", "file", "pickle"])
    def test_a_saved_run_goes_on_to_the_bit(self, way):
        for dtype in (torch.float64, torch.float32):
            self.saved_and_continued(way, dtype)

    def saved_and_continued(self, way, dtype):
        options = {"momentum": 0.5, "seed": 7, "dtype": dtype}
        whole, first = Trainer(self.new, **options), Trainer(self.new, **options)
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
            second = Trainer(self.new, dtype=dtype, seed=8)
            second.train(1)
            second.model.load_state_dict(state["model"])
            second.optimizer.load_state_dict(state["optimizer"])
            second.picks.set_state(picks)
        losses = second.train(4)
        assert equal(second.weights(), whole.weights())
        assert equal([loss.detach() for loss in losses], [loss.detach() for loss in whole_losses])

    def test_two_loads_of_one_state_share_nothing(self):
        saved = Trainer(self.new, momentum=0.5, seed=7)
        saved.train(2)
        weights, state, picks = saved.weights(), saved.optimizer.state_dict(), saved.picks.get_state()
        ends = []
        for _ in range(2):
            other = Trainer(self.new)
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
        trainer = Trainer(self.new)
        with pytest.raises(BadInput, match="expected the state of an optimiser of relax.relaxation"):
            trainer.optimizer.load_state_dict(torch.optim.SGD(trainer.model.parameters(), lr=0.1).state_dict())

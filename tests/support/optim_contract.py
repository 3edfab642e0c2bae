"""What every optimiser of relax.relaxation must do, on an anisotropic quadratic and on a small network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from optim_common import CENTRE, CURVATURES, CommonContract, Trainer, equal, parameter, quadratic

from relax.errors import BadInput, NotConverged


class OptimizerContract(CommonContract):
    """Inherited by one class for each optimiser of relax.relaxation."""

    remembering = {"momentum": 0.5}
    no_closure = r"expected a closure.*several gradients, .*optimizer\.step\(closure\)"
    no_loss = "returns the loss, got None"
    foreign = "expected the state of an optimiser of relax.relaxation"

    def test_keywords_of_torch(self):
        x = parameter([1.0])
        self.new([x], foreach=None, fused=False, differentiable=False, capturable=False)
        for wrong, words in (
            ({"capturable": True}, "capturable: expected False, got True"),
            ({"fused": True}, "fused: expected None"),
            ({"momentun": 0.5}, "unknown keyword 'momentun'; did you mean 'momentum'"),
        ):
            with pytest.raises(BadInput, match=words):
                self.new([x], **wrong)

    # -- descent -------------------------------------------------------------------------------------------------------

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
        group_of_its_own = parameter([3.0])
        frozen.requires_grad_(False)
        groups = [{"params": [frozen, unused, x]}, {"params": [group_of_its_own]}]
        optimizer = self.new(groups, weight_decay=0.1, momentum=0.5)
        for _ in range(2):
            optimizer.step(quadratic(x, optimizer))
        assert frozen.tolist() == [1.0, 2.0] and unused.tolist() == [3.0] and group_of_its_own.tolist() == [3.0]
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
            with pytest.raises(BadInput, match=f"{name}: expected .*, got"):
                self.new([x], **{name: wrong[name]})
        with pytest.raises(BadInput, match="lr: expected .*, got 'fast'"):
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

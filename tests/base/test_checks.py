"""Numbers and words that a user hands over."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from relax.base.checks import (
    ABOVE_0,
    AT_LEAST_0,
    FRACTION,
    as_number,
    at_least,
    closest,
    nearest,
    number_in,
    one_of,
    positive,
)
from relax.errors import BadInput

HALVES = [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)]
NO_NUMBERS = ["0.5", None, True, np.True_, torch.tensor(True), [0.5], np.array([0.5]), torch.tensor([0.5]), 0.5j]
NO_NUMBERS += [np.complex128(0.5), torch.tensor(0.5j), np.array("a"), float("nan"), np.array(np.nan), object]
# What is differentiated would lose its gradient without a word.
NO_NUMBERS += [torch.tensor(0.5).requires_grad_(), Decimal("0.5")]


@pytest.mark.parametrize("value", HALVES, ids=repr)
def test_numbers(value):
    assert as_number(value) == positive(value, "x") == 0.5 and type(as_number(value)) is float


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number(value):
    assert math.isnan(as_number(value))
    with pytest.raises(BadInput, match="x: expected a number in"):
        number_in(value, FRACTION, "x")


def test_a_constant_changes_later():
    from dolfinx import fem, mesh
    from mpi4py import MPI

    assert math.isnan(as_number(fem.Constant(mesh.create_unit_interval(MPI.COMM_SELF, 2), 0.5)))


def test_what_no_float_holds():
    assert [as_number(sign * 10**400) for sign in (1, -1)] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        (ABOVE_0, [1e-300, 1, 1e300], [0.0, -1.0, math.inf, 10**400]),
        (AT_LEAST_0, [0, -0.0, 1e300], [-1e-300, math.inf, -math.inf]),
        (FRACTION, [0, 0.999], [1.0, -1e-9, math.inf]),
    ],
    ids=["above 0", "at least 0", "fraction"],
)
def test_rules(rule, inside, outside):
    assert [number_in(value, rule, "x") for value in inside] == [float(value) for value in inside]
    for value in outside:
        with pytest.raises(BadInput) as caught:
            number_in(value, rule, "heat: x")
        assert str(caught.value) == f"heat: x: expected {rule[1]}, got {value!r}"


def test_whole_numbers():
    assert [at_least(n, 2, "n") for n in (2, np.int32(3), 10**30)] == [2, 3, 10**30]
    for value in (1, np.int64(1), 2.0, True, "3", None, math.nan, [3]):
        with pytest.raises(BadInput, match="n: expected a whole number of at least 2, got "):
            at_least(value, 2, "n")


def test_words():
    known = {"source": 1, "initial": 2}
    assert closest("sorce", known) == "source" and closest("sorce", known, cutoff=0.95) is None
    assert nearest("intial", known) == "; did you mean 'initial'? (there is: source, initial)"
    one_of("dot", ("dot", "cross"), "x")
    for value, hint in (("crass", "; did you mean 'cross'?"), ("zzz", ""), (None, ""), (np.zeros(2), "")):
        with pytest.raises(BadInput) as caught:
            one_of(value, ("dot", "cross"), "heat: x")
        assert str(caught.value) == f"heat: x: expected 'dot' or 'cross', got {value!r}{hint}"
    with pytest.raises(BadInput, match="x: expected 'a', 'b' or 'c', got 1"):
        one_of(1, ("a", "b", "c"), "x")
    assert nearest("zzz", list(known)) == " (there is: source, initial)"

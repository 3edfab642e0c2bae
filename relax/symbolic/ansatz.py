"""Formulas that textbooks are full of: polynomials, products of functions of one variable, their sums, plane waves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, combinations_with_replacement
from itertools import product as every

from relax.symbolic.trees import AMPLITUDE, ONE, PHASE, Tree, enumerated, product, size, total

# How many of the smallest products are added to one another: a hundred thousand sums.
_PAIRED = 450


def likely(num_axes: int, functions: Sequence[str]) -> Iterator[Tree]:
    """Polynomials, and products of functions of one variable each, small ones first.

    Args:
        num_axes: coordinates, and the time after them.
        functions: the names of those that may be used.
    """
    yield from _polynomials(num_axes, (2, 3, 4))
    yield from _products(num_axes, functions)
    if num_axes == 1:
        yield from _beside_affine(num_axes, functions)


def possible(num_axes: int, functions: Sequence[str], largest: int) -> Iterator[Tree]:
    """Everything else, in turn: waves, sums of products, all formulas up to a size; then functions of such sums."""
    terms = _products(num_axes, functions)
    pairs = _pairs(terms)
    waves = [t for t in terms if any(f in str(t) for f in ("'sin'", "'exp'"))]
    about_centres = chain(_polynomials(num_axes, (6,)), _about_centres(num_axes, functions))
    richer = _alternating([about_centres, iter(_beside_affine(num_axes, functions))])
    yield from _alternating(
        [
            _waves(num_axes, functions),
            (total([t] * k) for k in (2, 3) for t in waves if size(t) * k < 40),
            pairs,
            chain(richer, enumerated(num_axes, functions, largest)),
            # Most of what is known comes as two terms: these go twice as fast.
            pairs,
        ]
    )
    yield from ((f, pair) for f in functions if f in ("exp", "log", "inv") for pair in _pairs(terms))


def _functions_of(axis: int, functions: Sequence[str]) -> list[Tree]:
    """What a factor of one variable may be; no factor at all apart."""
    z, rate, frequency, scale = ("z", axis), *(("c", (kind, axis)) for kind in ("rate", "frequency", "scale"))
    affine = ("+", ONE, ("*", scale, z))
    known = {
        "square": ("square", z),
        "exp": ("exp", ("*", rate, z)),
        "sin": ("sin", ("+", ("*", frequency, z), PHASE)),
        "inv": ("inv", affine),
        "log": ("log", affine),
    }
    return [z, *(known[f] for f in known if f in functions)]


def _products(num_axes: int, functions: Sequence[str]) -> list[Tree]:
    """A constant times functions of one variable each, small ones first."""
    choices = every(*([None, *_functions_of(axis, functions)] for axis in range(num_axes)))
    return sorted((product([AMPLITUDE, *(f for f in some if f is not None)]) for some in choices), key=size)


def _polynomials(num_axes: int, degrees: Sequence[int]) -> Iterator[Tree]:
    """Of these total degrees with all coefficients, where these are no more than 40."""
    for degree in degrees:
        powers = [m for m in every(range(degree + 1), repeat=num_axes) if sum(m) <= degree]
        if len(powers) <= 40:
            yield total([product([AMPLITUDE, *(("z", i) for i, n in enumerate(m) for _ in range(n))]) for m in powers])


def _beside_affine(num_axes: int, functions: Sequence[str]) -> list[Tree]:
    """a + b . z + c times functions of one variable each, not all of them powers: boundary layers."""
    affine = total([AMPLITUDE, *(product([AMPLITUDE, ("z", i)]) for i in range(num_axes))])
    others = [f"'{f}'" for f in functions if f != "square"]
    # Products come small ones first.
    return [("+", affine, term) for term in _products(num_axes, functions) if any(f in str(term) for f in others)]


def _about_centres(num_axes: int, functions: Sequence[str]) -> list[Tree]:
    """A constant times polynomials about a centre, exponentials and waves of one variable each.

    A polynomial is z - a, or (z - a)² + b, a product of the two, or the square of the second: 0 at both ends of an
    interval, in value or also in slope, with a few constants where plain ones of three variables have a hundred. Those
    with one kind for all axes come first; the last axis may be the time, which is none of them.
    """

    def choices(axis: int) -> list[Tree | None]:
        z, place, middle, reach = ("z", axis), *(("c", (kind, axis)) for kind in ("place", "middle", "reach"))
        linear, quadratic = ("+", z, place), ("+", ("square", ("+", z, middle)), reach)
        others = [f for f in _functions_of(axis, functions) if f[0] in ("exp", "sin")]
        return [None, linear, quadratic, ("*", linear, quadratic), ("square", quadratic), *others]

    by_axis = [choices(axis) for axis in range(num_axes)]
    terms = []
    for kinds in every(*(range(len(some)) for some in by_axis)):
        term = product([AMPLITUDE, *(f for some, i in zip(by_axis, kinds, strict=True) if (f := some[i]) is not None)])
        if any(kind in str(term) for kind in ("'place'", "'middle'")):
            terms.append((len(set(kinds[:-1])), size(term), term))
    return [term for *_, term in sorted(terms, key=lambda found: found[:2])]


def _waves(num_axes: int, functions: Sequence[str]) -> Iterator[Tree]:
    """a + b f(k.z + c), and b f(c + Σ a_i z_i²), with f one function, or one of a number and another, or of two."""
    plane = total([PHASE, *(("*", ("c", ("frequency", i)), ("z", i)) for i in range(num_axes))])
    bowl = total([PHASE, *(("*", ("c", ("scale", i)), ("square", ("z", i))) for i in range(num_axes))])
    for names in chain.from_iterable(every(functions, repeat=depth) for depth in (1, 2, 3)):
        for argument in (plane, bowl):
            inner: Tree = (names[-1], argument)
            for f in names[-2::-1]:
                inner = (f, ("+", ONE if f in ("inv", "log") else PHASE, inner))
            yield ("+", AMPLITUDE, ("*", AMPLITUDE, inner))


def _pairs(terms: Sequence[Tree]) -> Iterator[Tree]:
    """Sums of two terms, small ones first."""
    by_size, terms = defaultdict(list), terms[:_PAIRED]
    for a, b in combinations_with_replacement(range(len(terms)), 2):
        by_size[size(terms[a]) + size(terms[b])].append((a, b))
    return (("+", terms[a], terms[b]) for n in sorted(by_size) for a, b in by_size[n])


def _alternating(sources: Sequence[Iterator[Tree]]) -> Iterator[Tree]:
    """One from each in turn, until all have ended."""
    left = list(sources)
    while left:
        ended = []
        for source in left:
            got = next(source, None)
            if got is None:
                ended.append(source)
            else:
                yield got
        left = [source for source in left if source not in ended]

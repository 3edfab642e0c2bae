"""Where parameters meet samples in the autograd graph behind a batch of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor

Node: TypeAlias = Any


class Unstructured(Exception):
    """The graph does not show how each parameter meets the samples."""


@dataclass(frozen=True, eq=False)
class Meeting:
    """A node that makes its output from samples and parameters.

    Attributes:
        node: of the autograd graph.
        kind: "dense" for a product with a matrix, "convolution", "shift" for a bias alone, "other".
        weight: which parameter is the matrix or the kernel; None where it is not one to be trained.
        bias: which parameter is added.
        transposed: whether the product is with the transpose of the weight, as in ``torch.nn.Linear``.
        others: of kind "other": which parameters enter, in whatever way.
        positions_first: whether rows of a product go through the samples for each position, not the other way round,
            as inside torch's recurrent and attention layers.
    """

    node: Node
    kind: str
    weight: int | None = None
    bias: int | None = None
    transposed: bool = False
    others: tuple[int, ...] = ()
    positions_first: bool = False


def meetings(y: Tensor, params: Sequence[Tensor]) -> list[Meeting]:
    """All meetings of parameters and samples, none for parameters that y does not depend on. Local.

    Args:
        y: (samples, outputs), with its graph.
        params: what is trained.

    Raises:
        Unstructured: where a parameter meets the samples in several ways, one of which is not known here.
    """
    if y.grad_fn is None:
        raise Unstructured
    graph = _Graph(y.grad_fn, params)
    layers = [
        replace(meeting, positions_first=graph.has_positions_first(node, len(y)))
        for node in graph.nodes
        for meeting in [_known(node, graph.number)]
        if meeting is not None
    ]
    claimed = {(id(m.node), which) for m in layers for which in (m.weight, m.bias) if which is not None}
    used = {which for _, which in claimed}
    cuts: dict[int, tuple[Node, list[int]]] = {}
    for leaf, which in graph.leaves:
        consumers = graph.consumers(leaf)
        for consumer in consumers:
            # A transpose stands for the parameter: what takes it does.
            taken = graph.consumers(consumer) if consumer.name() == "TBackward0" else [consumer]
            known = [(id(node), which) in claimed for node in taken]
            if all(known) and known:
                if len({id(node) for node in taken}) < len(taken) or consumers.count(consumer) > 1:
                    raise Unstructured
                continue
            if any(known) or which in used:
                raise Unstructured
            cut = graph.first_with_samples(consumer, len(y))
            used.add(which)
            cuts.setdefault(id(cut), (cut, []))[1].append(which)
    return layers + [Meeting(node, "other", others=tuple(which)) for node, which in cuts.values()]


class _Graph:
    """The nodes behind a root, and the way up from each.

    Attributes:
        nodes: all of them.
        leaves: the nodes that accumulate a parameter's gradient, with its number.
    """

    def __init__(self, root: Node, params: Sequence[Tensor]) -> None:
        numbers = {id(p): i for i, p in enumerate(params)}
        self._number: dict[int, int] = {}
        self._above: dict[int, list[Node]] = {}
        self._pure: dict[int, bool] = {}
        self.nodes: list[Node] = []
        self.leaves: list[tuple[Node, int]] = []
        seen = {id(root)}
        todo = [root]
        while todo:
            node = todo.pop()
            self.nodes.append(node)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in numbers:
                self._number[id(node)] = numbers[id(variable)]
                self.leaves.append((node, numbers[id(variable)]))
            for below, _ in node.next_functions:
                if below is None:
                    continue
                self._above.setdefault(id(below), []).append(node)
                if id(below) not in seen:
                    seen.add(id(below))
                    todo.append(below)

    def number(self, node: Node) -> int | None:
        """Which parameter's gradient a node accumulates."""
        return None if node is None else self._number.get(id(node))

    def consumers(self, node: Node) -> list[Node]:
        """The nodes that take what this one stands for, as often as they do."""
        return self._above.get(id(node), [])

    def is_made_of_parameters(self, node: Node) -> bool:
        """Whether nothing else is below a node. Of an embedding it is not so: the indices have no node."""
        known = self._pure.get(id(node))
        if known is None:
            below = [edge[0] for edge in node.next_functions]
            known = id(node) in self._number or (
                bool(below)
                and "Embedding" not in node.name()
                and all(n is not None and self.is_made_of_parameters(n) for n in below)
            )
            self._pure[id(node)] = known
        return known

    def has_positions_first(self, node: Node, samples: int) -> bool:
        """Whether a node's output is (positions, samples, ...), or its rows are seen so by the node above."""
        shapes = [_shape(node)]
        shapes += [_shape(above) for above in self._above.get(id(node), []) if "View" in above.name()]
        return any(len(shape) > 2 and shape[0] != samples and shape[1] == samples for shape in shapes)

    def first_with_samples(self, node: Node, samples: int) -> Node:
        """The first node on the way up whose output has an axis of samples in front; the way must not fork before."""
        while True:
            shape = _shape(node)
            if shape and shape[0] == samples and not self.is_made_of_parameters(node):
                return node
            above = self.consumers(node)
            if len(above) != 1:
                raise Unstructured
            node = above[0]


def _shape(node: Node) -> tuple[int, ...]:
    """The shape of a node's output; () where it has several, or does not tell."""
    metadata = getattr(node, "_input_metadata", None)
    return tuple(metadata[0].shape) if metadata and len(metadata) == 1 else ()


def _known(node: Node, number: Any) -> Meeting | None:
    """A node of a kind that is known, with a parameter directly in its place."""
    below = [edge[0] for edge in node.next_functions]
    name = node.name()
    if name == "AddmmBackward0" and node._saved_alpha == 1 and node._saved_beta == 1:
        bias = _vector(number, below[0])
        if bias is not None and below[0].variable.shape != _shape(node)[-1:]:
            return None
        return _product(node, below[2], bias, number)
    if name == "MmBackward0":
        return _product(node, below[1], None, number)
    if name == "ConvolutionBackward0" and not node._saved_transposed:
        weight, bias = number(below[1]), number(below[2])
        return None if weight is None and bias is None else Meeting(node, "convolution", weight, bias)
    if name == "AddBackward0" and node._saved_alpha == 1:
        for one, other in ((0, 1), (1, 0)):
            bias = _vector(number, below[one])
            shape = _shape(node)
            if bias is not None and below[other] is not None and number(below[other]) is None and len(shape) > 1:
                if below[one].variable.shape == shape[-1:]:
                    return Meeting(node, "shift", bias=bias)
    return None


def _product(node: Node, below: Node, bias: int | None, number: Any) -> Meeting | None:
    weight, transposed = number(below), False
    if weight is None and below is not None and below.name() == "TBackward0":
        weight, transposed = number(below.next_functions[0][0]), True
    if weight is None and bias is None:
        return None
    return Meeting(node, "dense", weight, bias, transposed=transposed)


def _vector(number: Any, node: Node) -> int | None:
    """The number of a parameter that is a vector."""
    which = number(node)
    return None if which is None or node.variable.ndim != 1 else int(which)

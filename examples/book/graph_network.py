"""A network that passes messages along the edges of a mesh; its weights know nothing of the mesh."""

from __future__ import annotations

import torch
from relax.layer import Graph
from torch import Tensor


class GraphNetwork(torch.nn.Module):
    """(..., nodes, features) -> (..., nodes), by rounds of messages along edges.

    h_i ← h_i + U(h_i, mean over neighbours j of M(h_i, h_j, x_j - x_i), mean of P(h) over all nodes): the features of a
    node are encoded, so many rounds pass, and a number is decoded from each node's state. The last mean brings what is
    far away; messages alone would take as many rounds as the mesh is wide.

    Args:
        mesh: where the messages run; another one may be set at any time.
        features: how many numbers are known of each node.
        width: of all layers.
        rounds: of messages, each with weights of its own.
    """

    def __init__(self, mesh: Graph, *, features: int, width: int, rounds: int) -> None:
        super().__init__()
        self.mesh = mesh
        self.encoder = self._dense(features, width)
        dim = mesh.nodes.shape[1]
        self.messages = torch.nn.ModuleList(self._dense(2 * width + dim + 1, width) for _ in range(rounds))
        self.everywhere = torch.nn.ModuleList(self._dense(width, width) for _ in range(rounds))
        self.updates = torch.nn.ModuleList(self._dense(3 * width, width) for _ in range(rounds))
        self.decoder = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.decoder.weight)
        torch.nn.init.zeros_(self.decoder.bias)

    @staticmethod
    def _dense(n_in: int, width: int) -> torch.nn.Sequential:
        return torch.nn.Sequential(torch.nn.Linear(n_in, width), torch.nn.SiLU(), torch.nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.mesh.edges
        length = self.mesh.vectors.norm(dim=1, keepdim=True)
        edges = torch.cat([self.mesh.vectors, length], dim=1) / length.mean()
        edges = edges.expand(*x.shape[:-2], -1, -1)
        degree = torch.bincount(target, minlength=len(self.mesh.nodes))[:, None]
        h = self.encoder(x)
        for message, whole, update in zip(self.messages, self.everywhere, self.updates, strict=True):
            along = message(torch.cat([h[..., source, :], h[..., target, :], edges], dim=-1))
            received = torch.zeros_like(h).index_add(-2, target, along) / degree
            common = whole(h).mean(dim=-2, keepdim=True).expand_as(h)
            h = h + update(torch.cat([h, received, common], dim=-1))
        return self.decoder(h)[..., 0]

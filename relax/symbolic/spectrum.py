"""Exponents and frequencies that samples along a line are made of: where constants of a formula start from."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from relax.base.types import Array

# Singular values below this part of the largest are the discretisation's; no more than so many exponentials.
_NOISE, _MOST = 3e-3, 4
# Intervals along a line: nodes of a mesh that halves have these.
_INTERVALS = 16


def exponents(series: Array, spacing: float) -> tuple[list[float], list[float]]:
    """Rates λ and frequencies ω of exp(λ z) and sin(ω z + φ) that series (num, samples) are sums of.

    By the matrix pencil: Hankel matrices of all series have one row space, and it is invariant under a shift.
    Y. Hua and T. K. Sarkar, IEEE Trans. Acoust. Speech Signal Process. 38 (1990).
    """
    width = series.shape[1] // 2
    windows = np.lib.stride_tricks.sliding_window_view(series, width + 1, axis=1).reshape(-1, width + 1)
    if not np.isfinite(windows).all() or not windows.any():
        return [], []
    _, strengths, rows = np.linalg.svd(windows, full_matrices=False)
    rank = min(int(np.sum(strengths > _NOISE * strengths[0])), _MOST)
    kept = rows[:rank].T
    poles = np.linalg.eigvals(np.linalg.lstsq(kept[:-1], kept[1:], rcond=None)[0])
    poles = np.log(poles[np.abs(poles) > 1e-8].astype(complex)) / spacing
    is_real = np.abs(poles.imag) * spacing * series.shape[1] < 0.3
    rates = [float(r) for r in poles.real if abs(r) * spacing * series.shape[1] > 0.03]
    return sorted(rates), sorted({abs(float(p)) for p in poles.imag[~is_real]})


def along_axis(nodes: Array, values: Array, axis: int) -> tuple[Array, float]:
    """Samples of fields along lines through the middle of their box: (lines, samples), and their spacing.

    Args:
        nodes: (n, gdim).
        values: (fields, n).
        axis: of the lines.
    """
    low, high = nodes.min(axis=0), nodes.max(axis=0)
    at = np.linspace(low[axis], high[axis], _INTERVALS + 1)
    spacing = float(at[1] - at[0])
    if nodes.shape[1] == 1:
        order = np.argsort(nodes[:, 0])
        return np.array([np.interp(at, nodes[order, 0], row[order]) for row in values]), spacing
    field = LinearNDInterpolator(nodes, values.T)
    lines = []
    for share in (0.5, 0.25, 0.75):
        points = np.tile(low + share * (high - low), (len(at), 1))
        points[:, axis] = at
        inside = field(points)
        # A round domain's lines are shorter.
        inside = inside[np.isfinite(inside).all(axis=1)]
        if len(inside) > _INTERVALS // 2:
            lines.append(inside)
    if not lines:
        return np.zeros((0, _INTERVALS + 1)), spacing
    shortest = min(map(len, lines))
    return np.concatenate([line[:shortest].T for line in lines]), spacing

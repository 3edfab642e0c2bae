"""Batches of small linear systems, marched together: all samples at once, from terms that DOLFINx assembled once."""

from relax.dense.map import DenseMap, KnownBatches
from relax.dense.points import DensePoints

__all__ = ["DenseMap", "DensePoints", "KnownBatches"]

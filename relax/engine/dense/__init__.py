"""Batches of small linear systems, marched together: all samples at once, from terms that DOLFINx assembled once."""

from relax.engine.dense.map import DenseMap, KnownBatches
from relax.engine.dense.points import DensePoints

__all__ = ["DenseMap", "DensePoints", "KnownBatches"]

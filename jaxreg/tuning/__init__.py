"""Choosing a strength."""

from jaxreg.tuning.strength_max import strength_max
from jaxreg.tuning.target_sparsity import target_sparsity

__all__ = ["strength_max", "target_sparsity"]

"""Choosing a strength."""

from jaxreg.tuning.regularization_path import regularization_path
from jaxreg.tuning.strength_max import strength_max
from jaxreg.tuning.target_sparsity import target_sparsity

__all__ = ["regularization_path", "strength_max", "target_sparsity"]

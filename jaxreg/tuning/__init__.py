"""Choosing a strength."""

from jaxreg.tuning.cross_validate import CrossValidation, cross_validate
from jaxreg.tuning.dense_sparse_dense import dense_sparse_dense
from jaxreg.tuning.regularization_path import regularization_path
from jaxreg.tuning.sparsity_curve import SparsityCurve, sparsity_curve
from jaxreg.tuning.strength_max import strength_max
from jaxreg.tuning.target_sparsity import target_sparsity
from jaxreg.tuning.windowed import windowed

__all__ = [
    "CrossValidation",
    "SparsityCurve",
    "cross_validate",
    "dense_sparse_dense",
    "regularization_path",
    "sparsity_curve",
    "strength_max",
    "target_sparsity",
    "windowed",
]

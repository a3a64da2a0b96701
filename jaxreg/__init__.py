"""jaxreg: functional regularization for JAX, with zeros that are exact."""

from jaxreg import groups, masks
from jaxreg.diagnostics import report, sparsity
from jaxreg.optimizers import freeze_zeros, prox_adam, prox_sgd, proximal_optimizer, step
from jaxreg.penalties import Penalty, elastic_net, group_lasso, l1, l2, sparse_group_lasso
from jaxreg.transforms import add_penalty, proximal, proximal_group_lasso, proximal_l1, weight_decay

__version__ = "0.1.0"

__all__ = [
    "Penalty",
    "add_penalty",
    "elastic_net",
    "freeze_zeros",
    "group_lasso",
    "groups",
    "l1",
    "l2",
    "masks",
    "prox_adam",
    "prox_sgd",
    "proximal",
    "proximal_group_lasso",
    "proximal_l1",
    "proximal_optimizer",
    "report",
    "sparse_group_lasso",
    "sparsity",
    "step",
    "weight_decay",
]

"""jaxreg: functional regularization for JAX, with zeros that are exact."""

from jaxreg import groups, masks, penalties, structures
from jaxreg.diagnostics import describe_decay, report, sparsity
from jaxreg.optimizers import (
    adabreg,
    fista,
    freeze_zeros,
    ftrl,
    hspg,
    keep_zeros,
    learning_rate_of,
    linbreg,
    prox_adabelief,
    prox_adagrad,
    prox_adam,
    prox_adamw,
    prox_amsgrad,
    prox_lion,
    prox_muon,
    prox_nadam,
    prox_rmsprop,
    prox_sgd,
    proximal_optimizer,
    ramda,
    rda,
    sparse_initialization,
    step,
)
from jaxreg.penalties import *  # noqa: F403 - the list of penalties stands there, and only there
from jaxreg.structures.compaction import compact
from jaxreg.transforms import (
    add_penalty,
    decayed_like,
    proximal,
    proximal_group_lasso,
    proximal_l1,
    weight_decay,
)
from jaxreg.tuning import strength_max

__version__ = "0.1.0"

__all__ = [
    "adabreg",
    "add_penalty",
    "compact",
    "decayed_like",
    "describe_decay",
    "fista",
    "freeze_zeros",
    "ftrl",
    "groups",
    "hspg",
    "keep_zeros",
    "learning_rate_of",
    "linbreg",
    "masks",
    "prox_adabelief",
    "prox_adagrad",
    "prox_adam",
    "prox_adamw",
    "prox_amsgrad",
    "prox_lion",
    "prox_muon",
    "prox_nadam",
    "prox_rmsprop",
    "prox_sgd",
    "proximal",
    "proximal_group_lasso",
    "proximal_l1",
    "proximal_optimizer",
    "ramda",
    "rda",
    "report",
    "sparse_initialization",
    "sparsity",
    "step",
    "strength_max",
    "structures",
    "weight_decay",
]
__all__ += penalties.__all__

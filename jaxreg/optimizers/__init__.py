"""Whole optimizers whose strength is in the unit of the loss."""

from jaxreg.optimizers.adabreg import adabreg
from jaxreg.optimizers.fista import fista
from jaxreg.optimizers.freeze_zeros import freeze_zeros
from jaxreg.optimizers.ftrl import ftrl
from jaxreg.optimizers.hspg import hspg
from jaxreg.optimizers.injected import learning_rate_of
from jaxreg.optimizers.keep_zeros import keep_zeros
from jaxreg.optimizers.linbreg import linbreg
from jaxreg.optimizers.prox_adabelief import prox_adabelief
from jaxreg.optimizers.prox_adagrad import prox_adagrad
from jaxreg.optimizers.prox_adam import prox_adam
from jaxreg.optimizers.prox_adamw import prox_adamw
from jaxreg.optimizers.prox_amsgrad import prox_amsgrad
from jaxreg.optimizers.prox_lion import prox_lion
from jaxreg.optimizers.prox_muon import prox_muon
from jaxreg.optimizers.prox_nadam import prox_nadam
from jaxreg.optimizers.prox_rmsprop import prox_rmsprop
from jaxreg.optimizers.prox_sgd import prox_sgd
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.optimizers.ramda import ramda
from jaxreg.optimizers.rda import rda
from jaxreg.optimizers.sparse_initialization import sparse_initialization
from jaxreg.optimizers.step import step

__all__ = [
    "adabreg",
    "fista",
    "freeze_zeros",
    "ftrl",
    "hspg",
    "keep_zeros",
    "learning_rate_of",
    "linbreg",
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
    "proximal_optimizer",
    "ramda",
    "rda",
    "sparse_initialization",
    "step",
]

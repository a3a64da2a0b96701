"""Whole optimizers whose strength is in the unit of the loss."""

from jaxreg.optimizers.freeze_zeros import freeze_zeros
from jaxreg.optimizers.prox_adam import prox_adam
from jaxreg.optimizers.prox_sgd import prox_sgd
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.optimizers.step import step

__all__ = ["freeze_zeros", "prox_adam", "prox_sgd", "proximal_optimizer", "step"]

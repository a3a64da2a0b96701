"""How a penalty enters an optax chain."""

from jaxreg.transforms.add_penalty import add_penalty
from jaxreg.transforms.decayed_like import decayed_like
from jaxreg.transforms.penalty_schedule import PenaltySchedule, scheduled
from jaxreg.transforms.proximal import proximal, proximal_group_lasso, proximal_l1
from jaxreg.transforms.sparsity_ramp import sparsity_ramp
from jaxreg.transforms.weight_decay import weight_decay

__all__ = [
    "PenaltySchedule",
    "add_penalty",
    "decayed_like",
    "proximal",
    "proximal_group_lasso",
    "proximal_l1",
    "scheduled",
    "sparsity_ramp",
    "weight_decay",
]

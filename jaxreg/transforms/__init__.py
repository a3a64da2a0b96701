"""How a penalty enters an optax chain."""

from jaxreg.transforms.add_penalty import add_penalty
from jaxreg.transforms.decayed_like import decayed_like
from jaxreg.transforms.proximal import proximal, proximal_group_lasso, proximal_l1
from jaxreg.transforms.weight_decay import weight_decay

__all__ = [
    "add_penalty",
    "decayed_like",
    "proximal",
    "proximal_group_lasso",
    "proximal_l1",
    "weight_decay",
]

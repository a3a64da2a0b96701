"""What is penalised: value and proximal operator side by side, one file each."""

from jaxreg.penalties.base import Penalty
from jaxreg.penalties.capped_l1 import capped_l1
from jaxreg.penalties.elastic_net import elastic_net
from jaxreg.penalties.group_lasso import group_lasso
from jaxreg.penalties.huber import huber
from jaxreg.penalties.l0 import l0
from jaxreg.penalties.l1 import l1
from jaxreg.penalties.l2 import l2
from jaxreg.penalties.l_half import l_half
from jaxreg.penalties.l_two_thirds import l_two_thirds
from jaxreg.penalties.log_sum import log_sum
from jaxreg.penalties.mcp import mcp
from jaxreg.penalties.scad import scad
from jaxreg.penalties.sparse_group_lasso import sparse_group_lasso

__all__ = [
    "Penalty",
    "capped_l1",
    "elastic_net",
    "group_lasso",
    "huber",
    "l0",
    "l1",
    "l2",
    "l_half",
    "l_two_thirds",
    "log_sum",
    "mcp",
    "scad",
    "sparse_group_lasso",
]

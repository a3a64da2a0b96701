"""What is penalised: value and proximal operator side by side, one file each."""

from jaxreg.penalties.base import Penalty
from jaxreg.penalties.elastic_net import elastic_net
from jaxreg.penalties.group_lasso import group_lasso
from jaxreg.penalties.l1 import l1
from jaxreg.penalties.l2 import l2
from jaxreg.penalties.sparse_group_lasso import sparse_group_lasso

__all__ = ["Penalty", "elastic_net", "group_lasso", "l1", "l2", "sparse_group_lasso"]

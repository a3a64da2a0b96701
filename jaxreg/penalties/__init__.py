"""What is penalised: value and proximal operator side by side, one file each."""

from jaxreg.penalties.base import Penalty
from jaxreg.penalties.berhu import berhu
from jaxreg.penalties.box import box
from jaxreg.penalties.capped_l1 import capped_l1
from jaxreg.penalties.elastic_net import elastic_net
from jaxreg.penalties.exclusive_lasso import exclusive_lasso
from jaxreg.penalties.fused_lasso import fused_lasso
from jaxreg.penalties.group_lasso import group_lasso
from jaxreg.penalties.group_linf import group_linf
from jaxreg.penalties.hierarchical_group_lasso import hierarchical_group_lasso
from jaxreg.penalties.hoyer import hoyer
from jaxreg.penalties.hoyer_square import hoyer_square
from jaxreg.penalties.huber import huber
from jaxreg.penalties.l0 import l0
from jaxreg.penalties.l1 import l1
from jaxreg.penalties.l1_ball import l1_ball
from jaxreg.penalties.l1_sp import l1_sp
from jaxreg.penalties.l2 import l2
from jaxreg.penalties.l2_ball import l2_ball
from jaxreg.penalties.l2_sp import l2_sp
from jaxreg.penalties.l_half import l_half
from jaxreg.penalties.l_two_thirds import l_two_thirds
from jaxreg.penalties.log_sum import log_sum
from jaxreg.penalties.max_norm import max_norm
from jaxreg.penalties.mcp import mcp
from jaxreg.penalties.n_m_sparsity import n_m_sparsity
from jaxreg.penalties.non_negative import non_negative
from jaxreg.penalties.norm_range import norm_range
from jaxreg.penalties.nuclear_norm import nuclear_norm
from jaxreg.penalties.orthogonality import orthogonality
from jaxreg.penalties.overlapping_group_lasso import overlapping_group_lasso
from jaxreg.penalties.protected import protected
from jaxreg.penalties.scad import scad
from jaxreg.penalties.simplex import simplex
from jaxreg.penalties.slope import slope
from jaxreg.penalties.sparse_group_lasso import sparse_group_lasso
from jaxreg.penalties.spectral_norm import spectral_norm
from jaxreg.penalties.spectral_norm_ball import spectral_norm_ball
from jaxreg.penalties.top_k import top_k
from jaxreg.penalties.total_variation import total_variation
from jaxreg.penalties.unit_norm import unit_norm

__all__ = [
    "Penalty",
    "berhu",
    "box",
    "capped_l1",
    "elastic_net",
    "exclusive_lasso",
    "fused_lasso",
    "group_lasso",
    "group_linf",
    "hierarchical_group_lasso",
    "hoyer",
    "hoyer_square",
    "huber",
    "l0",
    "l1",
    "l1_ball",
    "l1_sp",
    "l2",
    "l2_ball",
    "l2_sp",
    "l_half",
    "l_two_thirds",
    "log_sum",
    "max_norm",
    "mcp",
    "n_m_sparsity",
    "non_negative",
    "norm_range",
    "nuclear_norm",
    "orthogonality",
    "overlapping_group_lasso",
    "protected",
    "scad",
    "simplex",
    "slope",
    "sparse_group_lasso",
    "spectral_norm",
    "spectral_norm_ball",
    "top_k",
    "total_variation",
    "unit_norm",
]

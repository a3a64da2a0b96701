"""The Hoyer regulariser, the ratio of the l1 and the l2 norm."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.norm_ratio import NormRatio, checked_ratio


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hoyer(NormRatio):
    """See :func:`hoyer`."""

    kind: ClassVar[str] = "hoyer"
    power: ClassVar[int] = 1


def hoyer(strength: Any, groups: Groups | None = None, *, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * ||w||_1 / ||w||_2`` of each leaf: sparse, whatever the scale of the weights.

    .. math::
        R(w) = \lambda \sum_{\text{leaves}} \frac{\lVert r \rVert_1}{\lVert r \rVert_2}, \qquad
        r_i = |w_i|, \quad \text{or } r_g = \lVert w_g \rVert_2 \text{ with groups}

    From 1, where one element of the leaf is not zero, to :math:`\sqrt n`, where all n have the same
    size; 0 for a leaf of zeros. There is no prox: it has no closed form.

    Args:
        strength: lambda, in units of loss: the ratio has no unit. A non-negative number, a traced
            scalar, or a pytree prefix of the parameters with one number per leaf.
        groups: a structure of :mod:`jaxreg.groups`: the norms are then taken of the vector of
            group norms of a leaf (or of leaves whose groups are joined). Default: of the
            elements. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty` for the loss; its value is a scalar of at least float32. Complex
        weights count by modulus.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``strength`` is negative, infinite or NaN; when used, for a leaf that the groups
            do not fit; from ``prox``.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.hoyer(0.5)
        >>> round(float(penalty({"w": jnp.array([3.0, 4.0])})), 4)
        0.7
        >>> float(penalty({"w": jnp.array([0.0, 4e20])}))
        0.5

    Notes:
        The gradient of the value at an exact zero, and at a leaf of zeros, is 0. It is 0 along the
        weights, so that it rotates them and does not shrink them; it grows as the inverse of their
        norm. For training put ``jaxreg.add_penalty(penalty)`` before the optimizer. It makes small
        weights and no exact zeros: prune after it by magnitude.

    References:
        Hoyer, Non-negative matrix factorization with sparseness constraints, 2004, section 3.1,
        arXiv:cs/0408058. As a regulariser: Yang, Wen and Li, DeepHoyer: learning sparser neural network with
        differentiable scale-invariant sparsity measures, 2020, section 3, arXiv:1908.09979
    """
    return Hoyer(**checked_ratio(strength, groups, mask, "hoyer"))

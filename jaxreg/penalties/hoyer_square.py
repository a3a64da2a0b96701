"""The Hoyer-square regulariser, a smooth count of the weights in use."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.norm_ratio import NormRatio, checked_ratio


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HoyerSquare(NormRatio):
    """See :func:`hoyer_square`."""

    kind: ClassVar[str] = "hoyer_square"
    power: ClassVar[int] = 2


def hoyer_square(strength: Any, groups: Groups | None = None, *, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * ||w||_1^2 / ||w||_2^2`` of each leaf, a smooth count of its weights.

    .. math::
        R(w) = \lambda \sum_{\text{leaves}} \frac{\lVert r \rVert_1^2}{\lVert r \rVert_2^2}, \qquad
        r_i = |w_i|, \quad \text{or } r_g = \lVert w_g \rVert_2 \text{ with groups}

    k where k elements of the leaf have the same size and the others are zero; 0 for a leaf of zeros.
    There is no prox: it has no closed form.

    Args:
        strength: lambda, in units of loss per weight in use. A non-negative number, a traced
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
        >>> params = {"kernel": jnp.array([[3.0, 0.0, -3.0], [0.0, 0.0, 3.0]])}
        >>> round(float(jaxreg.hoyer_square(1.0)(params)), 4)
        3.0
        >>> outputs = jaxreg.hoyer_square(1.0, jaxreg.groups.outputs())
        >>> round(float(outputs({"kernel": params["kernel"].at[0, 2].set(0.0)})), 4)
        2.0

    Notes:
        The gradient of the value at an exact zero, and at a leaf of zeros, is 0. Descent shrinks the weights
        below :math:`\lVert r \rVert_2^2 / \lVert r \rVert_1` and enlarges those above: a threshold that
        finds itself. For training put ``jaxreg.add_penalty(penalty)`` before the optimizer. It makes
        small weights and no exact zeros: prune after it by magnitude.

    References:
        Yang, Wen and Li, DeepHoyer: learning sparser neural network with differentiable scale-invariant
        sparsity measures, 2020, section 3, arXiv:1908.09979
    """
    return HoyerSquare(**checked_ratio(strength, groups, mask, "hoyer_square"))

"""The squared distance to a starting point (L2-SP)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.penalties.base import Leaves, Penalty
from jaxreg.penalties.reference import ReferencePenalty, ReferenceTerm, checked_reference
from jaxreg.penalties.shrinkage import half_quadratic, l1_distance
from jaxreg.tree import FlatTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L2SP(ReferencePenalty):
    """See :func:`l2_sp`."""

    kind: ClassVar[str] = "l2_sp"

    def term_value(self, xs: Sequence[Any], term: ReferenceTerm) -> Any:
        return jnp.sum(half_quadratic(xs[0] - term.reference, 2 * term.strength))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: ReferenceTerm) -> Sequence[Any]:
        pull = 2 * term.strength * steps[0]
        # Bounded, so that a step beyond the floats ends at the reference.
        share = jnp.minimum(pull, float(jnp.finfo(xs[0].dtype).max))
        return [xs[0] / (1 + pull) + term.reference * (share / (1 + share))]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: ReferenceTerm
    ) -> Sequence[Any]:
        return [l1_distance(xs[0], grads[0] + 2 * term.strength * (xs[0] - term.reference), soft[0])]

    def curvature_of(self, flat: FlatTree) -> Leaves:
        return {index: 2 * strength for index, strength in self.strengths_of(flat).items()}

    def pull_of(self, flat: FlatTree) -> Leaves:
        references = self.references_of(flat)
        return {index: curvature * references[index] for index, curvature in self.curvature_of(flat).items()}

    def without_curvature(self) -> None:
        return None


def l2_sp(strength: Any, reference: Any, *, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * sum (w - reference)^2``: fine-tuning that stays near where it started.

    .. math::
        R(w) = \lambda \sum_i (w_i - r_i)^2, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \lambda (z - r_i)^2 + \frac{(z - x_i)^2}{2 s_i}
        = \frac{x_i + 2 s_i \lambda r_i}{1 + 2 s_i \lambda}

    Args:
        strength: lambda, in units of loss per squared unit of weight. A non-negative number,
            a traced scalar, or a pytree prefix of the parameters with one number per leaf.
        reference: r, a pytree like the parameters, such as the pretrained ones: an array of the
            leaf's shape, or a number for all its elements, at or above each leaf that is
            regularised. Other leaves of it are not used. Its arrays may be traced.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static. A new head has no
            reference: leave it out here and give it :func:`jaxreg.l2`.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox
        keeps shapes and dtypes.

    Raises:
        TypeError: if ``strength`` is not a number or a tree of numbers, or ``reference`` not a
            tree of arrays and numbers.
        ValueError: if ``strength`` is negative, infinite or NaN; when used, for a leaf without a
            reference, a reference without a leaf, and shapes that differ, by path.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> pretrained = {"w": jnp.array([1.0, -1.0])}
        >>> penalty = jaxreg.l2_sp(0.5, pretrained)
        >>> params = {"w": jnp.array([2.0, -1.0])}
        >>> float(penalty(params))
        0.5
        >>> print(penalty.prox(params, 1.0)["w"])
        [ 1.5 -1. ]

    Notes:
        It adds to any other penalty exactly, prox included, as :func:`jaxreg.l2` does:
        ``l2_sp(strength, pretrained) + l1(strength)``.

        There is no 1/2, as in :func:`jaxreg.l2`, which is the case of reference 0; ``l2_sp(1.0, 1.0)``
        pulls scales towards 1. A training step that donates the parameters deletes their arrays:
        where these are the reference too, give a copy, ``jax.tree.map(jnp.copy, params)``. Under
        ``jax.jit`` pass the penalty, or the reference, as an argument: what is only closed over is
        compiled into the program as a constant. With arrays in it a penalty has no hash, and cannot
        be a static argument.

    References:
        Li, Grandvalet and Davoine, Explicit inductive bias for transfer learning with convolutional
        networks, 2018, section 3, arXiv:1802.01483
    """
    return L2SP(**checked_reference(strength, reference, mask, "l2_sp"))

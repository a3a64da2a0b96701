"""The l1 distance to a starting point (L1-SP)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.penalties.base import Penalty
from jaxreg.penalties.reference import ReferencePenalty, ReferenceTerm, checked_reference
from jaxreg.penalties.shrinkage import l1_distance, modulus
from jaxreg.tree import is_complex


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L1SP(ReferencePenalty):
    """See :func:`l1_sp`."""

    kind: ClassVar[str] = "l1_sp"

    def term_value(self, xs: Sequence[Any], term: ReferenceTerm) -> Any:
        return jnp.sum(term.strength * modulus(xs[0] - term.reference))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: ReferenceTerm) -> Sequence[Any]:
        return [_towards(xs[0], term.reference, steps[0] * term.strength)]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: ReferenceTerm
    ) -> Sequence[Any]:
        return [l1_distance(xs[0] - term.reference, grads[0], term.strength)]


def _towards(x: Any, reference: Any, threshold: Any) -> Any:
    """Move x by the threshold towards the reference, and to that itself where it is within reach."""
    away = x - reference
    distance = modulus(away)
    direction = away / jnp.where(away == 0, 1.0, distance) if is_complex(x) else lax.sign(away)
    # Not where the threshold is 0: at step 0 this is the identity, also to differentiation. x itself
    # is moved, not the distance: what is not at the reference is rounded once, never past it.
    arrived = (distance <= threshold) & (threshold > 0)
    return jnp.where(arrived, reference, x - threshold * direction)


def l1_sp(strength: Any, reference: Any, *, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * sum |w - reference|``: most weights stay exactly where they started.

    .. math::
        R(w) = \lambda \sum_i |w_i - r_i|, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \lambda |z - r_i| + \frac{(z - x_i)^2}{2 s_i}
        = r_i + \mathrm{sign}(x_i - r_i) \max(|x_i - r_i| - s_i \lambda, 0)

    Args:
        strength: lambda, in units of loss per unit of weight. A non-negative number, a
            traced scalar, or a pytree prefix of the parameters with one number per leaf.
        reference: r, a pytree like the parameters, such as the pretrained ones: an array of the
            leaf's shape, or a number for all its elements, at or above each leaf that is
            regularised. Other leaves of it are not used. Its arrays may be traced.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static. A new head has no
            reference: leave it out here and give it :func:`jaxreg.l1`.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox
        keeps shapes and dtypes, and is bit for bit the reference where it reaches it. Complex
        weights shrink by the modulus of the difference.

    Raises:
        TypeError: if ``strength`` is not a number or a tree of numbers, or ``reference`` not a
            tree of arrays and numbers.
        ValueError: if ``strength`` is negative, infinite or NaN; when used, for a leaf without a
            reference, a reference without a leaf, and shapes that differ, by path.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> pretrained = {"w": jnp.array([1.0, -1.0, 0.3])}
        >>> penalty = jaxreg.l1_sp(0.5, pretrained)
        >>> params = {"w": jnp.array([2.0, -1.25, 0.5])}
        >>> round(float(penalty(params)), 3)
        0.725
        >>> print(penalty.prox(params, 1.0)["w"])
        [ 1.5 -1.   0.3]

    Notes:
        The gradient of the value is 0 where a weight is at its reference, a valid subgradient.
        The change of the weights is sparse: only what differs from the reference need be stored.
        Through optax's contract, ``params + (prox - params)``, a weight may miss its reference by
        rounding; :func:`jaxreg.step` gives the prox itself. On arrays that are
        donated, closed over or hashed, see :func:`jaxreg.l2_sp`.

    References:
        Li, Grandvalet and Davoine, Explicit inductive bias for transfer learning with convolutional
        networks, 2018, section 3, arXiv:1802.01483. Prox: Parikh and Boyd, Proximal algorithms,
        2014, sections 2.2 and 6.5.2, https://doi.org/10.1561/2400000003
    """
    return L1SP(**checked_reference(strength, reference, mask, "l1_sp"))

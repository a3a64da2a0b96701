"""Soft orthogonality and the spectral restricted isometry property (SRIP)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.penalties.base import Penalty, Term, checked_strength
from jaxreg.penalties.matrix import MatrixPenalty, check_layout, dot
from jaxreg.penalties.shrinkage import group_norm
from jaxreg.penalties.value_only import ValueOnly
from jaxreg.tree import squared_modulus
from jaxreg.views import Cut, View

KINDS = ("soft", "srip")
POWER_STEPS = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Orthogonality(ValueOnly, MatrixPenalty):
    """See :func:`orthogonality`."""

    kind: ClassVar[str] = "orthogonality"
    distance: str = dataclasses.field(metadata={"static": True})

    def matrix_value(self, a: Any) -> Any:
        # The smaller Gram matrix: the other is never the identity.
        tall = a if a.shape[0] >= a.shape[1] else _adjoint(a)
        if self.distance == "srip":
            return _largest_deviation(tall)
        gram = dot(_adjoint(tall), tall)
        return jnp.sum(squared_modulus(gram - jnp.eye(len(gram), dtype=gram.dtype)))

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        slope = jax.grad(lambda x: self.term_value([x], term))(xs[0])
        return [jnp.abs(grads[0] + jnp.conj(slope))]


def _largest_deviation(a: Any) -> Any:
    """The largest singular value of ``a^H a - I``, from below, by power iteration without that matrix."""
    frozen, whole = lax.stop_gradient(a), [View((Cut(a.shape[1], a.shape[1]),))]

    def deviate(a: Any, v: Any) -> Any:
        return dot(_adjoint(a), dot(a, v)) - v

    def turn(_: Any, v: Any) -> Any:
        moved = deviate(frozen, v)
        size = group_norm([moved], whole)
        return jnp.where(size > 0, moved / jnp.where(size > 0, size, 1.0), v)

    # Fixed, and along no eigenvector that a structured matrix may have, as ones would be.
    start = np.random.default_rng(0).standard_normal(a.shape[1])
    start = jnp.asarray(start / np.linalg.norm(start), a.dtype)
    # The vector moves the value in second order only: it is a constant to differentiation.
    v = lax.fori_loop(0, POWER_STEPS, turn, start)
    return jnp.sum(group_norm([deviate(a, v)], whole))


def _adjoint(a: Any) -> Any:
    return jnp.conj(a.T)


def orthogonality(strength: Any, *, kind: str = "soft", layout: str = "flax", mask: Any = None) -> Penalty:
    r"""Penalise how far the columns of each matrix are from orthonormal: well conditioned layers.

    .. math::
        R(w) = \lambda \sum_{\text{leaves}} \lVert W^T W - I \rVert_F^2 \quad (\text{soft}), \qquad
        R(w) = \lambda \sum_{\text{leaves}} \sigma_{\max}(W^T W - I) \quad (\text{srip})

    W is a leaf as a matrix ``(inputs, outputs)``, a convolution's kernel with its space among the inputs,
    transposed where it has more columns than rows. There is no prox: it has no closed form.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        kind: ``"soft"``, all singular values pulled to 1, or ``"srip"``, the worst one. Static.
        layout: where the output axis is, as in :func:`jaxreg.groups.outputs`. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static. A bias is no matrix:
            keep it out with ``jaxreg.masks.weights``.

    Returns:
        A :class:`jaxreg.Penalty` for the loss; its value is a scalar of at least float32. For complex
        weights the transpose is conjugate.

    Raises:
        TypeError: if ``strength`` is not a number or a tree of numbers.
        ValueError: if ``strength`` is negative, infinite or NaN, or ``kind`` or ``layout`` unknown;
            when used, for a leaf with fewer than 2 axes; from ``prox``.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])}
        >>> float(jaxreg.orthogonality(0.5)(params))
        4.5
        >>> round(float(jaxreg.orthogonality(0.5, kind="srip")(params)), 4)
        1.5

    Notes:
        For training put ``jaxreg.add_penalty(penalty)`` before the optimizer. With more columns than rows the
        rows become orthonormal; for ``"soft"`` the other product would differ by a constant. The gradient
        is 0 at a matrix of zeros, where neither kind has anywhere to go: start from random weights.
        ``"srip"`` takes 32 power iterations from a fixed vector, at 2 products of W with a vector each. It
        is a lower bound, within 10 percent where the largest deviations are close to each other,
        and to rounding where one stands out; its gradient is that of the product with the last vector.

    References:
        Bansal, Chen and Wang, Can we gain more from orthogonality regularizations in training deep
        networks?, 2018, sections 3.1 and 3.3, arXiv:1810.09102
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"The 'kind' parameter of orthogonality must be one of 'soft', 'srip'. Got {kind!r}."
        )
    shared = checked_strength(strength, mask, "orthogonality")
    return Orthogonality(**shared, layout=check_layout(layout, "orthogonality"), distance=kind)

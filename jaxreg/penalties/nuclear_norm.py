"""The nuclear norm."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.penalties.base import Penalty, checked_strength
from jaxreg.penalties.matrix import (
    MatrixPenalty,
    check_layout,
    dot,
    frobenius,
    map_singular_values,
    nonzero,
    singular,
    singular_values,
    soften,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NuclearNorm(MatrixPenalty):
    """See :func:`nuclear_norm`."""

    kind: ClassVar[str] = "nuclear_norm"

    def matrix_value(self, a: Any) -> Any:
        return jnp.sum(singular_values(a))

    def matrix_prox(self, a: Any, threshold: Any) -> Any:
        return map_singular_values(soften, a, threshold)

    def matrix_distance(self, a: Any, grad: Any, strength: Any) -> Any:
        # The subdifferential is u v^H, plus any matrix of spectral norm 1 on the null spaces.
        u, s, v = singular(a)
        alive = nonzero(s, a.shape)
        u, v = jnp.where(alive, u, 0.0), jnp.where(alive, v, 0.0)
        left = grad - dot(u, dot(u.conj().T, grad))
        free = left - dot(dot(left, v), v.conj().T)
        excess = jnp.maximum(singular_values(free) - strength, 0.0)
        return frobenius(grad - free + strength * dot(u, v.conj().T), excess)


def nuclear_norm(strength: Any, *, layout: str = "flax", mask: Any = None) -> Penalty:
    r"""Penalise ``strength`` times the sum of singular values: matrices of low rank.

    .. math::
        R(W) = \lambda \lVert W \rVert_* = \lambda \sum_i \sigma_i(W), \qquad
        \mathrm{prox}(X, s) = \operatorname{argmin}_Z \lambda \lVert Z \rVert_* +
        \frac{\lVert Z - X \rVert_F^2}{2 s} = U \max(\Sigma - s \lambda, 0) V^H,
        \quad X = U \Sigma V^H

    A leaf with more than 2 axes is seen as the matrix of its outputs and everything else.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        layout: where the output axis is: ``"flax"`` kernels are ``(..., in, out)``, seen as
            ``(prod(...) * in, out)``; ``"torch"`` and ``"equinox"`` weights are ``(out, in, ...)``,
            seen as ``(out, in * prod(...))``. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static. A bias is no matrix:
            keep it out with ``jaxreg.masks.weights`` or ``jaxreg.masks.min_ndim(2)``.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps shapes
        and dtypes. The prox takes one step size per leaf, not per element.

    Raises:
        TypeError: if ``strength`` is not a number or a tree of numbers.
        ValueError: if ``strength`` is negative, infinite or NaN, or ``layout`` is unknown; when
            used, for a leaf with fewer than 2 axes and for step sizes per element.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.nuclear_norm(1.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, 0.5]])}
        >>> print(penalty(params))
        3.5
        >>> print(penalty.prox(params, 1.0)["kernel"])
        [[2. 0.]
         [0. 0.]]

    Notes:
        The gradient of the value is ``strength * U V^H`` over the singular values that are not 0
        to rounding: the subgradient of least norm, finite and 0 at a zero matrix. Shrunk singular
        values are 0 to the rounding of a matrix product, and the elements of a matrix of low rank
        are not 0: see ``jnp.linalg.matrix_rank``. The prox has first derivatives everywhere, also
        where singular values are equal; second derivatives in the matrix need distinct ones.
        Each value and each prox is a singular value decomposition.

    References:
        Cai, Candes and Shen, A singular value thresholding algorithm for matrix completion, 2010,
        theorem 2.1, https://doi.org/10.1137/080738970. Subgradients: Watson, Characterization of
        the subdifferential of some matrix norms, 1992, https://doi.org/10.1016/0024-3795(92)90407-2
    """
    fields = checked_strength(strength, mask, "nuclear_norm")
    return NuclearNorm(**fields, layout=check_layout(layout, "nuclear_norm"))

"""The spectral norm."""

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
    largest,
    level,
    map_singular_values,
    singular,
    singular_values,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpectralNorm(MatrixPenalty):
    """See :func:`spectral_norm`."""

    kind: ClassVar[str] = "spectral_norm"

    def matrix_value(self, a: Any) -> Any:
        # Their mean, for a gradient that several equal ones share.
        s = singular_values(a)
        top = largest(s, a.shape)
        return jnp.sum(jnp.where(top, s, 0.0)) / jnp.sum(top)

    def matrix_prox(self, a: Any, threshold: Any) -> Any:
        return map_singular_values(level, a, threshold)

    def matrix_distance(self, a: Any, grad: Any, strength: Any) -> Any:
        # The subdifferential is u H v^H over the largest singular value, H >= 0 of trace 1; at a
        # zero matrix, the matrices whose singular values have a sum of at most 1.
        u, s, v = singular(a)
        at_zero = frobenius(level(singular_values(grad), strength)[0])
        top = largest(s, a.shape)
        u, v = jnp.where(top, u, 0.0), jnp.where(top, v, 0.0)
        block = -dot(u.conj().T, dot(grad, v))
        hermitian = (block + block.conj().T) / 2
        # What is outside of the block must not take part in the projection on the simplex.
        outside = 4 * (jnp.max(jnp.abs(block), initial=0.0) * max(a.shape) + strength)
        values = jnp.linalg.eigvalsh(hermitian - jnp.diag(jnp.where(top, 0.0, outside)))[::-1]
        counts = jnp.arange(1, values.shape[0] + 1, dtype=values.dtype)
        height = jnp.max((jnp.cumsum(values) - strength) / counts)
        left = jnp.where(jnp.arange(values.shape[0]) < jnp.sum(top), jnp.minimum(values, height), 0.0)
        elsewhere = grad + dot(u, dot(block, v.conj().T))
        return jnp.where(s[0] > 0, frobenius(elsewhere, block - hermitian, left), at_zero)


def spectral_norm(strength: Any, *, layout: str = "flax", mask: Any = None) -> Penalty:
    r"""Penalise ``strength`` times the largest singular value: maps of a small Lipschitz constant.

    .. math::
        R(W) = \lambda\, \sigma_{\max}(W), \qquad
        \mathrm{prox}(X, s) = \operatorname{argmin}_Z \lambda\, \sigma_{\max}(Z) +
        \frac{\lVert Z - X \rVert_F^2}{2 s} = U \min(\Sigma, \theta) V^H,
        \quad X = U \Sigma V^H

    where :math:`\theta` solves :math:`\sum_i \max(\sigma_i - \theta, 0) = s \lambda`, or is 0 if
    :math:`\sum_i \sigma_i \le s \lambda`: by Moreau's identity what is cut off is the projection
    of the singular values on an l1 ball.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        layout: where the output axis is, and so how a leaf is seen as a matrix: as in
            :func:`jaxreg.nuclear_norm`. Static.
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
        >>> penalty = jaxreg.spectral_norm(1.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, 2.5]])}
        >>> print(penalty(params))
        3.0
        >>> print(penalty.prox(params, 1.0)["kernel"])
        [[2.25 0.  ]
         [0.   2.25]]

    Notes:
        The gradient of the value is ``strength * u v^H`` of the largest singular value, the mean
        over the largest ones where several are equal, and 0 at a zero matrix. The norm is that
        of the linear map ``x -> x W``; a convolution's is only bounded through it.

    References:
        Moreau's identity for a norm, functions of singular values: Parikh and Boyd, Proximal
        algorithms, 2014, sections 6.5 and 6.7, https://doi.org/10.1561/2400000003.
        Subgradients: Watson, Characterization of the subdifferential of some matrix norms, 1992,
        https://doi.org/10.1016/0024-3795(92)90407-2
    """
    fields = checked_strength(strength, mask, "spectral_norm")
    return SpectralNorm(**fields, layout=check_layout(layout, "spectral_norm"))

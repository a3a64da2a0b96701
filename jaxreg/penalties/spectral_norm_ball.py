"""The spectral-norm ball: a bound on the gain of a layer."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.arguments import check_number_tree
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import REMEDY, Piece, TermConstraint, rounding
from jaxreg.penalties.matrix import as_matrix, check_layout, dot, frobenius, map_singular_values, singular
from jaxreg.penalties.steps import require_one_step
from jaxreg.tree import FlatTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpectralNormBall(TermConstraint):
    """See :func:`spectral_norm_ball`."""

    kind: ClassVar[str] = "spectral_norm_ball"
    bounds: ClassVar[tuple[str, ...]] = ("radius",)
    radius: Any
    layout: str = dataclasses.field(metadata={"static": True})

    def check_leaf(self, flat: FlatTree, index: int) -> None:
        shape = np.shape(flat.leaves[index])
        if len(shape) < 2:
            raise ValueError(
                f"spectral_norm_ball is a constraint on matrices. The leaf '{flat.paths[index]}' has shape "
                f"{shape}: keep it out with mask=jaxreg.masks.weights."
            )

    def slack(self, flat: FlatTree, index: int, leaf: Any) -> Any:
        # Rounding in the largest singular value is spread over all elements.
        return rounding(flat.leaves[index]) * frobenius(leaf)

    def term_project(self, xs: Sequence[Any], steps: Sequence[Any], term: Piece) -> Sequence[Any]:
        x, (radius,) = xs[0], term.strength
        require_one_step("projection of spectral_norm_ball", steps, remedy=REMEDY)
        if not x.size:
            return xs
        a = as_matrix(x, self.layout)
        nearest = map_singular_values(_clipped, a, radius)
        outside = singular(lax.stop_gradient(a))[1][0] > radius
        # A product of factors would round the zeros of dead rows and columns, and what is inside.
        # Zeros are taken away from themselves, since they have a derivative.
        used = jnp.any(a != 0, axis=0) & jnp.any(a != 0, axis=1, keepdims=True)
        nearest = nearest - lax.stop_gradient(jnp.where(used, 0.0, nearest))
        return [jnp.where(outside, nearest.reshape(x.shape), x)]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Piece
    ) -> Sequence[Any]:
        x, (radius,) = xs[0], term.strength
        if not x.size:
            return xs
        pull = as_matrix(-grads[0], self.layout)
        u, s, v = singular(as_matrix(x, self.layout))
        # The normal cone: U S V^H over the singular vectors at the edge, S positive semidefinite.
        edge = s >= radius * (1 - term.rounding)
        u, v = jnp.where(edge, u, 0.0), jnp.where(edge, v, 0.0)
        inside = dot(jnp.conj(u.T), dot(pull, v))
        values, vectors = jnp.linalg.eigh((inside + jnp.conj(inside.T)) / 2)
        cone = dot(vectors * jnp.maximum(values, 0.0), jnp.conj(vectors.T))
        distance = frobenius(pull - dot(u, dot(cone, jnp.conj(v.T))))
        # A single point has all of space as its normal cone.
        return [jnp.broadcast_to(jnp.where(jnp.asarray(radius) == 0, 0.0, distance), x.shape)]


def _clipped(s: Any, radius: Any) -> tuple[Any, Any]:
    return jnp.where(s > radius, radius, s), s <= radius


def spectral_norm_ball(radius: Any, *, layout: str = "flax", mask: Any = None) -> Penalty:
    r"""Keep the largest singular value of each kernel, seen as a matrix, at or below ``radius``.

    .. math::
        R(W) = \begin{cases} 0 & \sigma_1(W) \le r \\ \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(X, s) = \operatorname{argmin}_{\sigma_1(Z) \le r} \frac{\lVert Z - X \rVert_F^2}{2 s}
        = U \min(\Sigma, r) V^H, \quad X = U \Sigma V^H

    A dense layer with such a kernel is Lipschitz with constant r.

    Args:
        radius: r, in units of a weight. A non-negative number, a traced scalar, or a pytree prefix of
            the parameters with one number per leaf.
        layout: ``"flax"`` kernels ``(..., in, out)`` are matrices of ``prod(..., in)`` rows;
            ``"torch"`` and ``"equinox"`` weights ``(out, in, ...)`` of ``out`` rows. Static.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection, which takes one step size per leaf, not per element.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``radius`` is negative, infinite or NaN, or ``layout`` unknown; when used, for a
            leaf with fewer than 2 axes, or with a step size per element.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> constraint = jaxreg.spectral_norm_ball(1.0)
        >>> print(constraint.prox({"kernel": jnp.diag(jnp.array([3.0, 0.5]))}, 0.1)["kernel"].round(6))
        [[1.  0. ]
         [0.  0.5]]

    Notes:
        Each projection computes a singular value decomposition. For a convolution this bounds the
        matrix of its kernel, not the operator on images. Where singular values are equal the derivative
        of the prox has no gap to divide by. The value has gradient 0: use the prox, last in a chain,
        through :func:`jaxreg.proximal`, or in :func:`jaxreg.prox_sgd`.

    References:
        Yoshida and Miyato, Spectral norm regularization for improving the generalizability of deep
        learning, 2017, arXiv:1705.10941. Projection: Parikh and Boyd, Proximal algorithms, 2014,
        section 6.7, https://doi.org/10.1561/2400000003
    """
    return SpectralNormBall(
        as_mask(mask),
        check_number_tree(radius, "radius", "spectral_norm_ball"),
        check_layout(layout, "spectral_norm_ball"),
    )

"""Penalties on the singular values of a leaf that is seen as a matrix."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.penalties.base import Term, TermPenalty
from jaxreg.penalties.steps import require_one_step
from jaxreg.tree import FlatTree

_LAYOUTS = {"flax": "flax", "torch": "torch", "equinox": "torch"}

Shrink = Callable[[Any, Any], tuple[Any, Any]]
"""Descending singular values and a threshold to new values, and the slope (0 or 1) at each."""


@dataclasses.dataclass(frozen=True)
class MatrixPenalty(TermPenalty):
    """A function of singular values; a subclass gives the value, prox and distance of a matrix."""

    layout: str = dataclasses.field(metadata={"static": True})

    def matrix_value(self, a: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define matrix_value().")  # the subclass's duty

    def matrix_prox(self, a: Any, threshold: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define matrix_prox().")  # the subclass's duty

    def matrix_distance(self, a: Any, grad: Any, strength: Any) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} must define matrix_distance()."
        )  # the subclass's duty

    def _terms(self, flat: FlatTree) -> list[Term]:
        terms = super()._terms(flat)
        for term in terms:
            _require_matrix(term.indices[0], flat, self.kind)
        return [term for term in terms if np.size(flat.leaves[term.indices[0]])]

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return term.strength * self.matrix_value(as_matrix(xs[0], self.layout))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        x, step = xs[0], jnp.asarray(steps[0])
        require_one_step(f"prox of {self.kind}", steps)
        shrunk = self.matrix_prox(as_matrix(x, self.layout), steps[0] * term.strength)
        # At step 0 the input itself, which a product of factors would round.
        return [jnp.where(step > 0, shrunk.reshape(x.shape), x)]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        a, grad = (as_matrix(array, self.layout) for array in (xs[0], grads[0]))
        return [jnp.broadcast_to(self.matrix_distance(a, grad, term.strength), xs[0].shape)]


def check_layout(layout: Any, owner: str) -> str:
    if not isinstance(layout, str) or layout not in _LAYOUTS:
        raise ValueError(
            f"The 'layout' parameter of {owner} must be one of 'flax', 'torch', 'equinox'. Got {layout!r}."
        )
    return _LAYOUTS[layout]


def _require_matrix(index: int, flat: FlatTree, owner: str) -> None:
    shape = np.shape(flat.leaves[index])
    if len(shape) < 2:
        raise ValueError(
            f"{owner} is of matrices: it needs at least 2 axes. The leaf '{flat.paths[index]}' has shape "
            f"{shape}. Keep it out of the penalty with mask=jaxreg.masks.weights."
        )


def as_matrix(x: Any, layout: str) -> Any:
    """(inputs, outputs) of a kernel ``(..., in, out)``; (outputs, inputs) of a weight ``(out, in, ...)``."""
    if layout == "flax":
        return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def soften(s: Any, threshold: Any) -> tuple[Any, Any]:
    """Soft threshold: the prox of the sum of singular values."""
    return jnp.maximum(s - threshold, 0.0), s >= threshold


def level(s: Any, threshold: Any) -> tuple[Any, Any]:
    """Cut the largest ones down by ``threshold`` in all: the prox of the largest singular value."""
    # Of all numbers of values to cut, the right one gives the highest level. lax's own reductions
    # keep weak types, which jnp's do not.
    heights = (lax.cumsum(s) - threshold) / lax.cumsum(jnp.ones_like(s))
    height = lax.reduce_max(heights, (0,))
    height = jnp.where(height <= 0, 0.0, height)
    return jnp.where(s < height, s, height), s < height


def singular(a: Any) -> tuple[Any, Any, Any]:
    """Thin factors ``u, s, v`` with ``a = (u * s) @ v^H``, also for entries near the ends of the range."""
    largest = lax.stop_gradient(lax.reduce_max(jnp.abs(a), (0, 1)))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    u, s, vh = jnp.linalg.svd(a / scale, full_matrices=False)
    return u, s * scale, _adjoint(vh)


def nonzero(s: Any, shape: tuple[int, ...]) -> Any:
    """Which singular values are not 0 to rounding."""
    return s > jnp.finfo(s.dtype).eps * max(shape) * s[0]


def largest(s: Any, shape: tuple[int, ...]) -> Any:
    """Which singular values are the largest one to rounding."""
    return s >= s[0] * (1 - jnp.finfo(s.dtype).eps * max(shape))


@jax.custom_jvp
def singular_values(a: Any) -> Any:
    return singular(a)[1]


@singular_values.defjvp
def _singular_values_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    # Re u_i^H da v_i has no gap between singular values to divide by. At a singular value of 0,
    # where there is a range of subgradients, 0 is the one of least norm.
    (a,), (da,) = primals, tangents
    u, s, v = singular(a)
    change = jnp.sum(jnp.real(jnp.conj(u) * dot(da, v)), axis=0)
    return s, jnp.where(nonzero(s, a.shape), change, 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def map_singular_values(shrink: Shrink, a: Any, threshold: Any) -> Any:
    """The matrix with its singular values shrunk."""
    u, s, v = singular(a)
    return dot(u * shrink(s, threshold)[0], _adjoint(v))


@map_singular_values.defjvp
def _map_singular_values_jvp(shrink: Shrink, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # In the basis of the singular vectors the derivative multiplies the Hermitian part of the
    # change by (f_i - f_j) / (s_i - s_j) and the other part by (f_i + f_j) / (s_i + s_j). Where
    # both slopes are the same the first is that slope: no division by a gap that may be zero.
    (a, threshold), (da, dthreshold) = primals, tangents
    u, s, v = singular(a)
    inside = dot(_adjoint(u), dot(da, v))
    hermitian, other = (inside + _adjoint(inside)) / 2, (inside - _adjoint(inside)) / 2
    along = (jnp.real(jnp.diagonal(inside)), jnp.asarray(dthreshold, s.dtype))
    _, df = jax.jvp(lambda s, t: shrink(s, t)[0], (s, jnp.asarray(threshold, s.dtype)), along)
    f, slopes = shrink(s, threshold)
    slopes = slopes.astype(s.dtype)
    alike = slopes[:, None] == slopes[None, :]
    gap = jnp.where(alike, 1.0, s[:, None] - s[None, :])
    near = jnp.where(alike, slopes[:, None], (f[:, None] - f[None, :]) / gap)
    total = s[:, None] + s[None, :]
    far = jnp.where(total > 0, (f[:, None] + f[None, :]) / jnp.where(total > 0, total, 1.0), slopes)
    near = near * (1 - jnp.eye(s.shape[0], dtype=s.dtype))
    out = dot(dot(u, near * hermitian + far * other + jnp.diag(df)), _adjoint(v))
    ratio = jnp.where(s > 0, f / jnp.where(s > 0, s, 1.0), slopes)
    if a.shape[0] > s.shape[0]:
        out = out + dot((dot(da, v) - dot(u, inside)) * ratio, _adjoint(v))
    if a.shape[1] > s.shape[0]:
        out = out + dot(u * ratio, dot(_adjoint(u), da) - dot(inside, _adjoint(v)))
    return dot(u * f, _adjoint(v)), out


def dot(a: Any, b: Any) -> Any:
    """A matrix product in full precision on every device."""
    return jnp.matmul(a, b, precision="highest")


def frobenius(*parts: Any) -> Any:
    """The norm of several arrays together, without overflow or underflow."""
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(part), initial=0.0) for part in parts])
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return scale * jnp.sqrt(sum(jnp.sum(jnp.abs(part / scale) ** 2) for part in parts))


def _adjoint(a: Any) -> Any:
    return jnp.conj(a.T)

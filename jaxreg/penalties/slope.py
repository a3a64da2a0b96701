"""The sorted l1 norm: SLOPE."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty, Term, TermPenalty
from jaxreg.penalties.shrinkage import modulus
from jaxreg.penalties.steps import require_one_step
from jaxreg.tree import FlatTree, as_real, is_complex, spread


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slope(TermPenalty):
    """See :func:`slope`. Its strength is the vector of weights."""

    kind: ClassVar[str] = "slope"
    order: ClassVar[int] = -1

    def _terms(self, flat: FlatTree) -> list[Term]:
        selected = self.mask.indices(flat)
        weights = spread(self.strength, flat, "weights", selected)
        for index in selected:
            shape, size = np.shape(flat.leaves[index]), np.size(flat.leaves[index])
            if np.shape(weights[index]) != (size,):
                raise ValueError(
                    f"The 'weights' parameter of slope must have one weight for each element. The leaf "
                    f"'{flat.paths[index]}' of shape {shape} needs shape ({size},). "
                    f"Got shape {np.shape(weights[index])}."
                )
        return [Term((i,), (), as_real(weights[i], flat.leaves[i])) for i in selected if flat.leaves[i].size]

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return jnp.sum(term.strength * -jnp.sort(-modulus(xs[0]).ravel()))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        x, step = xs[0], jnp.asarray(steps[0])
        require_one_step("prox of slope", steps, why="it is no isotonic regression")
        size = modulus(x)
        order = jnp.argsort(-size.ravel())
        fit = isotonic(size.ravel()[order] - steps[0] * term.strength, jnp.zeros(size.size - 1, bool))
        small = jnp.zeros_like(fit).at[order].set(jnp.maximum(fit, 0.0)).reshape(x.shape)
        direction = x / jnp.where(size > 0, size, 1.0) if is_complex(x) else jnp.sign(x)
        # At step 0 the input itself, also to differentiation.
        return [jnp.where(step > 0, jnp.where(jnp.isnan(x), x, direction * small), x)]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        # Elements of equal modulus share their weights in any mixture of orders. What the nearest
        # mixture leaves of their pulls is an isotonic regression inside each tie.
        x, grad = xs[0], grads[0]
        size = modulus(x).ravel()
        turned = (jnp.conj(x / jnp.where(modulus(x) > 0, modulus(x), 1.0)) * grad).ravel()
        pull = jnp.where(size > 0, -jnp.real(turned), jnp.abs(grad).ravel())
        coarse = _ties(size)
        order = jnp.lexsort((-pull, coarse))
        borders = jnp.diff(coarse[order]) != 0
        left = isotonic(pull[order] - (term.strength + soft[0]), borders)
        left = jnp.where(size[order] > 0, jnp.abs(left), jnp.maximum(left, 0.0))
        left = jnp.zeros_like(left).at[order].set(left)
        across = jnp.where(size > 0, jnp.imag(turned), 0.0) if is_complex(x) else jnp.zeros_like(left)
        return [jnp.hypot(left, across).reshape(x.shape)]


def _ties(size: Any) -> Any:
    """A number for each tie of moduli, counted from the largest."""
    order = jnp.argsort(-size)
    ranked = size[order]
    lower = ranked[1:] < ranked[:-1] * (1 - 4 * jnp.finfo(size.dtype).eps)
    ranks = jnp.pad(jnp.cumsum(lower.astype(jnp.int32)), (1, 0))
    return jnp.zeros_like(order).at[order].set(ranks)


@jax.jit  # an eager loop would be compiled anew at each call
def isotonic(values: Any, borders: Any) -> Any:
    """The nearest sequence to ``values`` that never rises, inside each run between borders."""
    blocks = _blocks(lax.stop_gradient(values), borders)
    # The sums about the first value of each block, which are rounded little, and which can be
    # differentiated any number of times.
    count = values.shape[0]
    first = jax.ops.segment_min(jnp.arange(count), blocks, count)
    base = lax.stop_gradient(values)[jnp.minimum(first, count - 1)]
    sizes = jax.ops.segment_sum(jnp.ones_like(values), blocks, count)
    rest = jax.ops.segment_sum(values - base[blocks], blocks, count)
    return (base + rest / jnp.maximum(sizes, 1.0))[blocks]


def _blocks(values: Any, borders: Any) -> Any:
    """The number of the block of each element, by pooling adjacent violators.

    A stack of blocks; each round either takes the next element or merges the last two blocks,
    so that twice as many rounds as elements are enough.
    """
    count = values.shape[0]
    begins = jnp.pad(borders, (1, 0), constant_values=True)

    def advance(_: Any, carry: Any) -> Any:
        taken, top, means, sizes, starts = carry
        last, before = jnp.maximum(top - 1, 0), jnp.maximum(top - 2, 0)
        merges = (top > 1) & (means[last] >= means[before]) & ~begins[starts[last]]
        takes = ~merges & (taken < count)
        here = jnp.minimum(taken, count - 1)
        size = jnp.where(merges, sizes[before] + sizes[last], 1.0)
        pooled = means[before] + (means[last] - means[before]) * (sizes[last] / size)
        place = jnp.where(merges, before, jnp.where(takes, top, count))
        means = means.at[place].set(jnp.where(merges, pooled, values[here]))
        sizes = sizes.at[place].set(size)
        starts = starts.at[place].set(jnp.where(merges, starts[before], here))
        return taken + takes, top + jnp.where(merges, -1, jnp.where(takes, 1, 0)), means, sizes, starts

    zero = jnp.zeros((), jnp.int32)
    room = jnp.zeros(count + 1, values.dtype)
    carry = (zero, zero, room, room, jnp.zeros(count + 1, jnp.int32))
    _, top, _, _, starts = lax.fori_loop(0, 2 * count, advance, carry)
    opens = jnp.zeros(count + 1, jnp.int32)
    opens = opens.at[jnp.where(jnp.arange(count + 1) < top, starts, count)].set(1)
    return jnp.cumsum(opens[:count]) - 1


def slope(weights: Any, *, mask: Any = None) -> Penalty:
    r"""Penalise sorted moduli, the largest the most: sparse, with clusters of equal weights.

    .. math::
        R(w) = \sum_i \lambda_i |w|_{(i)}, \quad |w|_{(1)} \ge |w|_{(2)} \ge \dots, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - x_i)^2}{2 s}

    The prox sorts the moduli, takes :math:`s \lambda` away, and makes the result non-increasing
    and non-negative by isotonic regression, which pools adjacent violators.

    Args:
        weights: lambda, in units of loss per unit of weight: a vector of non-negative, non-increasing
            numbers, as long as the leaf has elements; or a pytree prefix of the parameters with one
            vector per leaf. May be traced; the order is then taken on trust. Equal weights are
            :func:`jaxreg.l1`; linear ones are OSCAR.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps
        shapes and dtypes. The prox takes one step size per leaf, not per element. Complex weights
        shrink by modulus.

    Raises:
        TypeError: if ``weights`` are not arrays of real numbers.
        ValueError: if they are negative, infinite, NaN or rise; when used, for a leaf with another
            number of elements and for step sizes per element.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.slope(jnp.array([3.0, 1.0, 1.0]))
        >>> params = {"w": jnp.array([5.0, -4.0, 0.5])}
        >>> print(penalty(params))
        19.5
        >>> print(penalty.prox(params, 1.0)["w"])
        [ 2.5 -2.5  0. ]

    Notes:
        The gradient of the value at an exact zero is 0. The prox is one sort and a loop over the
        elements: made for coefficients, not for layers of millions of weights.

    References:
        Bogdan, van den Berg, Sabatti, Su and Candes, SLOPE: adaptive variable selection via convex
        optimization, 2015, equation 1.4 and algorithm 3, https://doi.org/10.1214/15-AOAS842
    """
    if isinstance(weights, list | tuple) or not jax.tree.leaves(weights):
        raise TypeError(
            "The 'weights' parameter of slope must be a vector (an array), or a tree of vectors. "
            f"Got {weights!r}."
        )
    return Slope(strength=jax.tree.map(_checked_weights, weights), mask=as_mask(mask))


def _checked_weights(weights: Any) -> Any:
    shape = getattr(weights, "shape", None)
    kinds = (np.floating, np.integer)
    if shape is None or not any(jnp.issubdtype(weights.dtype, kind) for kind in kinds):
        raise TypeError(
            "The 'weights' parameter of slope must be a vector of real numbers, or a tree of vectors. "
            f"Got {weights!r} of type {type(weights).__name__}."
        )
    if len(shape) != 1:
        raise ValueError(f"The 'weights' parameter of slope must be a vector. Got shape {shape}.")
    if not isinstance(weights, Tracer):
        values = np.asarray(weights, np.float64)
        wrong = ~np.isfinite(values) | (values < 0)
        wrong[1:] |= np.diff(values) > 0
        if wrong.any():
            raise ValueError(
                "The 'weights' parameter of slope must be non-negative numbers that never rise. "
                f"Got {values[wrong][0]} at index {int(np.flatnonzero(wrong)[0])}."
            )
    return jnp.asarray(weights, jnp.result_type(weights, jnp.float32))

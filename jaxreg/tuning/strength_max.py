"""The strength from which on all weights are zero, where a regularization path begins."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxreg.penalties import Penalty
from jaxreg.penalties.constraint import Constraint
from jaxreg.penalties.protected import Protected
from jaxreg.transforms.strength_one import at_strength_one
from jaxreg.tree import PyTree, flatten, is_inexact, real_dtype

WORDS = {4: jnp.int32, 8: jnp.int64}


def strength_max(penalty: Penalty, grads: PyTree) -> jax.Array:
    r"""Find the smallest strength at which all weights that the penalty reaches stay zero.

    .. math::
        \lambda_{\max} = \min \{ \lambda \ge 0 : -\nabla f(0) \in \partial R_\lambda(0) \}

    It is ``max |g|`` for l1, ``max |g| / l1_ratio`` for the elastic net,
    :math:`\max_g \lVert \nabla_g \rVert / \sqrt{|g|}` for the group lasso, the largest singular value for
    the nuclear norm; found for any penalty by bisection on ``penalty.scale(factor).optimality``, to
    neighbouring floats. A path of strengths starts here and goes down.

    Args:
        penalty: a :class:`jaxreg.Penalty` for which such a strength exists. Its own strength
            does not matter where that is one number.
        grads: gradients of the loss, without the penalty, where the leaves that the penalty
            reaches are zero and the others, an intercept say, are at their optimum. A pytree like the
            parameters.

    Returns:
        A scalar of at least float32. A strength, where the penalty has one number for it; for a
        sum, slope, or one strength per leaf, the factor f of ``penalty.scale(f)``. If all gradients are
        zero it is 0. It can be jitted and mapped, over gradients and penalties; it is not
        differentiable.

    Raises:
        TypeError: if ``penalty`` is not a penalty.
        ValueError: where no such strength exists: for smooth penalties (l2, huber), a reference
            that is not 0 and total variation no strength makes all weights zero, for l0 and its
            like any strength does, constraints have none. Under ``jax.jit`` the first give
            infinity and the second 0.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> x = jax.random.normal(jax.random.key(0), (50, 4))
        >>> y = x @ jnp.array([1.0, 0.0, -2.0, 0.0])
        >>> grads = jax.grad(lambda w: jnp.mean((x @ w - y) ** 2) / 2)(jnp.zeros(4))
        >>> largest = jaxreg.strength_max(jaxreg.l1(1.0), grads)
        >>> bool(largest == jnp.max(jnp.abs(grads)))
        True
        >>> strengths = jnp.geomspace(largest, largest / 100, 10)

    Notes:
        For a convex loss and penalty, zero weights are a minimiser from this strength on. For MCP, SCAD,
        log-sum and capped l1 they are stationary, which is where a path from zero leaves them.

    References:
        Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
        coordinate descent, 2010, section 2.5, https://doi.org/10.18637/jss.v033.i01
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(f"The 'penalty' parameter of strength_max must be a penalty. Got {penalty!r}.")
    inner = penalty.penalty if isinstance(penalty, Protected) else penalty
    if isinstance(inner, Constraint):
        raise ValueError(f"{inner.kind} is a constraint: it has no strength, and no largest one.")
    flat = flatten(grads)
    if not flat.has_floating:
        raise ValueError(
            f"The 'grads' parameter of strength_max must hold arrays of floating numbers. Got {grads!r}."
        )
    slopes = flat.rebuild([leaf if is_inexact(leaf) else None for leaf in flat.leaves])
    found, still = _search(at_strength_one(penalty), slopes)
    if not isinstance(found, Tracer):
        _refuse_none(found, still, penalty, slopes)
    return found


@jax.jit
def _search(unit: Penalty, grads: PyTree) -> tuple[jax.Array, jax.Array]:
    """The smallest factor that holds, and whether all gradients at the penalised leaves are zero."""
    flat = flatten(grads)
    touched = unit.touched(flat)
    zeros = flat.rebuild([None if leaf is None else jnp.zeros_like(leaf) for leaf in flat.leaves])
    dtype = jnp.result_type(jnp.float32, *(real_dtype(flat.leaves[index]) for index in touched))

    def held(factor: Any) -> Any:
        distances = flatten(unit.scale(factor).optimality(zeros, grads)).leaves
        # Not its opposite: a NaN is not held.
        return jnp.all(jnp.stack([jnp.all(distances[index] <= 0) for index in touched]))

    still = jnp.all(jnp.stack([jnp.all(flat.leaves[index] == 0) for index in touched]))
    return _smallest(held, dtype), still


def _top(dtype: Any) -> float:
    # The largest factor tried: with room to the largest float, for a strength and a size weight.
    return 2.0 ** (jnp.finfo(dtype).maxexp * 3 // 4)


def _smallest(holds: Any, dtype: Any) -> jax.Array:
    """The smallest float that holds, from one on from which all do; infinity where none does.

    The bits of floats of one sign, read as an integer, are in their order: bisection on those
    takes as many halvings as a float has bits, and ends at neighbours.
    """
    word = WORDS[jnp.dtype(dtype).itemsize]
    top = lax.bitcast_convert_type(jnp.asarray(_top(dtype), dtype), word)

    def value(bits: Any) -> Any:
        return lax.bitcast_convert_type(bits, dtype)

    def halve(_: Any, ends: Any) -> Any:
        low, high = ends
        middle = low + (high - low) // 2
        good = holds(value(middle))
        return jnp.where(good, low, middle + 1), jnp.where(good, middle, high)

    start = jnp.zeros((), word), top
    _, high = lax.fori_loop(0, jnp.finfo(dtype).bits - 1, halve, start)
    # Asked at the top, not at the result: what is rounded may be so differently a second time.
    return jnp.where(holds(value(top)), value(high), jnp.inf)


def _refuse_none(found: jax.Array, still: jax.Array, penalty: Penalty, grads: PyTree) -> None:
    if any(jnp.any(jnp.isnan(leaf)) for leaf in jax.tree.leaves(grads)):
        raise ValueError("The 'grads' parameter of strength_max must hold numbers. Got NaN.")
    if jnp.isinf(found):
        raise ValueError(
            f"No strength of {penalty.kind} makes all weights zero at these gradients. strength_max exists "
            "for penalties that are not smooth at zero weights, such as l1 and group_lasso."
        )
    if found <= jnp.finfo(found.dtype).tiny and not still:
        raise ValueError(
            f"Any strength of {penalty.kind} keeps zero weights zero: there is no smallest one to start from."
        )

"""Total variation along the lines of an array: its value, its exact prox and its subdifferential."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.penalties.base import Term, TermPenalty
from jaxreg.penalties.shrinkage import modulus
from jaxreg.penalties.steps import require_one_step
from jaxreg.tree import FlatTree, is_complex


@dataclasses.dataclass(frozen=True)
class LinePenalty(TermPenalty):
    """A penalty on the lines of each leaf along its axes; a subclass gives the prox of a leaf."""

    axis: int | tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def axes(self) -> tuple[int, ...]:
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    def line_prox(self, x: Any, step: Any, term: Term) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define line_prox().")  # the subclass's duty

    def _terms(self, flat: FlatTree) -> list[Term]:
        terms = super()._terms(flat)
        for term in terms:
            _require_lines(term.indices[0], self.axes, flat, self.kind)
        return [term for term in terms if np.size(flat.leaves[term.indices[0]])]

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        step = jnp.asarray(steps[0])
        require_one_step(f"prox of {self.kind}", steps, why="pieces are no means")
        # At step 0 the input itself, also to differentiation.
        return [jnp.where(step > 0, self.line_prox(xs[0], steps[0], term), xs[0])]


def variation(x: Any, axis: int) -> Any:
    """``sum |x_{i+1} - x_i|`` along an axis; its gradient is that of ``|.|``, 0 at equal neighbours."""
    return jnp.sum(modulus(jnp.diff(x, axis=axis)))


def denoise(x: Any, axis: int, threshold: Any) -> Any:
    """argmin_z sum_i threshold |z_{i+1} - z_i| + ||z - x||^2 / 2 on each line along an axis.

    With one threshold, or one for each border between neighbours.
    """
    if x.shape[axis] == 1:
        return x
    rows, borders = _rows(x, axis), jnp.asarray(threshold)
    borders = _rows(borders, axis) if borders.ndim else borders
    borders = jnp.broadcast_to(borders, (rows.shape[0], rows.shape[1] - 1))
    return _unrows(_solve(rows, borders), x.shape, axis)


def distances(x: Any, axis: int, grad: Any, threshold: Any, soft: Any) -> Any:
    """Of ``-grad`` to the subdifferential of ``threshold variation(x) + soft sum |x|``, per element.

    The subgradient of least distance is what a denoising of ``-grad`` inside the constant
    pieces of x leaves: the dual of that problem is this one.
    """
    rows, slopes = _rows(x, axis), -_rows(grad, axis)
    jumps = jnp.sign(jnp.diff(rows, axis=1))
    pulled = slopes + ends(threshold * jumps) - soft * jnp.sign(rows)
    left = jnp.abs(_solve(pulled, jnp.where(jumps == 0, threshold, 0.0)))
    return _unrows(jnp.where(rows == 0, jnp.maximum(left - soft, 0.0), left), x.shape, axis)


def check_axis(axis: Any, owner: str) -> int:
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"The 'axis' parameter of {owner} must be an integer. Got {axis!r}.")
    return int(axis)


def check_axes(axis: Any, owner: str) -> int | tuple[int, ...]:
    """One axis or a tuple of several, which must be different ones."""
    if not isinstance(axis, tuple | list):
        return check_axis(axis, owner)
    axes = tuple(check_axis(one, owner) for one in axis)
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(f"The 'axis' parameter of {owner} must name different axes. Got {axis!r}.")
    return axes


def _require_lines(index: int, axes: tuple[int, ...], flat: FlatTree, owner: str) -> None:
    leaf, path = flat.leaves[index], flat.paths[index]
    if is_complex(leaf):
        raise ValueError(
            f"{owner} is of real numbers. The leaf '{path}' is complex: keep it out of the penalty's mask."
        )
    for axis in axes:
        if not -np.ndim(leaf) <= axis < np.ndim(leaf):
            raise ValueError(
                f"{owner} along axis {axis} needs that axis. The leaf '{path}' has shape {np.shape(leaf)}: "
                "keep it out of the penalty's mask."
            )
    if len({axis % np.ndim(leaf) for axis in axes}) < len(axes):
        raise ValueError(
            f"{owner} along the axes {axes} needs different ones. The leaf '{path}' has shape "
            f"{np.shape(leaf)}, of which they name one twice: count them all from the same end, or keep it "
            "out of the penalty's mask."
        )


def _rows(x: Any, axis: int) -> Any:
    moved = jnp.moveaxis(x, axis, -1)
    return moved if moved.ndim == 2 else moved.reshape(-1, moved.shape[-1])


def _unrows(rows: Any, shape: tuple[int, ...], axis: int) -> Any:
    moved = list(shape)
    moved.append(moved.pop(axis))
    return jnp.moveaxis(rows if len(moved) == 2 else rows.reshape(moved), -1, axis)


def ends(pulls: Any, axis: int = -1) -> Any:
    """What pulls at borders, towards higher indices, do to the elements on both sides."""
    after, before = ([(0, 0)] * pulls.ndim for _ in range(2))
    after[axis], before[axis] = (0, 1), (1, 0)
    return jnp.pad(pulls, after) - jnp.pad(pulls, before)


@jax.jit  # eager scans and loops would be compiled piece by piece, and anew at each call
def _solve(rows: Any, thresholds: Any) -> Any:
    """The denoised rows, for a threshold at each border between neighbours."""
    if rows.shape[1] == 1:
        return rows
    levels, jumps = _pieces(lax.stop_gradient(rows), lax.stop_gradient(thresholds))
    # A piece is the mean of its elements and of what pulls at its ends. Taken as a change of
    # the level that was found, it is rounded little, and it can be differentiated.
    return levels + _mean_of_pieces(rows - levels + ends(thresholds * jumps), jumps)


def _pieces(rows: Any, thresholds: Any) -> tuple[Any, Any]:
    """The solution to rounding, and the signs of its jumps (0 inside a constant piece).

    Every piece is cut at its mean: into where the solution lies above and where not, as long as
    that makes new pieces. A piece whose solution is not constant is always cut, as the mean of
    its solution is that mean, so that there are at most as many rounds as elements; their number
    is usually the logarithm of that of the pieces.
    """

    def split(carry: Any) -> Any:
        count, jumps, _, _ = carry
        levels = _mean_of_pieces(rows + ends(thresholds * jumps), jumps)
        above = _above(levels, rows, thresholds, jumps)
        cuts = jnp.where(jumps == 0, above[:, 1:] - above[:, :-1], 0.0)
        return count + 1, jumps + cuts, levels, jnp.any(cuts != 0)

    def unsettled(carry: Any) -> Any:
        count, _, _, moving = carry
        return moving & (count < rows.shape[1])

    # Made from the rows, so that all parts vary over a mesh of devices as the rows do.
    real = rows == rows
    whole = jnp.where(real[:, 1:], 0.0, 0.0 * thresholds)
    _, jumps, levels, _ = lax.while_loop(unsettled, split, (0, whole, rows, jnp.any(real)))
    return levels, jumps


def _above(levels: Any, rows: Any, thresholds: Any, jumps: Any) -> Any:
    """Where the solution lies above a level, the same in each piece: 1 or 0.

    By dynamic programming. With f_i(z) the least cost of the elements up to i if the i-th is z,
    the (i+1)-th element sees the derivative of f_i cut off at minus and plus the threshold (at
    the end of a piece: at the threshold, with the sign of the jump), and the i-th is the (i+1)-th
    clipped to where these cuts are. At a fixed level the first is a chain of clipped sums, the
    second a chain of conditions; both are scanned in parallel.
    """
    end = [(0, 0), (0, 1)]
    low = jnp.pad(jnp.where(jumps == 0, -thresholds, thresholds * jumps), end)
    high = jnp.pad(jnp.where(jumps == 0, thresholds, thresholds * jumps), end)
    slopes = levels - rows

    def then(first: Any, second: Any) -> Any:
        (add, bottom, top), (later, floor, ceiling) = first, second
        return add + later, *(jnp.clip(b + later, floor, ceiling) for b in (bottom, top))

    chain = _scan(then, (slopes, low, high), (0.0, -jnp.inf, jnp.inf))
    seen = jnp.clip(*chain)
    derivative = slopes + jnp.pad(seen[:, :-1], [(0, 0), (1, 0)])

    def before(later: Any, here: Any) -> Any:
        (always, maybe), (surely, perhaps) = later, here
        return surely | (always & perhaps), surely | (maybe & perhaps)

    surely, perhaps = derivative < low, derivative < high
    above, _ = _scan(before, (surely, surely | perhaps), (False, True), backwards=True)
    return above.astype(rows.dtype)


def _mean_of_pieces(rows: Any, jumps: Any) -> Any:
    """The mean of each piece at its elements, the same to the last bit at all of them."""
    borders = jnp.pad(jumps != 0, [(0, 0), (1, 1)], constant_values=True)

    def add(left: Any, right: Any) -> Any:
        (total, size, begins), (more, extra, anew) = left, right
        return jnp.where(anew, more, total + more), jnp.where(anew, extra, size + extra), begins | anew

    def keep(later: Any, here: Any) -> Any:
        (value, ends), (own, ended) = later, here
        return jnp.where(ended, own, value), ends | ended

    totals, sizes, _ = _scan(add, (rows, jnp.ones_like(rows), borders[:, :-1]), (0.0, 0.0, False))
    means, _ = _scan(keep, (totals / sizes, borders[:, 1:]), (0.0, False), backwards=True)
    return means


def _scan(combine: Any, arrays: tuple[Any, ...], neutral: tuple[Any, ...], backwards: bool = False) -> Any:
    """All sums, in the sense of an associative ``combine``, of the columns up to each one.

    By doubling the reach: more work than ``lax.associative_scan``, which for long lines takes
    minutes to compile.
    """
    length = arrays[0].shape[1]

    def double(k: Any, reached: tuple[Any, ...]) -> tuple[Any, ...]:
        far = jnp.left_shift(1, k)
        begin = far if backwards else length - far
        widths = [(0, 0), (0, length) if backwards else (length, 0)]
        padded = [jnp.pad(x, widths, constant_values=c) for x, c in zip(reached, neutral, strict=True)]
        return combine(tuple(lax.dynamic_slice_in_dim(x, begin, length, 1) for x in padded), reached)

    return lax.fori_loop(0, (length - 1).bit_length(), double, arrays)

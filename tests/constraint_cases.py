"""The constraints that are run through all laws: one joins by one row.

The sets are written in NumPy and know nothing of jaxreg.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from formulas import SHAPE, columns, rows, times
from registry import ON

import jaxreg
from jaxreg import groups

Members = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class ConstraintCase:
    """A constraint on the leaf "kernel" and its set there."""

    name: str
    make: Callable[[Any], jaxreg.Penalty]
    """Called with the size of the set, a number or a tree with one per leaf."""
    excess: Callable[[np.ndarray, float], float]
    """How far a kernel is outside of the set of this size: 0 inside."""
    sample: Callable[[np.ndarray, float], np.ndarray]
    """Any kernel to one inside the set, all of which can be reached: not the projection."""
    members: Callable[[], Members] | None = None
    """What belongs together, as masks; None where elements are on their own."""
    convex: bool = True
    sized: bool = True
    """Whether it has numbers, a size that is looked at."""
    per_element: bool = True
    """Whether its projection takes one step size per element."""
    has_zero: bool = True
    """Whether 0 is inside."""
    keeps_zeros: bool = True
    """Whether rows of zeros stay exact zeros beside what is not zero."""
    complex: bool = True
    """Whether it takes complex leaves."""
    aligned_axes: tuple[int, ...] = (0, 1)
    """Axes that may be sharded without a gather."""
    counted: bool = False
    """Whether its number is a count, which is not a size."""

    def __str__(self) -> str:
        return self.name


def whole() -> Members:
    return [np.ones(SHAPE, bool)]


def elements() -> Members:
    return list(np.eye(32, dtype=bool).reshape(32, *SHAPE))


def _norms(
    name: str,
    make: Callable[..., jaxreg.Penalty],
    members: Callable[[], Members],
    low: float = 0.0,
    high: float = 1.0,
    **options: Any,
) -> ConstraintCase:
    """A row for ``low * size <= ||w_g|| <= high * size``."""

    def excess(w: np.ndarray, size: float) -> float:
        lengths = [np.linalg.norm(w[m]) for m in members()]
        return max(max(n - high * size, low * size - n, 0.0) for n in lengths)

    def sample(w: np.ndarray, size: float) -> np.ndarray:
        out = np.array(w)
        for m in members():
            n = max(np.linalg.norm(w[m]), 1e-300)
            out[m] *= size * np.clip(n, low, high) / n  # which keeps a direction, but not in full length
        return out

    belongs = None if members is elements else members
    return ConstraintCase(name, make, excess, sample, belongs, **options)


def _l1_excess(w: np.ndarray, size: float) -> float:
    return max(np.abs(w).sum() - size, 0.0)


def _l1_sample(w: np.ndarray, size: float) -> np.ndarray:
    w = np.where(np.abs(w) > np.median(np.abs(w)), w, 0.0)
    return w * min(1.0, size / np.abs(w).sum())


def _simplex_excess(w: np.ndarray, size: float) -> float:
    return max(np.max(np.abs(w.sum(1) - size)), -w.min())


def _simplex_sample(w: np.ndarray, size: float) -> np.ndarray:
    shares = np.maximum(w, 0.0) + 1e-12
    return size * shares / shares.sum(1, keepdims=True)


def _spectral_excess(w: np.ndarray, size: float) -> float:
    return max(np.linalg.norm(w, 2) - size, 0.0)


def _spectral_sample(w: np.ndarray, size: float) -> np.ndarray:
    return w * min(1.0, size / np.linalg.norm(w, 2))


def _some_of(w: np.ndarray, most: int) -> np.ndarray:
    """A support that small changes of the numbers choose anew."""
    digits = 1e7 * np.abs(w) % 1
    return np.where(np.argsort(np.argsort(digits, axis=0), axis=0) < most, w, 0.0)


CONSTRAINTS = [
    _norms("max_norm", lambda s: jaxreg.max_norm(s, None, mask=ON), elements),
    _norms("max_norm[outputs]", lambda s: jaxreg.max_norm(s, groups.outputs(), mask=ON), columns),
    _norms("l2_ball", lambda s: jaxreg.l2_ball(s, mask=ON), whole),
    _norms(
        "unit_norm[inputs]",
        lambda s: jaxreg.unit_norm(groups.inputs(), mask=ON),
        rows,
        1.0,
        convex=False,
        sized=False,
        per_element=False,
        has_zero=False,
        keeps_zeros=False,
    ),
    _norms(
        "norm_range[outputs]",
        lambda s: jaxreg.norm_range(times(0.5, s), s, groups.outputs(), mask=ON),
        columns,
        0.5,
        convex=False,
        per_element=False,
        has_zero=False,
    ),
    ConstraintCase(
        "box",
        lambda s: jaxreg.box(times(-0.5, s), s, mask=ON),
        lambda w, size: max(w.max() - size, -0.5 * size - w.min(), 0.0),
        lambda w, size: np.clip(w, -0.5 * size, size),
        complex=False,
    ),
    ConstraintCase(
        "non_negative",
        lambda s: jaxreg.non_negative(mask=ON),
        lambda w, size: max(-w.min(), 0.0),
        lambda w, size: np.abs(w),
        sized=False,
        complex=False,
    ),
    ConstraintCase("l1_ball", lambda s: jaxreg.l1_ball(s, mask=ON), _l1_excess, _l1_sample, whole),
    ConstraintCase(
        "simplex[axis 1]",
        lambda s: jaxreg.simplex(s, axis=1, mask=ON),
        _simplex_excess,
        _simplex_sample,
        rows,
        has_zero=False,
        keeps_zeros=False,
        complex=False,
    ),
    ConstraintCase(
        "spectral_norm_ball",
        lambda s: jaxreg.spectral_norm_ball(s, mask=ON),
        _spectral_excess,
        _spectral_sample,
        whole,
        per_element=False,
        aligned_axes=(),
    ),
    ConstraintCase(
        "n_m_sparsity[2:4]",
        lambda s: jaxreg.n_m_sparsity(2, 4, mask=ON),
        lambda w, size: max(0.0, np.count_nonzero(w.reshape(2, 4, 4), axis=1).max() - 2.0),
        lambda w, size: np.concatenate([_some_of(run, 2) for run in w.reshape(2, 4, 4)]),
        convex=False,
        sized=False,
    ),
    # Of the counts that shards exchange, CPUs gather some numbers: see test_top_k.py.
    ConstraintCase(
        "top_k",
        lambda s: jaxreg.top_k(10, mask=ON),
        lambda w, size: max(0.0, np.count_nonzero(w) - 10.0),
        lambda w, size: _some_of(w.ravel(), 10).reshape(SHAPE),
        convex=False,
        sized=False,
        aligned_axes=(),
        counted=True,
    ),
]


SIZE = 0.6
"""Of the sets in the laws."""


def draw(seed: int, dtype: Any = np.float64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=SHAPE) + (1j * rng.normal(size=SHAPE) if dtype == np.complex64 else 0)
    return w.astype(dtype)


def size_of(case: ConstraintCase) -> float:
    return SIZE if case.sized else 1.0


def steps_of(per_element: bool, seed: int = 99) -> Any:
    """One step, or steps over four decades."""
    return 10.0 ** np.random.default_rng(seed).uniform(-3, 1, size=SHAPE) if per_element else 0.7


@functools.partial(jax.jit, static_argnums=0)
def projected(make: Any, x: Any, step: Any, size: Any) -> Any:
    sizes = {"layer": {"kernel": step, "bias": 1.0}} if jnp.ndim(step) else step
    return make(size).prox(at(x), sizes)["layer"]["kernel"]


def project(case: ConstraintCase, x: Any, step: Any = 0.7, size: float | None = None) -> np.ndarray:
    return np.asarray(projected(case.make, jnp.asarray(x), step, size_of(case) if size is None else size))


@functools.partial(jax.jit, static_argnums=0)
def _optimality(make: Any, w: Any, slope: Any) -> Any:
    return make(SIZE).optimality(at(w), at(slope))["layer"]["kernel"]


def optimality(case: ConstraintCase, w: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.asarray(_optimality(case.make, w, slope))


def at(kernel: Any) -> dict[str, Any]:
    return {"layer": {"kernel": jnp.asarray(kernel), "bias": jnp.linspace(-1.0, 1.0, SHAPE[1])}, "hole": None}

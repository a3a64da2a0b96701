"""Sparsity against accuracy, along a path."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.diagnostics import sparsity
from jaxreg.group_kinds import Groups
from jaxreg.masks import as_mask
from jaxreg.tables import text_table
from jaxreg.tree import PyTree
from jaxreg.tuning.cross_validate import new_axes
from jaxreg.tuning.regularization_path import checked_strengths


@dataclasses.dataclass(frozen=True)
class SparsityCurve:
    """What :func:`sparsity_curve` returns: ``print`` it for a table, or :meth:`draw` it.

    Attributes:
        strengths: (m,).
        sparsity: (m,): shares of exact zeros.
        scores: (m,).
    """

    strengths: np.ndarray
    sparsity: np.ndarray
    scores: np.ndarray

    def sparsest(self, score: float) -> int:
        """Which run has the most zeros among those that score at least so much.

        Raises:
            ValueError: if none does.
        """
        enough = self.scores >= score
        if not enough.any():
            raise ValueError(f"No run scores at least {score}. The best is {self.scores.max():.6g}.")
        return int(np.argmax(np.where(enough, self.sparsity, -1.0)))

    def __str__(self) -> str:
        rows = zip(self.strengths, self.sparsity, self.scores, strict=True)
        cells = [[f"{strength:.6g}", f"{100 * share:.1f}", f"{score:.6g}"] for strength, share, score in rows]
        return text_table(["strength", "% zeros", "score"], cells)

    def draw(self, axes: Any = None, **style: Any) -> Any:
        """Draw scores against shares of zeros (extra ``plots``); returns the axes."""
        axes = axes if axes is not None else new_axes()
        order = np.argsort(self.sparsity)
        axes.plot(100 * self.sparsity[order], self.scores[order], **{"marker": "o", "ms": 3, **style})
        axes.set(xlabel="exact zeros (%)", ylabel="score")
        return axes


def sparsity_curve(
    strengths: Any,
    params: PyTree,
    score_fn: Callable[[PyTree], Any],
    *,
    groups: Groups | None = None,
    mask: Any = None,
) -> SparsityCurve:
    r"""Measure how sparse and how good each network of a path is.

    .. math:: \bigl(s(\hat w_j), \; \mathrm{score}(\hat w_j)\bigr), \qquad j = 1, \dots, m

    Args:
        strengths: a vector of m non-negative numbers (or of targets).
        params: parameters with a leading axis of length m, as from :func:`jaxreg.regularization_path`.
        score_fn: ``score_fn(params) -> scalar``, such as the accuracy on validation data; larger is better.
        groups: count zero groups of this structure of :mod:`jaxreg.groups`. Default: elements.
        mask: which leaves count, as in :func:`jaxreg.l1`.

    Returns:
        A :class:`SparsityCurve` with ``strengths``, ``sparsity`` and ``scores``, each (m,), and
        ``sparsest(score)``, the choice that it is for.

    Raises:
        TypeError: if ``score_fn`` is not callable.
        ValueError: if the leading axes are not of length m, or a score is no scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"w": jnp.array([[1.0, 2.0, 0.5], [0.9, 1.8, 0.0], [0.0, 0.9, 0.0]])}
        >>> curve = jaxreg.sparsity_curve([0.0, 0.1, 1.0], params, lambda p: 1 - abs(jnp.sum(p["w"]) - 3) / 4)
        >>> print(curve)
        strength  % zeros  score
        --------  -------  -----
               0      0.0  0.875
             0.1     33.3  0.925
               1     66.7  0.475
        >>> curve.sparsest(score=0.9)
        1

    References:
        Blalock et al., What is the state of neural network pruning?, 2020, section 5, arXiv:2003.03033
    """
    if not callable(score_fn):
        raise TypeError(
            f"The 'score_fn' parameter of sparsity_curve must be a function of parameters. Got {score_fn!r}."
        )
    values = checked_strengths(strengths, "sparsity_curve")
    for leaf in jax.tree.leaves(params):
        if jnp.shape(leaf)[:1] != values.shape:
            raise ValueError(
                "The 'params' parameter of sparsity_curve must have a leading axis as long as 'strengths', "
                f"{len(values)}. Got a leaf of shape {jnp.shape(leaf)}."
            )
    shares, scores = _measured(score_fn, groups, as_mask(mask), params)
    return SparsityCurve(np.asarray(values), np.asarray(shares), np.asarray(scores))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _measured(score_fn: Any, groups: Groups | None, mask: Any, params: PyTree) -> tuple[Any, Any]:
    def measure(one: PyTree) -> tuple[Any, Any]:
        score = jnp.asarray(score_fn(one))
        if score.shape:
            raise ValueError(
                f"The 'score_fn' parameter of sparsity_curve must give a scalar. Got shape {score.shape}."
            )
        return sparsity(one, groups, mask=mask), score

    # One after the other: activations of all at once may not fit.
    return jax.lax.map(measure, params)

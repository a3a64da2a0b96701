"""Choose a strength by cross-validation, all folds and strengths in one compiled program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.arguments import check_whole_number
from jaxreg.tables import text_table
from jaxreg.tree import PyTree
from jaxreg.tuning.regularization_path import checked_strengths


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """What :func:`cross_validate` returns: ``print`` it for a table, or :meth:`draw` it.

    Attributes:
        strengths: (m,).
        errors: (m, folds): the mean error on each held-out fold.
        mean: (m,): over folds.
        standard_error: (m,): of that mean.
    """

    strengths: np.ndarray
    errors: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.errors.mean(axis=1)

    @property
    def standard_error(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # of runs that diverged it is NaN
            return self.errors.std(axis=1, ddof=1) / np.sqrt(self.errors.shape[1])

    @property
    def best(self) -> float:
        """The strength with the smallest mean error; runs that diverged do not count.

        Raises:
            ValueError: if all mean errors are NaN or infinite.
        """
        return float(self.strengths[self._lowest])

    @property
    def one_standard_error(self) -> float:
        """The largest strength whose mean error is within one standard error of the smallest.

        Raises:
            ValueError: if all mean errors are NaN or infinite.
        """
        lowest = self._lowest
        bound = self.mean[lowest] + self.standard_error[lowest]
        return float(self.strengths[self.mean <= bound].max())

    @property
    def _lowest(self) -> int:
        finite = np.isfinite(self.mean)
        if not finite.any():
            raise ValueError("No strength has a finite error on all folds: every training run diverged.")
        return int(np.argmin(np.where(finite, self.mean, np.inf)))

    def __str__(self) -> str:
        rows = zip(self.strengths, self.mean, self.standard_error, strict=True)
        cells = [[f"{number:.6g}" for number in row] for row in rows]
        table = text_table(["strength", "mean error", "standard error"], cells)
        return f"{table}\nbest: {self.best:.6g}, within one standard error: {self.one_standard_error:.6g}"

    def draw(self, axes: Any = None) -> Any:
        """Draw mean errors against strengths and mark both choices (extra ``plots``); returns the axes."""
        axes = axes if axes is not None else new_axes()
        axes.errorbar(self.strengths, self.mean, self.standard_error, fmt="o-", ms=3, capsize=2)
        axes.axvline(self.best, ls="--", color="black", lw=1, label="best")
        axes.axvline(self.one_standard_error, ls=":", color="black", lw=1, label="one standard error")
        axes.set(xscale="log", xlabel="strength", ylabel="error on held-out folds")
        axes.legend()
        return axes


def new_axes() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("A figure needs the extra 'plots': pip install jaxreg[plots]") from error
    return plt.subplots(layout="constrained")[1]


def cross_validate(
    train_fn: Callable[[Any, Any], PyTree],
    errors_fn: Callable[[PyTree], Any],
    strengths: Any,
    folds: Any,
    *,
    n_samples: int | None = None,
    seed: int | None = None,
) -> CrossValidation:
    r"""Train on all folds but one, for each fold and each strength, and measure on the one left out.

    .. math::
        E_{jf} = \frac{1}{|F_f|} \sum_{i \in F_f} e_i(\hat w_{jf}), \qquad
        \hat w_{jf} = \mathrm{train}(\lambda_j, \; c: c_i = [i \notin F_f])

    Folds are weights on the samples, so that all runs have the same shapes: one compiled program, mapped over
    folds and strengths.

    Args:
        train_fn: ``train_fn(strength, weights) -> params``, a training run that JAX can trace; ``weights``
            (n,) is 1 for samples to train on and 0 for the others. A loss that is a mean becomes
            ``sum(weights * losses) / sum(weights)``.
        errors_fn: ``errors_fn(params) -> (n,)``, the error of every sample, such as squared residuals.
        strengths: a vector of m non-negative numbers.
        folds: how many, at least 2; or a vector (n,) of whole numbers that says which fold each sample is in.
        n_samples: n; needed where ``folds`` is a number, and only there.
        seed: shuffle the samples first, where ``folds`` is a number; None: folds of neighbours, as
            scikit-learn's ``KFold``.

    Returns:
        A :class:`CrossValidation` with ``errors`` (m, folds), ``mean``, ``standard_error``, ``best`` and
        ``one_standard_error``.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> x = jax.random.normal(jax.random.key(0), (60, 5))
        >>> y = x @ jnp.array([1.0, 0.0, 0.0, -2.0, 0.0]) + jax.random.normal(jax.random.key(1), (60,))
        >>> def train(strength, weights):
        ...     def loss(w):
        ...         return jnp.sum(weights * (x @ w - y) ** 2) / (2 * jnp.sum(weights))
        ...     optimizer = jaxreg.fista(0.3, jaxreg.l1(strength))
        ...     def body(carry, _):
        ...         w, state = carry
        ...         return jaxreg.step(optimizer, jax.grad(loss)(w), state, w), None
        ...     return jax.lax.scan(body, (jnp.zeros(5), optimizer.init(jnp.zeros(5))), length=100)[0][0]
        >>> strengths = [0.01, 0.1, 1.0]
        >>> found = jaxreg.cross_validate(train, lambda w: (x @ w - y) ** 2, strengths, 5, n_samples=60)
        >>> found.errors.shape
        (3, 5)
        >>> found.best < 1.0
        True

    Notes:
        Standardise the inputs once, before: what that tells a fold about the others is small. Refit on all
        samples with weights of ones. It is compiled once per pair of functions.

    References:
        Hastie, Tibshirani and Friedman, The elements of statistical learning, 2nd edition, 2009, section 7.10
    """
    for name, function in (("train_fn", train_fn), ("errors_fn", errors_fn)):
        if not callable(function):
            raise TypeError(f"The '{name}' parameter of cross_validate must be a function. Got {function!r}.")
    values = checked_strengths(strengths, "cross_validate")
    owner = _fold_of_each(folds, n_samples, seed)
    held_out = owner == np.arange(owner.max() + 1)[:, None]
    errors = _errors(train_fn, errors_fn, values, jnp.asarray(held_out, values.dtype))
    return CrossValidation(np.asarray(values), np.asarray(errors))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _errors(train_fn: Any, errors_fn: Any, strengths: Any, held_out: Any) -> Any:
    def error(strength: Any, held: Any) -> Any:
        errors = errors_fn(train_fn(strength, 1 - held))
        if jnp.shape(errors) != held.shape:
            raise ValueError(
                f"The 'errors_fn' parameter of cross_validate must give one error per sample, {held.shape}. "
                f"Got shape {jnp.shape(errors)}."
            )
        return jnp.sum(held * errors) / jnp.sum(held)

    return jax.vmap(jax.vmap(error, (None, 0)), (0, None))(strengths, held_out)


def _fold_of_each(folds: Any, n_samples: Any, seed: int | None) -> np.ndarray:
    """The fold of each sample."""
    if np.ndim(folds):
        for name, value in (("n_samples", n_samples), ("seed", seed)):
            if value is not None:
                raise ValueError(
                    f"The '{name}' parameter of cross_validate must be None where 'folds' says which fold "
                    f"each sample is in. Got {value!r}."
                )
        owner = np.asarray(folds)
        if owner.ndim != 1 or not np.issubdtype(owner.dtype, np.integer):
            raise ValueError(
                "The 'folds' parameter of cross_validate must be a number or a vector of whole numbers. "
                f"Got shape {owner.shape} of {owner.dtype}."
            )
        names, owner = np.unique(owner, return_inverse=True)
        if len(names) < 2:
            raise ValueError("The 'folds' parameter of cross_validate must have 2 folds at least. Got 1.")
        return owner
    check_whole_number(folds, "folds", "cross_validate")
    check_whole_number(n_samples, "n_samples", "cross_validate")
    if not 2 <= folds <= n_samples:
        raise ValueError(
            "The 'folds' parameter of cross_validate must be from 2 to 'n_samples'. "
            f"Got folds={folds} and n_samples={n_samples}."
        )
    order = np.arange(n_samples) if seed is None else np.random.default_rng(seed).permutation(n_samples)
    owner = np.empty(n_samples, int)
    for fold, members in enumerate(np.array_split(order, folds)):
        owner[members] = fold
    return owner

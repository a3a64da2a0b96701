"""One training run per strength, all of them in one compiled program."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxreg.arguments import check_flag, check_whole_number
from jaxreg.tree import PyTree

AXIS = "strengths"


def regularization_path(
    train_fn: Callable[..., PyTree],
    strengths: Any,
    *,
    batch_size: int | None = None,
    progress: bool = False,
    warm_start: bool = False,
    devices: Sequence[Any] | None = None,
) -> PyTree:
    r"""Train once per strength and stack the results, as one compiled program.

    .. math:: (\hat w_1, \dots, \hat w_m), \qquad \hat w_j = \mathrm{train}(\lambda_j)

    Args:
        train_fn: a whole training run that JAX can trace, ``train_fn(strength) -> pytree`` of arrays: it
            gets a scalar array, such as ``jaxreg.l1(strength)`` takes, and loops with ``jax.lax.scan`` or
            ``while_loop``. It is compiled once for as long as it is the same function: another lambda
            with the same body is another function. As under ``jax.jit``, what it reads from elsewhere
            (data, the attributes of the object of a bound method) is fixed when it is compiled: after
            changing that give it a new function, such as ``lambda strength: train_fn(strength)``.
        strengths: a vector of m non-negative numbers. Other ones do not recompile, other lengths do.
        batch_size: how many runs at a time, where all of them need too much memory; the last batch
            is filled up with repeats, so that there is one compilation. Default: all.
        progress: show a bar, by batches or, with a warm start, by strengths (extra ``all``).
        warm_start: train in the order given, each run starting from the result before it:
            ``train_fn(strength, previous)``, where ``previous`` is None in the first run. For convex
            problems, from the largest strength down.
        devices: where to run, one at least; several share the strengths among them. Not with
            ``warm_start``. Default: ``jax.local_devices()``.

    Returns:
        The results, with a new leading axis of length m in every leaf.

    Raises:
        TypeError: if ``train_fn`` is not callable, or a flag is not True or False.
        ValueError: for strengths that are not a vector of non-negative numbers; for a ``batch_size`` of 0, no
            devices, or either together with ``warm_start``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> def train(strength):
        ...     optimizer = jaxreg.prox_sgd(0.5, jaxreg.l1(strength))
        ...     def body(carry, _):
        ...         params, state = carry
        ...         return jaxreg.step(optimizer, params - jnp.array([1.0, 0.4]), state, params), None
        ...     start = jnp.zeros(2)
        ...     return jax.lax.scan(body, (start, optimizer.init(start)), length=50)[0][0]
        >>> print(jaxreg.regularization_path(train, [0.0, 0.5, 2.0]).round(3))
        [[1.  0.4]
         [0.5 0. ]
         [0.  0. ]]

    Notes:
        The runs are mapped with ``jax.vmap``: a ``while_loop`` goes on until the last of them has converged.
        XLA runs convolutions with a batch of kernels slowly on CPUs: there train CNNs one by one.
        :func:`jaxreg.strength_max` says where a path of a convex problem begins.

    References:
        Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
        coordinate descent, 2010, section 2.5, https://doi.org/10.18637/jss.v033.i01
    """
    if not callable(train_fn):
        raise TypeError(
            "The 'train_fn' parameter of regularization_path must be a function of a strength. "
            f"Got {train_fn!r}."
        )
    values = checked_strengths(strengths, "regularization_path")
    check_flag(progress, "progress", "regularization_path")
    if check_flag(warm_start, "warm_start", "regularization_path"):
        if batch_size is not None:
            raise ValueError(
                "The 'batch_size' parameter of regularization_path must be None with warm_start, which runs "
                f"one strength at a time. Got {batch_size!r}."
            )
        if devices is not None:
            raise ValueError(
                "The 'devices' parameter of regularization_path must be None with warm_start, which runs one "
                f"strength after the other where 'train_fn' puts it. Got {devices!r}."
            )
        return _one_by_one(train_fn, values, progress)
    places = tuple(jax.local_devices() if devices is None else devices)
    if not places:
        raise ValueError(
            f"The 'devices' parameter of regularization_path must hold at least one device. Got {devices!r}."
        )
    places = places[: len(values)]
    size = len(values) if batch_size is None else _checked_batch_size(batch_size)
    size = -(-min(size, len(values)) // len(places)) * len(places)
    starts = range(0, len(values), size)
    parts = []
    for start in _bar(starts, progress):
        part = values[start : start + size]
        part = jnp.pad(part, (0, size - len(part)), mode="edge")
        parts.append(_mapped(train_fn, places, part))
    return jax.tree.map(lambda *leaves: _joined(leaves)[: len(values)], *parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mapped(train_fn: Callable[..., PyTree], places: tuple[Any, ...], strengths: Any) -> PyTree:
    runs = jax.vmap(train_fn)
    if len(places) == 1:
        return runs(strengths)
    # Each device maps its own share, without a word to the others: a loop of one does not wait.
    mesh, spec = Mesh(np.array(places), (AXIS,)), PartitionSpec(AXIS)
    return jax.shard_map(runs, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(strengths)


@functools.partial(jax.jit, static_argnums=0)
def _run(train_fn: Callable[..., PyTree], strength: Any, previous: PyTree) -> PyTree:
    return train_fn(strength, previous)


def _one_by_one(train_fn: Callable[..., PyTree], strengths: jax.Array, progress: bool) -> PyTree:
    results, previous = [], None
    for strength in _bar(strengths, progress):
        previous = _run(train_fn, strength, previous)
        results.append(previous)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _joined(leaves: Sequence[jax.Array]) -> jax.Array:
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


def checked_strengths(strengths: Any, owner: str) -> jax.Array:
    """A vector of non-negative numbers, in JAX's default precision."""
    values = jnp.asarray(strengths, jnp.result_type(float))
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"The 'strengths' parameter of {owner} must be a vector of at least one number. "
            f"Got shape {values.shape}."
        )
    known = np.asarray(values)
    wrong = known[~(np.isfinite(known) & (known >= 0))]
    if wrong.size:
        raise ValueError(
            f"The 'strengths' parameter of {owner} must hold non-negative numbers. Got {wrong[0]}."
        )
    return values


def _checked_batch_size(batch_size: Any) -> int:
    check_whole_number(batch_size, "batch_size", "regularization_path")
    if batch_size == 0:
        raise ValueError("The 'batch_size' parameter of regularization_path must be at least 1. Got 0.")
    return int(batch_size)


def _bar(items: Any, progress: bool) -> Iterable[Any]:
    if not progress:
        return items
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("A progress bar needs the extra 'all': pip install jaxreg[all]") from error
    return tqdm(items, total=len(items))

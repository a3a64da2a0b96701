"""Sparse parameters to start from, of unchanged size."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg import masks
from jaxreg.arguments import check_number
from jaxreg.group_kinds import Cluster, Groups
from jaxreg.groups import check_groups
from jaxreg.masks import as_mask
from jaxreg.tree import PyTree, cast, flatten, upcast
from jaxreg.views import Cut, View

_STREAM = 0x53504152
"""``fold_in(key, i)`` is ``split(key, n)[i]``: keys by leaf are drawn from a number that no split reaches."""


def sparse_initialization(
    params: PyTree, density: Any, key: jax.Array, *, groups: Groups | None = None, mask: Any = masks.weights
) -> PyTree:
    r"""Keep a random few of the initial weights, scaled so that layers keep the size of their outputs.

    .. math::
        w \leftarrow \sqrt{\tfrac{n}{k}}\; m \odot w, \qquad
        m \in \{0, 1\}^n \text{ with } k = \max(1, \mathrm{round}(d\, n)) \text{ ones, drawn uniformly}

    In each leaf k of its n elements (or groups) stay: their second moment grows by n / k, which keeps
    the variance that He's or Glorot's initialization chose.

    Args:
        params: a parameter pytree, initialised as usual.
        density: d in (0, 1], the share that stays; the paper starts :func:`jaxreg.linbreg` at 0.01.
        key: a key of ``jax.random``. Each leaf (or cluster of leaves with common groups) gets a key of
            its own, by its place in the tree: the same key gives the same zeros.
        groups: a structure of :mod:`jaxreg.groups` whose groups stay or go as a whole; None for
            single elements. Static.
        mask: which leaves become sparse, as in :func:`jaxreg.l1`: by default ``masks.weights``, so that
            biases, norms and embeddings stay as they are; None for all floating leaves. Static.

    Returns:
        A pytree like ``params``, of the same shapes and dtypes; leaves that the mask leaves out are
        the same objects.

    Raises:
        TypeError: if ``groups`` is not a structure.
        ValueError: if ``density`` is outside (0, 1], or the mask chooses no leaf.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}
        >>> columns = jaxreg.groups.outputs()
        >>> print(jaxreg.sparse_initialization(params, 0.25, jax.random.key(1), groups=columns)["kernel"])
        [[0. 0. 2. 0.]
         [0. 0. 2. 0.]
         [0. 0. 2. 0.]
         [0. 0. 2. 0.]]

    Notes:
        The paper draws each element by its own coin, which leaves some small layers all zero, where
        training cannot start. Here the count is exact, and at least 1.

    References:
        Bungert, Roith, Tenbrinck and Burger, A Bregman learning framework for sparse neural
        networks, 2022, section on parameter initialization, arXiv:2105.04319
    """
    check_number(density, "density", "sparse_initialization", high=1.0, open_low=True)
    flat = flatten(params)
    selected = as_mask(mask).indices(flat)
    if groups is None:
        clusters: tuple[Cluster, ...] = tuple(((i, _elements(flat.leaves[i])),) for i in selected)
    else:
        clusters = check_groups(groups, "groups", "sparse_initialization").resolve(flat, selected)
    stream = jax.random.fold_in(key, _STREAM)
    out = list(flat.leaves)
    for cluster in clusters:
        first, view = cluster[0]
        per_group = tuple(1 if axis in view.inside else n for axis, n in enumerate(view.split))
        rank = jax.random.permutation(jax.random.fold_in(stream, first), view.n_groups)
        count = jnp.maximum(jnp.round(density * view.n_groups), 1).astype(rank.dtype)
        scale = jnp.where(rank < count, jnp.sqrt(view.n_groups / count), 0.0).reshape(per_group)
        for index, view in cluster:
            leaf = upcast(flat.leaves[index])
            factor = view.broadcast(scale)
            sparse = jnp.where(factor == 0, 0.0, leaf * factor.astype(leaf.real.dtype))
            out[index] = cast(sparse, jnp.result_type(flat.leaves[index]))
    return flat.rebuild(out)


def _elements(leaf: Any) -> View:
    return View(tuple(Cut(length, 1) for length in jnp.shape(leaf)))

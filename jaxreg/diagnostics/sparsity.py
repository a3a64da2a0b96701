"""Count exact zeros, by element or by group."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.group_kinds import Cluster, Groups
from jaxreg.groups import check_groups
from jaxreg.masks import as_mask
from jaxreg.tree import FlatTree, PyTree, flatten


def sparsity(params: PyTree, groups: Groups | None = None, *, mask: Any = None) -> jax.Array:
    """The share of exact zeros among elements, or of groups that are zero throughout.

    Args:
        params: a parameter pytree.
        groups: a structure of :mod:`jaxreg.groups`; None counts elements.
        mask: which leaves count, as in :func:`jaxreg.l1`. Default: all floating leaves.

    Returns:
        A float32 scalar in [0, 1]; 0 for a tree with nothing to count. Works under ``jit``.

    Raises:
        TypeError: for a bad argument.
        ValueError: for a leaf that the groups do not fit; the error names the mask to add.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[1.0, 0.0], [0.0, 0.0]]), "bias": jnp.ones(2)}
        >>> float(jaxreg.sparsity(params))
        0.5
        >>> float(jaxreg.sparsity(params, jaxreg.groups.outputs(), mask=jaxreg.masks.weights))
        0.5
    """
    flat = flatten(params)
    selected = selected_leaves(flat, mask)
    if groups is None:
        counts = [(zero_elements(flat.leaves[i]), np.size(flat.leaves[i])) for i in selected]
    else:
        clusters = check_groups(groups, "groups", "sparsity").resolve(flat, selected)
        counts = [(zero_groups(flat, cluster), cluster[0][1].n_groups) for cluster in clusters]
    total = float(sum(size for _, size in counts))
    # Shares are added up as floats: a count of all zeros may not fit an int32.
    shares = [zeros.astype(jnp.float32) / total for zeros, size in counts if size]
    return jnp.asarray(sum(shares), jnp.float32)


def selected_leaves(flat: FlatTree, mask: Any) -> list[int]:
    return as_mask(mask).indices(flat) if flat.has_floating else []


def zero_elements(leaf: Any) -> jax.Array:
    return jnp.sum(jnp.asarray(leaf) == 0, dtype=jnp.int32)


def zero_groups(flat: FlatTree, cluster: Cluster) -> jax.Array:
    """How many groups of a cluster have no non-zero element."""
    alive = sum(view.sum((jnp.asarray(flat.leaves[i]) != 0).astype(jnp.int32)) for i, view in cluster)
    return jnp.sum(jnp.asarray(alive) == 0, dtype=jnp.int32)

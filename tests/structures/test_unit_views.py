"""Views of units along an axis, against loops over positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import structures
from jaxreg.views import unit_view

UNITS = 4
VIEWS = {
    "plain": ((3, 4), 1, np.arange(4)),
    "flattened": ((12, 2), 0, np.tile(np.arange(4), 3)),
    "blocks": ((2, 8), 1, np.repeat(np.arange(4), 2)),
    "not all units": ((5, 3), 1, np.array([3, 0, 3])),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_reduces_and_spreads_unit_by_unit(name):
    shape, axis, owners = VIEWS[name]
    view = unit_view(shape, axis, owners, UNITS)
    rng = np.random.default_rng(0)
    x, per_unit = rng.normal(size=shape).astype(np.float32), rng.normal(size=UNITS).astype(np.float32)
    slices = [np.take(x, np.flatnonzero(owners == unit), axis) for unit in range(UNITS)]
    sums, largest, spread = jax.jit(lambda x, v: (view.sum(x), view.max(x), view.broadcast(v)))(x, per_unit)
    np.testing.assert_allclose(sums, [part.sum() for part in slices], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(largest, [part.max(initial=0.0) for part in slices])
    np.testing.assert_array_equal(
        jnp.broadcast_to(spread, shape),
        np.moveaxis(
            np.broadcast_to(per_unit[owners][:, None], (shape[axis], x.size // shape[axis])).reshape(
                (shape[axis], *np.delete(shape, axis))
            ),
            0,
            axis,
        ),
    )
    sizes = np.broadcast_to(view.sizes(), UNITS)
    np.testing.assert_array_equal(sizes, [part.size for part in slices])
    assert view.n_groups == UNITS
    assert isinstance(view.sizes(), float) == (name != "not all units")


def test_a_view_is_equal_to_another_of_the_same_units():
    shape, axis, owners = VIEWS["flattened"]
    one, other = (unit_view(shape, axis, owners.copy(), UNITS) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != unit_view(shape, axis, owners[::-1].copy(), UNITS)


def test_groups_that_share_a_leaf_are_shrunk_each_by_its_own_norm():
    def apply(params, x):
        first, second = jnp.split(jnp.tanh(x @ params["fused"]), [2], axis=1)
        return first @ params["a"], second @ params["b"]

    params = {"a": np.ones((2, 1), np.float32), "b": np.ones((3, 1), np.float32)}
    params["fused"] = np.array([[1, 0.1, 2, 0, 3], [1, 0.1, 2, 0, 4]], np.float32)
    graph = structures.trace(apply, params, np.ones((1, 2), np.float32))
    assert [group.size for group in graph.groups] == [2, 3]
    penalty = jaxreg.group_lasso(0.5, graph, size_weights=False)
    fused = params["fused"]
    norms = np.linalg.norm(fused, axis=0)
    np.testing.assert_allclose(penalty(params), 0.5 * norms.sum(), rtol=1e-6)
    shrunk = penalty.prox(params, 1.0)
    scale = np.maximum(1 - 0.5 / np.maximum(norms, 1e-9), 0)
    np.testing.assert_allclose(shrunk["fused"], fused * scale, rtol=1e-6)
    assert np.array_equal(shrunk["a"], params["a"])
    assert float(jaxreg.sparsity(params, graph)) == pytest.approx(1 / 5)


def test_units_nest_only_in_units_of_the_same_axis():
    def apply(params, x):
        return jnp.tanh(x @ params["up"]) @ params["down"]

    params = {"up": np.ones((2, 4), np.float32), "down": np.ones((4, 2), np.float32)}
    graph = structures.trace(apply, params, np.ones((1, 2), np.float32))
    mask = jaxreg.masks.path("up")
    nested = jaxreg.hierarchical_group_lasso(0.1, [graph, graph], mask=mask)
    assert np.isfinite(nested(params))
    mixed = jaxreg.hierarchical_group_lasso(0.1, [graph, jaxreg.groups.outputs()], mask=mask)
    with pytest.raises(ValueError, match="nested"):
        mixed(params)

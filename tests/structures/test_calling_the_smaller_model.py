"""The smaller model is called like the large one: by the names of its leaves, with any inputs."""

import copy
import pickle

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import jaxreg
from jaxreg import structures


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


DEAD = jnp.array([2, 4])
PARAMS = {"a": draw(0, 3, 6).at[:, DEAD].set(0), "b": draw(1, 6, 2)}
X = draw(2, 4, 3)


def shrunk(apply, params, *inputs, **options):
    return jaxreg.compact(structures.trace(apply, params, *inputs, **options), params)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def hidden(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def scaled(params, x, mask=None, scale=None):
    h = x @ params["a"]
    h = h if mask is None else h * mask
    return jnp.tanh(h if scale is None else 3 * h * scale) @ params["b"]


def test_what_is_left_out_of_the_inputs_is_seen():
    m = draw(3, 4, 1)
    small = shrunk(scaled, PARAMS, X, m, None)
    assert small.sizes["a"] == (3, 4)
    for inputs in ((X, m, None), (X, None, m), (X, m), (X, m, m)):
        close(small.apply(small.params, *inputs), scaled(PARAMS, *inputs))


def test_names_in_the_inputs_are_seen():
    def apply(params, given):
        return hidden(params, given["x"] if "x" in given else 3 * given["y"])

    small = shrunk(apply, PARAMS, {"x": X})
    for name in "xy":
        close(small.apply(small.params, {name: X}), apply(PARAMS, {name: X}))


def test_parameters_are_known_by_their_paths():
    small = shrunk(hidden, PARAMS, X)
    expected = hidden(PARAMS, X)
    close(small.apply(FrozenDict(small.params), X), expected)
    close(small.apply(small.params | {"none": None}, X), expected)
    renamed = {"a": small.params["a"], "c": small.params["b"]}
    with pytest.raises(ValueError, match=r"Missing: 'b'\. Superfluous: 'c'"):
        small.apply(renamed, X)
    with pytest.raises(ValueError, match=r"Missing: nothing\. Superfluous: '_first'"):
        small.apply(small.params | {"_first": draw(4, 3, 4)}, X)
    with pytest.raises(ValueError, match=r"Missing: 'a', 'b'\. Superfluous: ''"):
        small.apply(X, small.params)


def test_paths_that_keys_with_separators_make_equal_are_refused():
    params = {"l": {"w": PARAMS["a"]}, "l/w": PARAMS["b"]}
    with pytest.raises(ValueError, match=r"must have distinct paths\. Got two leaves of path 'l/w'"):
        structures.trace(lambda params, x: x @ params["l"]["w"] @ params["l/w"], params, X)


def test_numbers_among_the_parameters_vary():
    def apply(params, x):
        return jnp.tanh(params["scale"] * (x @ params["a"])) @ params["b"] * params["times"]

    params = PARAMS | {"scale": 2.0, "times": 3}
    small = shrunk(apply, params, X)
    assert small.sizes["a"] == (3, 4)
    assert small.params["scale"] == 2.0
    changed = {"scale": 5.0, "times": 4}
    close(small.apply(small.params | changed, X), apply(params | changed, X))
    close(jax.jit(small.apply)(small.params | changed, X), apply(params | changed, X))

    def slope(function, params):
        return jax.grad(lambda scale: function(params | {"scale": scale}, X).sum())(params["scale"])

    close(slope(small.apply, small.params), slope(apply, params))


def test_numbers_that_the_function_has_to_know_may_not_change():
    def apply(params, x):
        h = jnp.tanh(params["scale"] * (x @ params["a"]))
        if params["signed"]:
            h = -h
        return h.reshape(params["rows"], -1, 6) @ params["b"]

    params = PARAMS | {"scale": 2.0, "rows": 2, "signed": True}
    small = shrunk(apply, params, X)
    assert small.sizes["a"] == (3, 4)
    close(small.apply(small.params | {"scale": 3.0}, X), apply(params | {"scale": 3.0}, X))
    with pytest.raises(ValueError, match=r"'rows' is a part of what .* traced with 2\. Got 4"):
        small.apply(small.params | {"rows": 4}, X)
    with pytest.raises(ValueError, match=r"'signed' is a part of what .* traced with True\. Got False"):
        small.apply(small.params | {"signed": False}, X)
    with pytest.raises(ValueError, match=r"'rows' is a part .* Keep it out of what jax\.jit"):
        jax.jit(small.apply)(small.params, X)


def test_a_whole_equinox_module_is_parameters():
    keys = jax.random.split(jax.random.key(0))
    model = eqx.nn.Sequential(
        [
            eqx.nn.Linear(3, 6, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Dropout(0.5, inference=True),
            eqx.nn.Linear(6, 2, key=keys[1]),
        ]
    )
    model = eqx.tree_at(lambda m: m[0].weight, model, model[0].weight.at[DEAD].set(0))
    model = eqx.tree_at(lambda m: m[0].bias, model, model[0].bias.at[DEAD].set(0))

    def apply(model, x):
        return jax.vmap(model)(x)

    small = shrunk(apply, model, X)
    assert small.params[0].weight.shape == (4, 3)
    close(small.apply(small.params, X), apply(model, X))
    close(small.apply(eqx.filter(small.params, eqx.is_array_like), X), apply(model, X))
    close(eqx.filter_jit(small.apply)(small.params, X), apply(model, X))
    with pytest.raises(ValueError, match=r"'layers/1/fn' is a part of what the smaller model computes"):
        small.apply(eqx.tree_at(lambda m: m[1].fn, small.params, jax.nn.tanh), X)


def test_transformations_take_it():
    small = shrunk(hidden, PARAMS, X)
    assert jax.eval_shape(small.apply, small.params, X).shape == (4, 2)
    assert len(jax.make_jaxpr(small.apply)(small.params, X).out_avals) == 1
    assert len(jax.export.export(jax.jit(small.apply))(small.params, X).out_avals) == 1


def free(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def test_inputs_that_lost_units_come_in_other_batches():
    params = {"a": draw(5, 3, 8).at[0].set(0).at[:, 2:5].set(0), "b": draw(6, 8, 2)}
    graph = structures.trace(free, params, X, free_inputs=True)
    small = jaxreg.compact(graph, params, inputs=(X,))
    assert small.sizes["a"] == (2, 5)
    assert small.module_difference() is None
    for rows in (slice(None), slice(2)):
        close(small.apply(small.params, X[rows, 1:]), free(params, X[rows]))
    with pytest.raises(ValueError, match=r"input of shape \(4, 2\).*\(4, 3\) before.*Got \(2, 3\)"):
        small.apply(small.params, X[:2])
    with pytest.raises(ValueError, match=r"because units were removed from them"):
        small.apply(small.params, {"x": X[:2, 1:]})


def test_inputs_are_a_sequence():
    graph = structures.trace(hidden, PARAMS, X)
    for wrong in (X[:1], {"x": X}):
        with pytest.raises(TypeError, match=r"'inputs' parameter of compact must be a sequence .* \(x,\)"):
            jaxreg.compact(graph, PARAMS, inputs=wrong)


def test_wide_arrays_of_numpy_are_rounded_as_jax_does():
    params = {name: np.asarray(leaf, np.float64) for name, leaf in PARAMS.items()}
    small = shrunk(hidden, params, X)
    assert small.sizes["a"] == (3, 4)
    close(small.apply(small.params, X), hidden(params, X))


def test_keys_among_the_outputs_are_compared():
    def apply(params, x, key):
        return hidden(params, x), jax.random.split(key)

    key = jax.random.key(0)
    small = jaxreg.compact(structures.trace(apply, PARAMS, X, key), PARAMS, inputs=(X, key))
    assert jnp.array_equal(small.apply(small.params, X, key)[1], jax.random.split(key))


@pytest.mark.parametrize("traced", [2.0, jnp.float32(2)])
@pytest.mark.parametrize("called", [2.0, jnp.float32(2)])
def test_dtypes_are_promoted_as_in_the_large_model(traced, called):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    x = X.astype(jnp.bfloat16)

    def apply(params, x, scale):
        return jnp.tanh((x @ params["a"]) * scale) @ params["b"]

    small = shrunk(apply, params, x, traced)
    assert small.apply(small.params, x, called).dtype == apply(params, x, called).dtype


def test_a_weakly_typed_parameter_may_become_strong():
    def apply(params, x):
        return jnp.tanh((x @ params["a"]) * params["scale"]) @ params["b"]

    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS) | {"scale": jnp.asarray(2.0)}
    x, strong = X.astype(jnp.bfloat16), {"scale": jnp.float32(2)}
    small = shrunk(apply, params, x)
    assert small.apply(small.params, x).dtype == apply(params, x).dtype == jnp.bfloat16
    assert small.apply(small.params | strong, x).dtype == apply(params | strong, x).dtype == jnp.float32


def test_it_is_copied_but_not_pickled():
    small = shrunk(hidden, PARAMS, X)
    close(copy.deepcopy(small).apply(small.params, X), hidden(PARAMS, X))
    with pytest.raises(TypeError, match=r"structures\.save writes what it computes"):
        pickle.dumps(small)


def test_what_is_no_array_is_refused():
    small = shrunk(hidden, PARAMS, X)
    with pytest.raises(TypeError, match=r"takes arrays and numbers\. Got 'x'"):
        small.apply(small.params, "x")

"""Trees that look like the parameters lose what the parameters lose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxreg
from jaxreg import structures


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def apply(params, x):
    return jnp.tanh(x @ params["net"]["up"]) @ params["net"]["down"] + params["net"]["bias"]


@pytest.fixture(scope="module")
def model():
    params = {"net": {"up": draw(0, 200, 160), "down": draw(1, 160, 150), "bias": draw(2, 150)}}
    params["net"]["up"] = params["net"]["up"].at[:, 10:].set(0.0)
    return structures.trace(apply, params, np.ones((1, 200), np.float32)), params


def numbered(tree):
    """Every entry of a matrix is the number of its column, so that a cut can be read off."""
    return jax.tree.map(lambda a: a * 0 + jnp.arange(a.shape[-1], dtype=a.dtype) if a.ndim else a, tree)


def test_factored_moments_are_refused(model):
    graph, params = model
    state = optax.adafactor(1e-2).init(params)
    words = (
        r"'0/v_row/net/down' of shape \(150,\) in 'opt_state' cannot be sliced .* 'net/down' .*: means over"
    )
    with pytest.raises(ValueError, match=words):
        jaxreg.compact(graph, params, opt_state=state)
    whole = jaxreg.compact(graph, {"net": {**params["net"], "up": draw(3, 200, 160)}}, opt_state=state)
    assert jax.tree.map(jnp.shape, whole.opt_state) == jax.tree.map(jnp.shape, state)


def test_what_is_factored_but_loses_nothing_is_kept():
    def apply(params, x):
        return jax.nn.relu((x @ params["table"]) @ params["up"]) @ params["down"]

    params = {"table": draw(0, 130, 140), "up": draw(1, 140, 6).at[:, :2].set(0), "down": draw(2, 6, 2)}
    graph = structures.trace(apply, params, jnp.ones((1, 130)), frozen="table")
    small = jaxreg.compact(graph, params, opt_state=optax.adafactor(1e-2).init(params))
    shapes = [leaf.shape for leaf in jax.tree.leaves(small.opt_state) if leaf.size > 1]
    assert sorted(shapes) == [(4, 2), (130,), (140,), (140, 4)]


def test_a_part_of_the_tree_is_sliced_by_what_is_left_of_its_paths(model):
    graph, params = model
    average = {"net": {"up": params["net"]["up"] + 1}}
    inner = {"up": params["net"]["up"] + 1, "count": jnp.zeros((), jnp.int32)}
    small = jaxreg.compact(graph, params, state=(average, inner))
    assert small.state[0]["net"]["up"].shape == small.state[1]["up"].shape == (200, 10)
    assert small.state[1]["count"] is inner["count"]


def test_what_cannot_be_sliced_like_its_parameter_is_refused_with_its_path(model):
    graph, params = model
    with pytest.raises(ValueError, match=r"'net/up' of shape \(3, 7\) in 'state' cannot be sliced"):
        jaxreg.compact(graph, params, state={"net": {"up": jnp.ones((3, 7))}})


STRANGERS = {
    "another name": lambda params: {"mu": {"foo": draw(0, 4, 16)}},
    "sm3": lambda params: optax.sm3(0.1).init(params),
    "flatten": lambda params: optax.flatten(optax.adam(0.1)).init(params),
    "below its parameter": lambda params: {"mu": {"net": {"up": {"left": draw(0, 3, 8)}}}},
    "a part that is an array": lambda params: optax.adam(0.1).init(params["net"]["up"]),
}


@pytest.fixture(scope="module")
def tiny():
    params = {"net": {"up": draw(0, 3, 8).at[:, :3].set(0), "down": draw(1, 8, 2), "bias": draw(2, 2)}}
    return structures.trace(apply, params, jnp.ones((1, 3))), params


@pytest.mark.parametrize("name", STRANGERS)
def test_what_belongs_to_no_parameter_is_refused(tiny, name):
    graph, params = tiny
    state = STRANGERS[name](params)
    with pytest.raises(ValueError, match=r"in 'opt_state' belongs to no parameter.*optimizer\.init"):
        jaxreg.compact(graph, params, opt_state=state)
    whole = {"net": {**params["net"], "up": draw(3, 3, 8)}}
    assert jaxreg.compact(graph, whole, opt_state=state).sizes["net/up"] == (3, 8)


def test_statistics_that_are_no_parameters_are_refused():
    def apply(params, statistics, x):
        return jax.nn.relu(x @ params["w"] / statistics["deviation"]) @ params["o"]

    params = {"w": draw(0, 3, 8).at[:, :3].set(0), "o": draw(1, 8, 2)}
    statistics = {"deviation": jnp.ones(8)}
    graph = structures.trace(apply, params, statistics, jnp.ones((1, 3)), free_inputs=True)
    with pytest.raises(ValueError, match=r"'deviation' of shape \(8,\) in 'state' belongs to no parameter"):
        jaxreg.compact(graph, params, state=statistics)


@pytest.mark.skipif(not hasattr(optax.contrib, "galore"), reason="an optax without it")
def test_projected_moments_are_refused(tiny):
    graph, params = tiny
    with pytest.raises(ValueError, match=r"in 'opt_state' cannot be sliced .* GaLore"):
        jaxreg.compact(graph, params, opt_state=optax.contrib.galore(0.1, rank=2).init(params))


def test_an_optimizer_is_not_its_state(tiny):
    graph, params = tiny
    with pytest.raises(TypeError, match=r"'opt_state' .* must hold arrays, .* Got <function .* at 'init'"):
        jaxreg.compact(graph, params, opt_state=optax.adam(0.1))


def test_a_state_of_other_sizes_is_refused_even_if_nothing_is_removed(tiny):
    graph, params = tiny
    whole = {"net": {**params["net"], "up": draw(3, 3, 8)}}
    small = jaxreg.compact(graph, params)
    state = optax.adam(0.1).init(small.params)
    with pytest.raises(
        ValueError, match=r"'0/mu/net/down' of shape \(5, 2\) .* 'net/down' of shape \(8, 2\)"
    ):
        jaxreg.compact(graph, whole, opt_state=state)


def test_parameters_that_are_one_array():
    weight = draw(0, 4, 8).at[:, :3].set(0)
    graph = structures.trace(lambda w, x: jax.nn.relu(x @ w).sum(-1), weight, jnp.ones((1, 4)))
    small = jaxreg.compact(graph, weight, opt_state=numbered(optax.adam(0.1).init(weight)))
    assert small.params.shape == (4, 5)
    np.testing.assert_array_equal(small.opt_state[0].mu[0], [3, 4, 5, 6, 7])
    np.testing.assert_array_equal(small.opt_state[0].nu[0], [3, 4, 5, 6, 7])
    with pytest.raises(ValueError, match="cannot be sliced"):
        jaxreg.compact(graph, weight, opt_state=optax.lbfgs(0.1, linesearch=None).init(weight))


def two_layers(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["enc"]["w"]) @ params["dec"]["w"]) @ params["out"]


def test_a_state_of_a_part_goes_to_that_part():
    first, second, last = draw(0, 8, 8).at[:, :2].set(0), draw(1, 8, 8).at[:, 6:].set(0), draw(2, 8, 2)
    params = {"enc": {"w": first}, "dec": {"w": second}, "out": last}
    graph = structures.trace(two_layers, params, jnp.ones((1, 8)))
    small = jaxreg.compact(graph, params, opt_state=optax.adam(0.1).init(params))
    assert small.opt_state[0].mu["enc"]["w"].shape == (8, 6)
    assert small.opt_state[0].mu["dec"]["w"].shape == (6, 6)
    part = numbered(optax.adam(0.1).init(params["enc"]))
    with pytest.raises(ValueError, match="'0/mu/w' of 'opt_state' could belong to 'dec/w' or to 'enc/w'"):
        jaxreg.compact(graph, params, opt_state=part)
    named = jaxreg.compact(graph, params, opt_state={"enc": part})
    np.testing.assert_array_equal(named.opt_state["enc"][0].nu["w"][0], [2, 3, 4, 5, 6, 7])

    longer = {**params, "enc": {"w": draw(3, 3, 8).at[:, :2].set(0)}}  # only one part has this shape
    graph = structures.trace(two_layers, longer, jnp.ones((1, 3)))
    part = optax.adam(0.1).init(longer["enc"])
    assert jaxreg.compact(graph, longer, opt_state=part).opt_state[0].mu["w"].shape == (3, 6)


def actor_and_critic(params, x):
    def tower(params, last):
        return jax.nn.relu(jax.nn.relu(x @ params["l1"]) @ params["l2"]) @ params[last]

    return tower(params["actor"], "mean"), tower(params["critic"], "value")


@pytest.mark.parametrize("by_name", [True, False])
def test_states_of_several_parts_go_to_one_each(by_name):
    params = {
        "actor": {"l1": draw(0, 4, 8).at[:, :2].set(0), "l2": draw(1, 8, 8), "mean": draw(2, 8, 2)},
        "critic": {"l1": draw(3, 4, 8).at[:, 6:].set(0), "l2": draw(4, 8, 8), "value": draw(5, 8, 1)},
    }
    graph = structures.trace(actor_and_critic, params, jnp.ones((1, 4)))
    state = {name: numbered(optax.adam(0.1).init(part)) for name, part in params.items()}
    given = state if by_name else (state["critic"], state["actor"])
    small = jaxreg.compact(graph, params, opt_state=given).opt_state
    critic, actor = (small["critic"], small["actor"]) if by_name else small
    np.testing.assert_array_equal(actor[0].mu["l1"][0], [2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(critic[0].mu["l1"][0], [0, 1, 2, 3, 4, 5])
    assert critic[0].nu["l2"].shape == actor[0].nu["l2"].shape == (6, 8)


def test_parts_of_the_same_paths_and_shapes_are_told_by_name_alone():
    params = {"actor": {"l1": draw(0, 4, 8).at[:, :2].set(0), "l2": draw(1, 8, 2)}}
    params["critic"] = {"l1": draw(2, 4, 8).at[:, 6:].set(0), "l2": draw(3, 8, 2)}

    def apply(params, x):
        return [jax.nn.relu(x @ params[name]["l1"]) @ params[name]["l2"] for name in ("actor", "critic")]

    graph = structures.trace(apply, params, jnp.ones((1, 4)))
    state = {name: numbered(optax.adam(0.1).init(part)) for name, part in params.items()}
    small = jaxreg.compact(graph, params, opt_state=state).opt_state
    np.testing.assert_array_equal(small["critic"][0].mu["l1"][0], [0, 1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="could belong to 'actor/l1' or to 'critic/l1'"):
        jaxreg.compact(graph, params, opt_state=(state["actor"], state["critic"]))


def called_like_moments(params, x):
    return jax.nn.relu(x @ params["w"]) @ params["o"], jax.nn.relu(x @ params["mu"]["w"]).sum(-1)


@pytest.mark.parametrize("masked", [False, True])
def test_parameters_may_be_called_like_moments(masked):
    params = {"w": draw(0, 4, 8).at[:, :2].set(0), "mu": {"w": draw(1, 4, 8).at[:, 6:].set(0)}}
    params["o"] = draw(2, 8, 2)
    graph = structures.trace(called_like_moments, params, jnp.ones((1, 4)))
    optimizer = optax.adam(0.1)
    if masked:
        optimizer = optax.masked(optimizer, {"w": True, "mu": True, "o": False})
    small = jaxreg.compact(graph, params, opt_state=numbered(optimizer.init(params))).opt_state
    moments = (small.inner_state if masked else small)[0]
    for tree in (moments.mu, moments.nu):
        np.testing.assert_array_equal(tree["w"][0], [2, 3, 4, 5, 6, 7])
        np.testing.assert_array_equal(tree["mu"]["w"][0], [0, 1, 2, 3, 4, 5])


def test_a_state_of_one_array_is_not_taken_for_parameters_called_like_moments():
    params = {"m": draw(0, 4, 6).at[:, :2].set(0), "trace": draw(1, 4, 6).at[:, 4:].set(0)}
    graph = structures.trace(
        lambda p, x: jax.nn.relu(x @ p["m"]).sum() + jax.nn.relu(x @ p["trace"]).sum(),
        params,
        jnp.ones((1, 4)),
    )
    momentum = optax.sgd(0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"'m/0/trace' of shape .* belongs to no parameter"):
        jaxreg.compact(graph, params, opt_state={name: momentum.init(w) for name, w in params.items()})
    small = jaxreg.compact(graph, params, opt_state=numbered(momentum.init(params)))
    np.testing.assert_array_equal(small.opt_state[0].trace["trace"][0], [0, 1, 2, 3])

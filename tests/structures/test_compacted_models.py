"""What can be done with a compacted model: train it, map it, shrink it again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close
from structures.models import CASES
from structures.oracles import (
    Outputs,
    Run,
    compiled,
    dead_units,
    differ,
    golden,
    graph_of,
    leaves_by_path,
    made_of,
    prepared,
    with_zeros,
    without,
)

import jaxreg
from jaxreg import structures

CASE = {case.name: case for case in CASES}
TRAINED = [
    "mlp",
    "custom_gradient",
    "grouped_convolution",
    "gpt_qkv_by_reshape",
    "scanned_layers",
    "gru",
    "nnx",
]


def compacted(case):
    """The model with zeros, what was cut out of it, and the smaller one."""
    made, graph = made_of(case), graph_of(case)
    chosen = [
        (group, units) for group, units in dead_units(graph.groups) if golden(case, group).refused is None
    ]
    params = with_zeros(made.params, chosen)
    return params, chosen, jaxreg.compact(graph, params)


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_are_those_of_what_is_left(name):
    """Rules of their own included: the straight-through sign, relu at 0, the rematerialised scan."""
    case = CASE[name]
    made, run = prepared(case)
    params, chosen, small = compacted(case)
    outputs, grads = run(params)
    small_outputs, small_grads = Run(small.apply, small.params, made.inputs, case.output)(small.params)
    assert differ(outputs, small_outputs) < 1e-5
    expected = without(leaves_by_path(grads), chosen)
    found = leaves_by_path(small_grads)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, rtol=1e-4, atol=1e-5)
    assert max(np.abs(gradient).max() for gradient in found.values()) > 0.1


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
        optax.sgd(0.1, momentum=0.9),
        jaxreg.prox_adam(0.1, jaxreg.l1(0.01)),
        optax.masked(optax.adam(0.1), jaxreg.masks.weights),
    ],
    ids=["adamw", "momentum", "prox_adam", "masked"],
)
def test_optimizer_states_are_cut_like_their_parameters(optimizer):
    case = CASE["lenet"]
    made, graph = made_of(case), graph_of(case)
    chosen = dead_units(graph.groups)
    params = with_zeros(made.params, chosen)
    state = jax.tree.map(np.asarray, jax.jit(optimizer.init)(params))
    random = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: random.uniform(1, 2, leaf.shape).astype(leaf.dtype) if leaf.ndim else leaf + 7,
        state,
    )
    small = jaxreg.compact(graph, params, opt_state=state)
    assert jax.tree.structure(small.opt_state) == jax.tree.structure(state)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(optimizer.init, small.params))
    assert jax.tree.map(jnp.shape, small.opt_state) == shapes

    # Counts are kept, and every moment is that of the weight which it stood beside.
    by_shape = {leaf.shape: path for path, leaf in leaves_by_path(params).items()}
    compared = 0
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(small.opt_state), strict=True):
        if old.ndim == 0:
            assert new == old
        elif old.shape in by_shape:
            leaf = np.array(old)
            path = by_shape[old.shape]
            expected = without({**leaves_by_path(params), path: leaf}, chosen)[path]
            assert np.asarray(new).tobytes() == expected.tobytes()
            compared += 1
    assert compared >= 4


def test_one_more_step_is_the_same_step():
    """An update of the smaller model is the update of what is left of the larger one."""
    case = CASE["mlp_silu_gelu"]
    made = made_of(case)
    optimizer = optax.adamw(0.1, weight_decay=0.01)

    def step(apply, *given):
        def updated(params, state):
            grads = jax.grad(lambda p: jnp.mean(apply(p, *made.inputs) ** 2))(params)
            return jaxreg.step(optimizer, grads, state, params)

        return compiled(updated, *given)

    graph = graph_of(case)
    chosen = dead_units(graph.groups)
    start = with_zeros(made.params, chosen)
    state = jax.jit(optimizer.init)(start)
    large = step(made.apply, start, state)
    _, state = large(start, state)
    small = jaxreg.compact(graph, start, opt_state=state)
    large_params, _ = large(start, state)
    given = small.params, small.opt_state
    small_params, _ = step(small.apply, *given)(*given)
    expected = without(leaves_by_path(large_params), chosen)
    assert_close(leaves_by_path(small_params), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "densenet", "elman", "sigmoid_before_a_bias"])
def test_a_second_round_of_removal(name):
    case = CASE[name]
    made = made_of(case)
    _, _, small = compacted(case)
    graph = structures.trace(small.apply, small.params, *made.inputs, **case.options)
    sizes = sorted(group.size for group in graph.groups)
    left = sorted(len(kept) for kept in small.kept if len(kept) > 1)
    assert sizes == left
    chosen = [(group, [group.size - 1]) for group in graph.groups]
    params = with_zeros(small.params, chosen)
    smaller = jaxreg.compact(graph, params)
    assert smaller.refused == ()
    assert [len(kept) for kept in smaller.kept] == [group.size - 1 for group in graph.groups]
    before = Outputs(small.apply, params, made.inputs, case.output)(params)
    after = Outputs(smaller.apply, smaller.params, made.inputs, case.output)(smaller.params)
    assert differ(before, after) < 1e-5


@pytest.mark.parametrize("name", ["lenet", "gru"])
def test_another_batch_size(name):
    case = CASE[name]
    made = made_of(case)
    params, _, small = compacted(case)
    fewer = [x[:1] for x in made.inputs]
    expected = Outputs(made.apply, params, fewer, case.output)(params)
    assert differ(expected, Outputs(small.apply, small.params, fewer, case.output)(small.params)) < 1e-5


def test_it_may_be_jitted_mapped_and_compiles_once():
    case = CASE["mlp"]
    made = made_of(case)
    params, _, small = compacted(case)
    compilations = []

    @jax.jit
    def apply(params, x):
        compilations.append(1)
        return small.apply(params, x)

    [x] = made.inputs
    for factor in (1.0, 2.0):
        np.testing.assert_allclose(apply(small.params, factor * x), made.apply(params, factor * x), atol=1e-5)
    assert len(compilations) == 1
    rows = jax.jit(jax.vmap(small.apply, (None, 0)))(small.params, x[:, None])
    np.testing.assert_allclose(rows[:, 0], apply(small.params, x), atol=1e-5)


def test_state_that_is_kept_apart_is_cut_too():
    """An average of the parameters, such as the exponential one that is evaluated."""
    case = CASE["mlp"]
    made, graph = made_of(case), graph_of(case)
    chosen = dead_units(graph.groups)
    average = jax.tree.map(lambda leaf: 0.5 * leaf, made.params)
    small = jaxreg.compact(graph, with_zeros(made.params, chosen), state=average)
    expected = without(leaves_by_path(average), chosen)
    assert_close(leaves_by_path(small.state), expected)


def test_the_recorded_function_is_not_always_the_module():
    """Where a length is written into the function, running it on the smaller parameters is another model.

    LayerNorm would silently divide by the new length; Linen modules refuse parameters of other sizes.
    """
    for name, same in [
        ("mlp", True),
        ("shared_weights", True),
        ("layer_norm_of_squares", False),
        ("lenet", False),
    ]:
        _, _, small = compacted(CASE[name])
        assert small.same_module is same, name
        assert (small.module_difference() is None) is same

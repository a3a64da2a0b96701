"""A graph as the structure of penalties: one norm per unit, over every leaf that makes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from structures.models import CASES
from structures.oracles import compiled, graph_of, inside, leaves_by_path, made_of, producers

import jaxreg

STRENGTH = 0.2
CASE = {case.name: case for case in CASES}
DISJOINT = ["mlp", "lenet", "resnet_a", "mobilenet", "lstm"]
"""Models in which no two groups hold the same producing elements."""


def graph_with_state(case):
    return graph_of(case, state="batch_stats/**" if "batch_stats" in made_of(case).params else ())


def called(function, *args):
    return compiled(function, *args)(*args)


def norms(case, params, weigh):
    """sum sqrt(|g|) ||w_g|| from the hand-written groups, unit by unit."""
    leaves = leaves_by_path(params)
    total = 0.0
    for group in case.groups:
        for unit in range(group.size):
            entries = inside(leaves, producers(group), [unit])
            held = np.concatenate([leaves[path][entries[path]] for path in leaves]).astype(np.float64)
            total += np.sqrt(held.size if weigh else 1.0) * np.sqrt(np.sum(held**2))
    return total


@pytest.mark.parametrize(("name", "weigh"), [*((name, True) for name in DISJOINT), ("mlp", False)])
def test_the_value_is_the_sum_of_norms_over_all_leaves(name, weigh):
    case = CASE[name]
    made = made_of(case)
    graph = graph_with_state(case)
    penalty = jaxreg.group_lasso(STRENGTH, graph, size_weights=weigh)
    expected = STRENGTH * norms(case, made.params, weigh)
    np.testing.assert_allclose(called(penalty, made.params), expected, rtol=1e-5)


@pytest.mark.parametrize("name", DISJOINT)
def test_the_prox_scales_every_unit_by_its_norm(name):
    case = CASE[name]
    made = made_of(case)
    graph = graph_with_state(case)
    penalty = jaxreg.group_lasso(1.0, graph, size_weights=False)
    leaves = leaves_by_path(made.params)
    expected = {path: leaf.copy() for path, leaf in leaves.items()}
    radii = []
    for group in case.groups:
        for unit in range(group.size):
            entries = inside(leaves, producers(group), [unit])
            radius = np.sqrt(sum(np.sum(leaves[path][entries[path]] ** 2, dtype=float) for path in leaves))
            radii.append((radius, entries))
    middle = len(radii) // 2
    step = float(np.mean(sorted(radius for radius, _ in radii)[middle - 1 : middle + 1]))
    for radius, entries in radii:
        for path, leaf in expected.items():
            leaf[entries[path]] *= max(1 - step / radius, 0.0)
    got = leaves_by_path(called(penalty.prox, made.params, step))
    assert_close(got, expected, rtol=2e-5, atol=1e-6)
    assert any(np.any(leaf == 0) for leaf in got.values())


def test_state_and_consumers_and_outputs_keep_their_bits():
    case = CASE["resnet_b"]
    made = made_of(case)
    penalty = jaxreg.group_lasso(1e3, graph_with_state(case))
    before, after = (leaves_by_path(tree) for tree in (made.params, called(penalty.prox, made.params, 1.0)))
    for path in before:
        if path.startswith("batch_stats") or "classes" in path:
            assert before[path].tobytes() == after[path].tobytes()
        else:
            assert not after[path].any()


def test_new_values_of_state_need_not_be_named_twice():
    case = CASE["resnet_b_in_training"]
    value = called(jaxreg.group_lasso(STRENGTH, graph_of(case)), made_of(case).params)
    np.testing.assert_allclose(value, STRENGTH * norms(case, made_of(case).params, True), rtol=1e-5)


def test_the_parameters_alone_may_be_penalised():
    case = CASE["lenet"]
    params = made_of(case).params
    penalty = jaxreg.group_lasso(STRENGTH, graph_of(case))
    assert_close(called(penalty, params["params"]), called(penalty, params))
    assert_close(called(penalty.prox, params["params"], 0.5), called(penalty.prox, params, 0.5)["params"])


def test_of_groups_that_overlap_the_slower_axis_is_penalised():
    """Heads, not the channels of a head: both lie in the same projection."""
    case = CASE["gpt_qkv_by_reshape"]
    params, graph = made_of(case).params, graph_of(case)
    qkv = np.asarray(params["qkv"]["kernel"]).reshape(8, 3, 2, 4)
    bias = np.asarray(params["qkv"]["bias"]).reshape(3, 2, 4)
    over_heads = np.sqrt((qkv**2).sum((0, 1, 3)) + (bias**2).sum((0, 2))).sum()
    over_channels = np.sqrt((qkv**2).sum((0, 1, 2)) + (bias**2).sum((0, 1))).sum()
    mask = jaxreg.masks.path("qkv/*")
    by_heads = jaxreg.group_lasso(1.0, graph, size_weights=False, mask=mask)
    np.testing.assert_allclose(called(by_heads, params), over_heads, rtol=1e-5)
    chosen = graph.only(group for group in graph.groups if group.size == 4)
    by_channels = jaxreg.group_lasso(1.0, chosen, size_weights=False, mask=mask)
    np.testing.assert_allclose(called(by_channels, params), over_channels, rtol=1e-5)


def test_graphs_rebuilt_in_a_loop_compile_once():
    case = CASE["mlp"]
    made = made_of(case)
    compilations = []

    @jax.jit
    def prox(penalty, params):
        compilations.append(1)
        return penalty.prox(params, 0.1)

    for strength in (0.1, 0.2):
        graph = jaxreg.structures.trace(made.apply, made.params, *made.inputs)
        prox(jaxreg.group_lasso(strength, graph), made.params)
    assert len(compilations) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda graph: jaxreg.sparse_group_lasso(STRENGTH, graph, 0.5),
        lambda graph: jaxreg.mcp(STRENGTH, groups=graph),
        lambda graph: jaxreg.l0(STRENGTH, groups=graph),
        lambda graph: jaxreg.max_norm(0.5, groups=graph),
    ],
    ids=["sparse_group_lasso", "mcp", "l0", "max_norm"],
)
def test_units_of_other_group_penalties_are_whole(make):
    """A kernel's column and its bias are one unit, as if the bias were one more row of the kernel."""
    case = CASE["mlp"]
    made = made_of(case)
    joined = {
        layer: np.concatenate([made.params[layer]["kernel"], made.params[layer]["bias"][None]])
        for layer in ("0", "1")
    }
    by_graph = called(make(graph_of(case)).prox, made.params, 0.4)
    by_columns = called(make(jaxreg.groups.outputs()).prox, joined, 0.4)
    for layer, both in by_columns.items():
        assert_close(by_graph[layer]["kernel"], both[:-1])
        assert_close(by_graph[layer]["bias"], both[-1])


def test_whole_units_are_counted():
    case = CASE["mlp"]
    made = made_of(case)
    params = {**made.params, "0": jax.tree.map(lambda leaf: leaf.at[..., :2].set(0.0), made.params["0"])}
    assert float(jaxreg.sparsity(params, graph_of(case))) == pytest.approx(2 / 14)


def test_a_proximal_optimizer_makes_whole_units_zero():
    case = CASE["mlp"]
    made = made_of(case)
    penalty = jaxreg.group_lasso(1.0, graph_of(case), size_weights=False)
    optimizer = jaxreg.prox_sgd(0.1, penalty)

    def train(params):
        def step(_, carry):
            grads = jax.grad(lambda p: jnp.mean(made.apply(p, *made.inputs) ** 2))(carry[0])
            return jaxreg.step(optimizer, grads, carry[1], carry[0])

        return jax.lax.fori_loop(0, 12, step, (params, optimizer.init(params)))[0]

    params = called(train, made.params)
    dead = {layer: ~np.any(params[layer]["kernel"], axis=0) for layer in ("0", "1")}
    for layer, units in dead.items():
        np.testing.assert_array_equal(np.asarray(params[layer]["bias"]) == 0, units)
    counts = [int(units.sum()) for units in dead.values()]
    assert 0 < sum(counts) < 14, counts


def test_a_leaf_of_another_shape_is_refused():
    case = CASE["mlp"]
    params = jax.tree.map(jnp.zeros_like, made_of(case).params)
    params["0"]["kernel"] = jnp.zeros((5, 7))
    with pytest.raises(ValueError, match=r"'0/kernel' of shape \(5, 8\). Got \(5, 7\)"):
        jaxreg.group_lasso(1.0, graph_of(case))(params)


def side_by_side(params, x):
    """A fused kernel makes two groups of units, one of which feeds a third."""
    first, second = jnp.split(x @ params["fused"], [7], -1)
    third = jax.nn.relu(jax.nn.relu(second) @ params["mid"] + params["bias"])
    return (jax.nn.relu(first) * params["a_scale"]) @ params["out"] + third @ params["end"]


@pytest.fixture(scope="module")
def fused():
    rng = np.random.default_rng(0)
    shapes = {"fused": (4, 12), "a_scale": (7,), "out": (7, 2), "mid": (5, 6), "bias": (6,), "end": (6, 2)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return jaxreg.structures.trace(side_by_side, params, np.ones((8, 4), np.float32)), params


def norms_over_members(graph, params):
    total = 0.0
    for group in graph.groups:
        for unit in range(group.size):
            held = [
                np.take(params[member.path], member.indices[unit], member.axis).ravel()
                for member in group.members
                if graph.consumers or member.role == "produces"
            ]
            total += np.sqrt(sum(map(len, held))) * np.linalg.norm(np.concatenate(held))
    return total


def test_a_part_of_a_fused_kernel_is_not_left_out_in_silence(fused):
    graph, params = fused
    first = graph.only(group for group in graph.groups if group.size == 7)
    words = r"'fused' .* 7 of the 12 positions of its axis 1 .*: 7 units of 'a_scale'. .*: 5 units of 'fused'"
    with pytest.raises(ValueError, match=words):
        jaxreg.group_lasso(1.0, first)(params)
    elsewhere = jaxreg.group_lasso(1.0, first, mask=jaxreg.masks.path("a_scale"))
    np.testing.assert_allclose(elsewhere(params), np.abs(params["a_scale"]).sum(), rtol=1e-6)
    both = graph.only(group for group in graph.groups if group.size in (5, 7))
    np.testing.assert_allclose(
        jaxreg.group_lasso(1.0, both)(params), norms_over_members(both, params), rtol=1e-5
    )


def test_groups_of_a_fused_kernel_stay_together(fused):
    graph, params = fused
    graphs = graph.with_consumers().disjoint()
    assert [sorted(group.size for group in part.groups) for part in graphs] == [[5, 7], [6]]
    expected = sum(norms_over_members(part, params) for part in graphs)
    np.testing.assert_allclose(jaxreg.overlapping_group_lasso(1.0, graphs)(params), expected, rtol=1e-5)


def test_groups_of_one_leaf_that_overlap_in_another_are_refused():
    """What reads a concatenation of all layers holds groups that follow one another."""

    def dense(params, x):
        first = jax.nn.relu(x @ params["a"])
        return jnp.concatenate([first, jax.nn.relu(first @ params["b"])], -1) @ params["out"]

    params = {"a": np.ones((2, 3), np.float32), "b": np.ones((3, 4), np.float32)}
    params["out"] = np.ones((7, 2), np.float32)
    graphs = jaxreg.structures.trace(dense, params, np.ones((1, 2), np.float32)).with_consumers().disjoint()
    with pytest.raises(ValueError, match="'out' is penalised as a whole or not at all"):
        jaxreg.overlapping_group_lasso(1.0, graphs)(params)
    rest = jaxreg.overlapping_group_lasso(1.0, graphs, mask=jaxreg.masks.path("a", "b"))
    expected = np.sqrt(6) * 3 * np.sqrt(6) + np.sqrt(3) * 4 * np.sqrt(3)
    np.testing.assert_allclose(rest(params), expected, rtol=1e-5)


def test_units_of_a_recurrent_kernel_are_its_columns():
    """Its rows consume the same units, and a row of one unit crosses the columns of all others."""

    def recurrent(params, x):
        hidden = jax.nn.relu(x @ params["in"])
        return jax.nn.relu(hidden @ params["again"] + x @ params["in"]) @ params["out"]

    rng = np.random.default_rng(0)
    shapes = {"in": (3, 5), "again": (5, 5), "out": (5, 2)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    graph = jaxreg.structures.trace(recurrent, params, np.ones((2, 3), np.float32)).with_consumers()
    held = np.concatenate([params["in"], params["again"], params["out"].T])
    penalty = jaxreg.group_lasso(1.0, graph, size_weights=False)
    np.testing.assert_allclose(penalty(params), np.linalg.norm(held, axis=0).sum(), rtol=1e-6)
    rows = {(row.path, row.axis): row.penalised for row in graph.describe().rows}
    assert rows == {("again", 0): False, ("again", 1): True, ("in", 1): True, ("out", 0): True}

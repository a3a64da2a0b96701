"""The k largest against sorting, and the projection against all supports there are."""

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxreg
from jaxreg import groups, masks
from jaxreg.penalties import selection

double = pytest.mark.usefixtures("x64")
Tree = dict[str, Any]


@functools.partial(jax.jit, static_argnames=("scope", "structure"))
def kept(params: Tree, k: Any, step: Any = 1.0, scope: str = "global", structure: Any = None) -> Tree:
    return jaxreg.top_k(k, scope=scope, groups=structure).prox(params, step)


def by_sorting(params: Tree, k: int) -> Tree:
    """The first k in a stable order of moduli, zeros left out."""
    sizes = np.concatenate([np.abs(leaf).ravel() for leaf in params.values()])
    chosen = np.zeros(sizes.size, bool)
    chosen[np.argsort(-sizes, kind="stable")[:k]] = True
    ends = np.cumsum([leaf.size for leaf in params.values()])[:-1]
    parts = np.split(chosen, ends)
    return {
        name: np.where(part.reshape(leaf.shape), leaf, 0)
        for (name, leaf), part in zip(params.items(), parts, strict=True)
    }


def assert_same(found: Tree, expected: Tree) -> None:
    for name, leaf in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), leaf, err_msg=name)


def draw(seed: int, kind: str, dtype: Any = np.float32) -> Tree:
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (), "c": (0,), "d": (5, 2, 3), "e": (7,)}
    makers = {
        "normal": lambda s: rng.normal(size=s),
        "ties": lambda s: rng.integers(-2, 3, size=s),
        "equal": lambda s: np.full(s, -1.5),
        "tiny": lambda s: rng.normal(size=s) * 1e-30,
        "huge": lambda s: rng.normal(size=s) * 1e30,
        "denormal": lambda s: rng.integers(0, 4, size=s) * 1.5e-45,
        "wide": lambda s: rng.normal(size=s) * 10.0 ** rng.integers(-37, 38, size=s),
        "infinite": lambda s: np.where(rng.random(s) < 0.2, np.inf, rng.normal(size=s)),
    }
    return {name: np.asarray(makers[kind](shape), dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "tiny", "huge", "denormal", "wide", "infinite"])
def test_global_k_is_what_sorting_finds(kind: str) -> None:
    params = draw(0, kind)
    for k in (1, 2, 3, 11, 25, 49, 50, 51, 1000):
        found = kept(params, k)
        assert_same(found, by_sorting(params, k))
        nonzero = sum(np.count_nonzero(leaf) for leaf in params.values())
        assert sum(np.count_nonzero(leaf) for leaf in found.values()) == min(k, nonzero)


@pytest.mark.parametrize("kind", ["normal", "ties", "wide"])
def test_k_of_each_leaf_is_what_sorting_finds(kind: str) -> None:
    params = draw(1, kind)
    for k in (1, 3, 12, 30):
        expected = {name: by_sorting({name: leaf}, k)[name] for name, leaf in params.items()}
        assert_same(kept(params, k, scope="leaf"), expected)


@double
@pytest.mark.parametrize("kind", ["normal", "ties", "wide"])
def test_in_double_precision_neighbours_differ(kind: str) -> None:
    params = draw(2, kind, np.float64)
    params["e"] = 1 + np.arange(7) * 2.0**-52
    for k in (1, 4, 20, 45):
        assert_same(kept(params, k), by_sorting(params, k))


@double
def test_leaves_of_different_precision_are_compared() -> None:
    params = {
        "half": jnp.array([1.0, 0.5], jnp.bfloat16),
        "single": np.array([1.0 + 2**-20, 0.25], np.float32),
        "double": np.array([1.0 + 2**-40, 0.75]),
    }
    found = jaxreg.top_k(2).prox(params, 1.0)
    assert_same(found, {"half": np.zeros(2), "single": [1.0 + 2**-20, 0.0], "double": [1.0 + 2**-40, 0.0]})
    assert [leaf.dtype for leaf in found.values()] == [np.float64, jnp.bfloat16, np.float32]


def test_complex_weights_count_by_modulus() -> None:
    w = jnp.array([3 + 4j, 4.5, -5.5j, 0.0])
    np.testing.assert_array_equal(jaxreg.top_k(2).prox(w, 1.0), [3 + 4j, 0, -5.5j, 0])


def test_of_equals_the_first_is_kept_and_zeros_do_not_count() -> None:
    params = {"a": np.array([1.0, -2.0, 1.0]), "b": np.array([2.0, 1.0, 0.0])}
    assert_same(kept(params, 3), {"a": [1.0, -2.0, 0.0], "b": [2.0, 0.0, 0.0]})
    assert_same(kept(params, 5), params)
    assert_same(kept(params, 6), params)


def test_nan_is_kept_whatever_else_is() -> None:
    for count in (1, 3):
        w = np.array([1.0, np.nan, 2.0, np.nan])
        np.testing.assert_array_equal(kept({"w": w}, count)["w"][1::2], np.nan)
    assert jaxreg.top_k(4)(jnp.array([1.0, jnp.nan])) == np.inf


@pytest.mark.parametrize(
    ("fraction", "total", "expected"),
    [(0.5, 5, 2), (0.3, 10, 3), (0.1, 3, 1), (1.0, 7, 7), (0.9, 1001, 901), (1e-9, 50, 1), (0.29, 100, 29)],
)
def test_a_fraction_is_rounded_to_a_count(fraction: float, total: int, expected: int) -> None:
    for given in (fraction, np.float64(fraction), jnp.float32(fraction)):
        assert most(given, total) == expected


def test_the_dtype_says_whether_it_is_a_count() -> None:
    for one in (1, np.int64(1), jnp.int32(1), jnp.uint8(1)):
        assert most(one, 8) == 1
    for whole in (1.0, np.float32(1), jnp.bfloat16(1)):
        assert most(whole, 8) == 8


@functools.partial(jax.jit, static_argnames="total")
def most(k: Any, total: int) -> jax.Array:
    """How many of a vector's elements may be in use, traced."""
    corner = jnp.tri(total + 1, total, -1)
    return jnp.sum(jax.vmap(jaxreg.top_k(k))(corner) == 0) - 1


def test_fractions_of_each_leaf() -> None:
    params = {"a": np.arange(1.0, 11.0), "b": np.arange(1.0, 4.0), "c": np.array(0.5)}
    found = kept(params, 0.3, scope="leaf")
    assert [np.count_nonzero(leaf) for leaf in found.values()] == [3, 1, 1]


def by_trying_all(x: np.ndarray, step: np.ndarray, k: int, labels: np.ndarray | None = None) -> float:
    """The least objective of all supports; what has step 0 stays, whether or not it fits."""
    labels = np.arange(x.size) if labels is None else labels
    names = np.unique(labels)
    fixed = {name for name in names if np.any((labels == name) & (step == 0) & (x != 0))}
    best = np.inf
    for count in range(min(k, len(names)) + 1):
        for support in itertools.combinations(names, count):
            # With more than k of these there is room for nothing else.
            if not (fixed <= set(support) if len(fixed) <= k else set(support) <= fixed):
                continue
            lost = ~np.isin(labels, support) & (step > 0)
            best = min(best, np.sum(x[lost] ** 2 / (2 * step[lost])))
    return best


def cost_of(z: np.ndarray, x: np.ndarray, step: np.ndarray) -> float:
    moved = z != x
    assert np.all(step[moved] > 0)
    return float(np.sum((z - x)[moved] ** 2 / (2 * step[moved])))


@double
def test_steps_per_element_against_all_supports() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, step = rng.normal(size=9), 10.0 ** rng.uniform(-3, 2, size=9)
        step[rng.random(9) < 0.2] = 0.0
        for k in (1, 2, 5, 8):
            tree = {"a": x[:4], "b": x[4:]}
            found = kept(tree, k, {"a": step[:4], "b": step[4:]})
            z = np.concatenate(list(found.values()))
            np.testing.assert_array_equal(z[step == 0], x[step == 0])
            assert np.count_nonzero(z) == max(k, np.count_nonzero(step == 0))
            np.testing.assert_allclose(cost_of(z, x, step), by_trying_all(x, step, k), rtol=1e-12, atol=1e-15)


@double
def test_groups_against_all_supports() -> None:
    rng = np.random.default_rng(3)
    labels = np.broadcast_to(np.arange(5), (3, 5)).ravel()
    for per_element in (False, True):
        x = rng.normal(size=15)
        step = 10.0 ** rng.uniform(-3, 2, size=15) if per_element else np.full(15, 0.3)
        if per_element:
            step[4] = 0.0
        for k in (1, 2, 4):
            sizes = {"w": step.reshape(3, 5)} if per_element else 0.3
            z = kept({"w": x.reshape(3, 5)}, k, sizes, structure=groups.outputs())["w"]
            assert np.count_nonzero(np.any(z, axis=0)) == k
            found = cost_of(np.asarray(z).ravel(), x, step)
            np.testing.assert_allclose(found, by_trying_all(x, step, k, labels), rtol=1e-12)


def test_groups_of_unequal_size_over_leaves_and_fractions_of_groups() -> None:
    params = {"a": jnp.array([[1.0, 3.0], [1.0, 0.0]]), "b": jnp.array([[2.0, 0.1], [2.0, 0.1], [0.5, 0.1]])}
    expected = {"a": [[0.0, 3.0], [0.0, 0.0]], "b": [[2.0, 0.0], [2.0, 0.0], [0.5, 0.0]]}
    for k in (2, 0.5):
        assert_same(kept(params, k, structure=groups.outputs()), expected)
    assert_same(kept(params, 1, scope="leaf", structure=groups.outputs()), expected)
    equals = {"a": jnp.array([[0.0, 1.0], [0.0, 0.0]]), "b": jnp.array([[0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])}
    expected = {"a": equals["a"], "b": [[0.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]}
    assert_same(kept(equals, 2, structure=groups.outputs()), expected)


def test_a_step_per_leaf_weighs_the_leaves() -> None:
    params = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}
    assert_same(kept(params, 2, {"a": 0.01, "b": 1.0}), {"a": [1.0, 2.0], "b": [0.0, 0.0]})
    assert_same(kept(params, 2, {"a": 0.0, "b": 1.0}), {"a": [1.0, 2.0], "b": [0.0, 0.0]})
    assert_same(kept(params, 3, {"a": 0.0, "b": 1.0}), {"a": [1.0, 2.0], "b": [0.0, 4.0]})
    assert_same(kept(params, 1, {"a": 0.0, "b": 1.0}), {"a": [1.0, 2.0], "b": [0.0, 0.0]})


@pytest.mark.parametrize("step", [1e-37, 1e-20, 1e20, 1e30])
def test_extreme_steps_lose_no_element(step: float) -> None:
    """Costs beyond the floats still count as more than nothing, and as less than what may not move."""
    x = np.array([1e-30, 1e30, 1e-38, 0.0, 1.0], np.float32)
    steps = {"w": np.array([step, step, step, step, 0.0], np.float32)}
    np.testing.assert_array_equal(kept({"w": x}, 4, steps)["w"], x)
    np.testing.assert_array_equal(kept({"w": x}, 2, steps)["w"], x * [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(kept({"w": x}, 1, steps)["w"], x * [0, 0, 0, 0, 1])


@double
def test_l1_before_it_is_the_minimiser_of_the_sum() -> None:
    rng = np.random.default_rng(5)
    x, step, strength, k = rng.normal(size=8), 10.0 ** rng.uniform(-2, 1, size=8), 0.4, 3
    for signed in (False, True):
        penalty = jaxreg.top_k(k) + jaxreg.l1(strength) + jaxreg.l2(0.1)
        penalty = penalty + jaxreg.non_negative() if signed else penalty
        z = np.asarray(penalty.prox({"w": x}, {"w": step})["w"])

        def objective(z: np.ndarray) -> float:
            return strength * np.abs(z).sum() + 0.1 * np.sum(z**2) + np.sum((z - x) ** 2 / (2 * step))

        best = np.inf
        for support in itertools.combinations(range(8), k):
            shrunk = np.sign(x) * np.maximum(np.abs(x) - step * strength, 0) / (1 + 0.2 * step)
            shrunk = np.maximum(shrunk, 0) if signed else shrunk
            best = min(best, objective(np.where(np.isin(np.arange(8), support), shrunk, 0.0)))
        np.testing.assert_allclose(objective(z), best, rtol=1e-12)
    with pytest.raises(ValueError, match="sum of group_lasso and top_k has no exact prox"):
        (jaxreg.group_lasso(0.1, groups.outputs()) + jaxreg.top_k(2)).prox({"w": jnp.ones((2, 2))}, 1.0)


def test_value() -> None:
    w = {"a": jnp.array([1.0, 0.0, 2.0]), "b": jnp.array([[1e-45, 0.0], [0.0, 0.0]])}
    assert jaxreg.top_k(3)(w) == 0
    assert jaxreg.top_k(2)(w) == np.inf
    assert jaxreg.top_k(2, scope="leaf")(w) == 0
    assert jaxreg.top_k(1, scope="leaf")(w) == np.inf
    on_b = jaxreg.top_k(1, groups=groups.outputs(), mask=masks.path("b"))
    assert on_b(w) == 0
    assert on_b({"a": w["a"], "b": jnp.ones((2, 2))}) == np.inf


def test_optimality_is_basic_feasibility() -> None:
    slope = jnp.array([0.5, -0.25, 2.0])
    for w, k, expected in (
        ([1.0, 0.0, 0.0], 1, [0.5, 0.0, 0.0]),
        ([1.0, 0.0, 0.0], 2, [0.5, 0.25, 2.0]),
        ([1.0, 2.0, 0.0], 2, [0.5, 0.25, 0.0]),
        ([1.0, 2.0, 3.0], 3, [0.5, 0.25, 2.0]),
        ([1.0, 2.0, 3.0], 2, [np.inf] * 3),
    ):
        np.testing.assert_array_equal(jaxreg.top_k(k).optimality(jnp.array(w), slope), expected)
    both = jaxreg.top_k(1) + jaxreg.l1(0.2)
    np.testing.assert_allclose(both.optimality(jnp.array([1.0, 0.0, 0.0]), slope), [0.7, 0.0, 0.0])
    structured = jaxreg.top_k(1, groups=groups.outputs())
    w, slope = jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([[3.0, 1.0], [4.0, 1.0]])
    np.testing.assert_allclose(structured.optimality(w, slope), [[5.0, 0.0], [5.0, 0.0]])


@double
def test_iterative_hard_thresholding_finds_a_sparse_signal() -> None:
    rng = np.random.default_rng(6)
    truth = np.zeros(60)
    truth[rng.choice(60, 4, replace=False)] = [2.0, -1.5, 1.0, 3.0]
    design = rng.normal(size=(40, 60)) / np.sqrt(40)
    optimizer = jaxreg.prox_sgd(0.3, jaxreg.top_k(4))

    def step(carry: Any, _: Any) -> Any:
        w, state = carry
        grad = design.T @ (design @ w - design @ truth)
        updates, state = optimizer.update(grad, state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.zeros(60)
    (w, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=300)
    np.testing.assert_allclose(w, truth, atol=1e-9)


def test_derivatives() -> None:
    x = jnp.array([3.0, 0.0, -2.0, 1.0])
    slope = jax.grad(lambda x, k: jnp.sum(jaxreg.top_k(k).prox(x, 1.0) ** 2), (0, 1))(x, 0.5)
    np.testing.assert_array_equal(slope[0], [6.0, 0.0, -4.0, 0.0])
    assert slope[1] == 0
    steps = jax.grad(lambda s: jnp.sum(jaxreg.top_k(2).prox({"w": x}, {"w": s})["w"]))(jnp.full(4, 0.5))
    np.testing.assert_array_equal(steps, 0)


def test_vmap_over_k_and_weights_and_one_trace_for_all_k() -> None:
    x = {name: leaf for name, leaf in draw(7, "ties").items() if name in "ae"}
    counts = jnp.arange(1, 20, 4)
    other = jax.tree.map(lambda leaf: -2 * leaf[::-1], x)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), x, other)
    project = jax.vmap(jax.vmap(lambda w, k: jaxreg.top_k(k).prox(w, 1.0), (0, None)), (None, 0))
    mapped = jax.jit(project)(both, counts)
    for row, k in enumerate(counts):
        for column, w in enumerate((x, other)):
            found = {name: leaf[row, column] for name, leaf in mapped.items()}
            assert_same(found, by_sorting(w, int(k)))
    before = kept._cache_size()
    for k in range(5, 9):
        kept(x, k)
    assert kept._cache_size() <= before + 1


@pytest.mark.parametrize("axis", [0, 1])
def test_on_shards_only_counts_are_exchanged(axis: int) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    sharding = NamedSharding(mesh, PartitionSpec(*(["d", None] if axis == 0 else [None, "d"])))
    x = np.random.default_rng(8).integers(-9, 10, size=(16, 24)).astype(np.float32)
    tree = {"v": np.float32(4.0), "w": jax.device_put(x, sharding)}
    compiled = kept.lower(tree, 100, scope="global").compile()
    found = compiled(tree, 100)
    assert_same(found, by_sorting({"v": tree["v"], "w": x}, 100))
    assert found["w"].sharding.is_equivalent_to(sharding, 2)
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", compiled.as_text())
    assert all(np.prod([int(n) for n in shape.split(",") if n]) <= 4 for shape in gathered)


def test_the_counts_of_other_platforms_are_all_reduced() -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    flags = [np.random.default_rng(seed).random((8, 4)) < 0.4 for seed in range(selection.TRIES)]
    placed = [jax.device_put(flag, NamedSharding(mesh, PartitionSpec("d", None))) for flag in flags]
    compiled = jax.jit(selection._counts_by_sums).lower(*placed).compile()
    np.testing.assert_array_equal(compiled(*placed), [flag.sum() for flag in flags])
    np.testing.assert_array_equal(selection._counts_in_one_pass(*flags), [flag.sum() for flag in flags])
    assert "all-gather" not in compiled.as_text()
    # And that is what they get.
    traced = jax.jit(selection._counts).trace([jnp.asarray(flag) for flag in flags])
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("stablehlo.reduce") == len(flags)
    assert traced.lower(lowering_platforms=("cpu",)).as_text().count("stablehlo.reduce") == 1


def test_inside_shard_map_each_shard_is_on_its_own() -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    x = np.random.default_rng(9).integers(-3, 4, size=(6, 4)).astype(np.float32)
    rows = PartitionSpec("d", None)
    alone = jax.jit(
        jax.shard_map(lambda w: jaxreg.top_k(3).prox(w, 1.0), mesh=mesh, in_specs=rows, out_specs=rows)
    )
    expected = [by_sorting({"w": half}, 3)["w"] for half in (x[:3], x[3:])]
    np.testing.assert_array_equal(alone(x), np.concatenate(expected))


@pytest.mark.parametrize("bad", ["3", None, True, jnp.array(True), 1j, lambda step: 3])
def test_what_is_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"The 'k_or_fraction' parameter of top_k must be a whole number of"):
        jaxreg.top_k(bad)


@pytest.mark.parametrize("bad", [0, -3, 0.0, 1.5, float("nan"), jnp.float32(2), np.int64(0), np.ones(3)])
def test_numbers_out_of_range_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"whole number of at least 1, or a fraction in \(0, 1\]. Got "):
        jaxreg.top_k(bad)


def test_other_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match=r"'scope' parameter of top_k must be 'global' or 'leaf'. Got 'tree'"
    ):
        jaxreg.top_k(3, scope="tree")
    with pytest.raises(
        TypeError, match=r"'groups' parameter of top_k must be a structure from jaxreg.groups"
    ):
        jaxreg.top_k(3, groups="outputs")
    with pytest.raises(ValueError, match="leaf 'bias' has shape"):
        jaxreg.top_k(1, groups=groups.outputs()).prox({"bias": jnp.ones(3)}, 1.0)
    with pytest.raises(ValueError, match="At most 4294967295 elements can be compared"):
        jax.eval_shape(
            lambda w: jaxreg.top_k(1).prox(w, 1.0), [jax.ShapeDtypeStruct((2**31,), np.float32)] * 2
        )


def test_leaves_without_an_update_take_no_part() -> None:
    params = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([9.0, 9.0])}
    link = jaxreg.proximal(jaxreg.top_k(1), 1.0)
    updates, _ = link.update({"a": jnp.zeros(2), "b": None}, link.init(params), params)
    np.testing.assert_array_equal(params["a"] + updates["a"], [3.0, 0.0])


@pytest.mark.parametrize(
    ("constraint", "shape"), [(jaxreg.top_k(1), (3,)), (jaxreg.n_m_sparsity(1, 3, axis=0), (3,))]
)
def test_optimality_behind_non_negative(constraint, shape):
    both = jaxreg.non_negative() + constraint
    np.testing.assert_array_equal(both.optimality(jnp.array([-1.0, 0, 0]), jnp.zeros(shape))[0], np.inf)
    np.testing.assert_array_equal(both.optimality(jnp.array([1.0, 0, 0]), jnp.array([0.0, 1, -1])), 0.0)
    # A zero that may move, and is pushed out of the set, rests; one that is pushed inside does not.
    free = jaxreg.non_negative() + jaxreg.top_k(2)
    found = free.optimality(jnp.array([1.0, 0, 0]), jnp.array([0.0, 1.0, -1.0]))
    np.testing.assert_array_equal(found, [0.0, 0.0, 1.0])

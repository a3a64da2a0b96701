"""What every penalty keeps: dtypes, structures, zeros, and the same result under every transformation."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from formulas import SHAPE
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from registry import PENALTIES, PenaltyCase, parameters, refuses

import jaxreg

every = pytest.mark.parametrize("case", PENALTIES, ids=str)
one_of_a_kind = pytest.mark.parametrize("case", [case for case in PENALTIES if not case.like], ids=str)

DTYPES = [np.float32, jnp.bfloat16, np.float16, np.complex64]


def draw(seed: int, dtype: Any = np.float32) -> jax.Array:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=SHAPE) + (1j * rng.normal(size=SHAPE) if dtype == np.complex64 else 0)
    return jnp.asarray(w, dtype)


def mixed_steps(case: PenaltyCase) -> list[Any]:
    tree = parameters(jnp.linspace(0.0, 2.0, int(np.prod(SHAPE))).reshape(SHAPE))
    return [0.3, jnp.float32(0.3), *([tree] if case.per_element else [])]


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_shape_and_structure_are_kept(case: PenaltyCase, dtype: Any) -> None:
    if refuses(case, dtype):
        return
    params = parameters(draw(0, dtype))
    for step in mixed_steps(case):
        out = jax.eval_shape(lambda step=step: case.make(0.2).prox(params, step))
        assert jax.tree.structure(out) == jax.tree.structure(params)
        chex.assert_trees_all_equal_shapes_and_dtypes(out, params)


@every
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float64, np.complex128])
def test_dtype_is_kept_in_double_precision_mode(case: PenaltyCase, dtype: Any) -> None:
    if refuses(case, dtype):
        return
    params = parameters(draw(0, dtype))
    for step in (0.3, np.float64(0.3), jnp.float64(0.3)):
        penalty = case.make(np.float64(0.2))
        out, value = jax.eval_shape(lambda p=penalty, step=step: (p.prox(params, step), p(params)))
        chex.assert_trees_all_equal_shapes_and_dtypes(out, params)
        assert value.dtype == (jnp.float64 if dtype in (np.float64, np.complex128) else jnp.float32)


@every
def test_weak_types_are_kept(case: PenaltyCase) -> None:
    weak = jnp.broadcast_to(jnp.asarray(1.5), SHAPE)
    assert weak.weak_type
    strong = jnp.ones(SHAPE)
    for leaf in (weak, strong):
        out = jax.eval_shape(case.make(0.2).prox, parameters(leaf), 0.3)["layer"]["kernel"]
        assert out.weak_type == (leaf.weak_type and case.keeps_weak_types)


@one_of_a_kind
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.complex64])
def test_other_leaves_come_back_as_they_were(case: PenaltyCase, dtype: Any) -> None:
    if refuses(case, dtype):
        return
    params = parameters(draw(1, dtype))
    params["layer"]["bias"] = jnp.array([1.0, jnp.nan, -0.0, jnp.inf], dtype)
    for prox in (case.make(0.2).prox, jax.jit(case.make(0.2).prox)):
        out = prox(params, 0.3)
        chex.assert_trees_all_equal(
            np.asarray(out["layer"]["bias"]).tobytes(), np.asarray(params["layer"]["bias"]).tobytes()
        )
        chex.assert_trees_all_equal(out["steps"], params["steps"])
        assert out["hole"] is None
        assert isinstance(out["masked"], optax.MaskedNode)


@every
@pytest.mark.parametrize(
    ("dtype", "jitted"), [(np.float32, True), (jnp.bfloat16, True), (jnp.bfloat16, False)]
)
def test_zeros_survive_the_trip_through_an_update(case: PenaltyCase, dtype: Any, jitted: bool) -> None:
    if refuses(case, dtype):
        return
    link = jaxreg.proximal(case.make(0.8), 0.9)
    # A small column, row and corner, for the prox of every structure to zero.
    params = parameters(draw(2, dtype).at[:, 1].multiply(0.01).at[2].multiply(0.01).at[4:, 3].multiply(0.01))
    updates = jax.tree.map(lambda p: jnp.full_like(p, 0.01), params)

    def train(params: Any, updates: Any) -> Any:
        delta, _ = link.update(updates, link.init(params), params)
        return optax.apply_updates(params, delta)

    new = (jax.jit(train) if jitted else train)(params, updates)["layer"]["kernel"]
    wide = np.complex64 if dtype == np.complex64 else np.float32
    moved = parameters(jnp.asarray(params["layer"]["kernel"], wide) + jnp.asarray(0.01, dtype).astype(wide))
    expected = jax.jit(case.make(0.8).prox)(moved, 0.9)["layer"]["kernel"]
    np.testing.assert_array_equal(np.asarray(new) == 0, np.asarray(expected) == 0)
    assert bool(jnp.any(expected == 0)) == case.sparse


@one_of_a_kind
def test_jit_eager_vmap_scan_and_checkpoint_agree(case: PenaltyCase) -> None:
    penalty = case.make(0.2)
    kernels = jnp.stack([draw(seed) for seed in range(3)])

    def both(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        tree = {"layer": {"kernel": kernel, "bias": jnp.ones(SHAPE[1])}}
        return penalty(tree), penalty.prox(tree, 0.3)["layer"]["kernel"]

    eager = jax.tree.map(lambda *xs: jnp.stack(xs), *[both(k) for k in kernels])
    jitted = jax.tree.map(lambda *xs: jnp.stack(xs), *[jax.jit(both)(k) for k in kernels])

    @jax.jit
    def scan_and_vmap(kernels: jax.Array) -> Any:
        scanned = jax.lax.scan(lambda carry, k: (carry, jax.checkpoint(both)(k)), 0, kernels)[1]
        return scanned, jax.vmap(both)(kernels)

    for other in (jitted, *scan_and_vmap(kernels)):
        chex.assert_trees_all_close(other, eager, rtol=1e-6, atol=1e-6)


@one_of_a_kind
def test_vmap_over_strengths(case: PenaltyCase) -> None:
    tree = {"layer": {"kernel": draw(3), "bias": jnp.ones(SHAPE[1])}}
    strengths = jnp.array([0.0, 0.1, 1.0])
    alone = jax.jit(lambda strength: case.make(strength).prox(tree, 0.5))
    mapped = jax.jit(jax.vmap(alone))(strengths)
    for position, strength in enumerate(strengths):
        one = jax.tree.map(lambda leaf, at=position: leaf[at], mapped)
        chex.assert_trees_all_close(one, alone(strength), atol=1e-6)


@one_of_a_kind
def test_strengths_and_rebuilt_penalties_do_not_recompile(case: PenaltyCase) -> None:
    chex.clear_trace_counter()
    tree = {"layer": {"kernel": draw(4), "bias": jnp.ones(SHAPE[1])}}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def as_argument(penalty: jaxreg.Penalty, step: Any) -> Any:
        return penalty(tree), penalty.prox(tree, step)

    for strength, step in ((0.1, 0.5), (0.2, 0.6), (0.0, 0.0)):
        as_argument(case.make(strength), step)

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def as_static(penalty: jaxreg.Penalty) -> Any:
        return penalty(tree)

    for _ in range(3):
        as_static(case.make(0.1))


@every
def test_penalty_is_a_pytree_of_numbers(case: PenaltyCase) -> None:
    penalty = case.make(0.3)
    leaves, treedef = jax.tree.flatten(penalty)
    assert leaves
    assert all(isinstance(leaf, float) for leaf in leaves)
    assert jax.tree.unflatten(treedef, leaves) == penalty
    assert hash(penalty) == hash(case.make(0.3))
    assert treedef == jax.tree.structure(case.make(0.4))
    # Unflatten checks nothing: transformations put placeholders in.
    jax.tree.map(lambda _: None, penalty)
    jax.tree.map(lambda _: -1.0, penalty)


@one_of_a_kind
def test_donation(case: PenaltyCase) -> None:
    penalty = case.make(0.2)
    step = jax.jit(lambda tree: penalty.prox(tree, 0.3), donate_argnums=0)
    fresh = lambda: {"layer": {"kernel": draw(5) + 0, "bias": jnp.ones(SHAPE[1])}}  # noqa: E731
    given = fresh()
    out = step(given)
    assert given["layer"]["kernel"].is_deleted()
    chex.assert_trees_all_close(out, penalty.prox(fresh(), 0.3), atol=1e-6)


@one_of_a_kind
def test_one_strength_per_leaf(case: PenaltyCase) -> None:
    tree = {"layer": {"kernel": draw(6), "bias": jnp.ones(SHAPE[1])}}
    everything = jax.jit(lambda penalty: (penalty(tree), penalty.prox(tree, 0.3), penalty.scale(2.0)(tree)))
    expected = everything(case.make(0.2))
    for prefix in (
        {"layer": 0.2},
        {"layer": {"kernel": 0.2, "bias": 7.0}},
        {"layer": {"kernel": jnp.float32(0.2)}},
    ):
        penalty = case.make(prefix)
        chex.assert_trees_all_close(everything(penalty), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="'strength' has no entry for the leaf 'layer/kernel'"):
        case.make({"layer": {"bias": 0.2}})(tree)
    with pytest.raises(ValueError, match="'strength' has an entry 'layer/kernal' that is above no leaf"):
        case.make({"layer": {"kernel": 0.2, "kernal": 0.2}})(tree)


@one_of_a_kind
def test_nnx_state_and_pure_dict_give_the_same(case: PenaltyCase) -> None:
    model = nnx.Linear(*SHAPE, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    pure = nnx.to_pure_dict(state)
    penalty = case.make(0.2)
    chex.assert_trees_all_equal(penalty(state), penalty(pure))
    shrunk = penalty.prox(state, 0.1)
    assert jax.tree.structure(shrunk) == jax.tree.structure(state)
    chex.assert_trees_all_equal(nnx.to_pure_dict(shrunk), penalty.prox(pure, 0.1))


@one_of_a_kind
def test_sharding_is_kept_without_gathering(case: PenaltyCase) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    penalty = case.make(0.2)
    for axis in case.aligned_axes:
        sharding = NamedSharding(mesh, PartitionSpec(*(["d", None] if axis == 0 else [None, "d"])))
        tree = {"layer": {"kernel": jax.device_put(draw(7), sharding), "bias": jnp.ones(SHAPE[1])}}
        compiled = jax.jit(lambda t: (penalty(t), penalty.prox(t, 0.3))).lower(tree).compile()
        value, shrunk = compiled(tree)
        assert shrunk["layer"]["kernel"].sharding.is_equivalent_to(sharding, 2)
        assert "all-gather" not in compiled.as_text()
        chex.assert_trees_all_close(value, penalty(jax.device_get(tree)), rtol=1e-6)


@one_of_a_kind
def test_inside_shard_map(case: PenaltyCase) -> None:
    """Groups that lie within a shard need nothing from other devices."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    columns = PartitionSpec(None, "d")
    leaf, step = draw(8), jnp.full(SHAPE, 0.3)
    if case.per_element:
        step = jnp.linspace(0.1, 1.0, int(np.prod(SHAPE))).reshape(SHAPE)

    def prox(kernel: jax.Array, step: jax.Array) -> jax.Array:
        tree = {"layer": {"kernel": kernel, "bias": jnp.ones(SHAPE[1])}}
        sizes = {"layer": {"kernel": step if case.per_element else step[0, 0], "bias": 1.0}}
        return case.make(0.2).prox(tree, sizes)["layer"]["kernel"]

    mapped = jax.shard_map(prox, mesh=mesh, in_specs=(columns, columns), out_specs=columns)
    halves = [prox(leaf[:, half], step[:, half]) for half in (slice(0, 2), slice(2, 4))]
    chex.assert_trees_all_close(jax.jit(mapped)(leaf, step), jnp.concatenate(halves, axis=1), atol=1e-6)

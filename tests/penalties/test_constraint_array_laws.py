"""What every constraint keeps: dtypes, structures, zeros; the same when transformed; in training."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from constraint_cases import CONSTRAINTS, SIZE, ConstraintCase, at, draw, project, steps_of
from formulas import SHAPE
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from registry import parameters

import jaxreg

every = pytest.mark.parametrize("case", CONSTRAINTS, ids=str)
convex = pytest.mark.parametrize("case", [case for case in CONSTRAINTS if case.convex], ids=str)
sized = pytest.mark.parametrize("case", [case for case in CONSTRAINTS if case.sized], ids=str)
double = pytest.mark.usefixtures("x64")
DTYPES = [np.float32, jnp.bfloat16, np.float16, np.complex64]


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_other_leaves_are_kept(case: ConstraintCase, dtype: Any) -> None:
    params = parameters(jnp.asarray(draw(19, dtype)))
    params["layer"]["bias"] = jnp.array([1.0, jnp.nan, -0.0, jnp.inf], dtype)
    constraint = case.make(SIZE)
    if dtype == np.complex64 and not case.complex:
        with pytest.raises(ValueError, match=r"one on real numbers. The leaf 'layer/kernel' is complex"):
            constraint.prox(params, 0.3)
        return
    out, value = jax.jit(lambda tree: (out := constraint.prox(tree, 0.3), constraint(out)))(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, params)
    assert np.asarray(out["layer"]["bias"]).tobytes() == np.asarray(params["layer"]["bias"]).tobytes()
    assert isinstance(out["masked"], optax.MaskedNode)
    assert value == 0


@every
def test_weak_types_are_kept(case: ConstraintCase) -> None:
    for leaf in (jnp.broadcast_to(jnp.asarray(1.5), SHAPE), jnp.ones(SHAPE)):
        out = jax.eval_shape(case.make(0.2).prox, parameters(leaf), 0.3)["layer"]["kernel"]
        assert out.weak_type == leaf.weak_type


@every
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_zeros_survive_the_trip_through_an_update(case: ConstraintCase, dtype: Any) -> None:
    link = jaxreg.proximal(case.make(SIZE), 1.0)
    params = parameters(jnp.asarray(draw(20).astype(dtype)).at[2:5].set(0))
    updates = jax.tree.map(lambda p: jnp.full_like(p, 0.25 * (p != 0).any()), params)
    updates["layer"]["kernel"] = jnp.where(params["layer"]["kernel"] == 0, 0, updates["layer"]["kernel"])
    delta, _ = jax.jit(link.update)(updates, link.init(params), params)
    new = optax.apply_updates(params, delta)["layer"]["kernel"]
    moved = (params["layer"]["kernel"].astype(np.float32) + updates["layer"]["kernel"]).astype(np.float32)
    expected = project(case, moved, 1.0)
    np.testing.assert_array_equal(np.asarray(new) == 0, expected == 0)
    assert np.all(expected[2:5] == 0) == case.keeps_zeros


@every
def test_jit_eager_vmap_and_scan_agree(case: ConstraintCase) -> None:
    constraint = case.make(SIZE)
    kernels = jnp.stack([jnp.asarray(draw(seed, np.float32)) for seed in range(3)])

    def both(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        return constraint(at(kernel)), constraint.prox(at(kernel), 0.3)["layer"]["kernel"]

    scanned = jax.lax.scan(lambda carry, k: (carry, both(k)), 0, kernels)[1]
    mapped = jax.jit(jax.vmap(jax.checkpoint(both)))(kernels)
    chex.assert_trees_all_close(scanned, mapped, rtol=1e-6, atol=1e-6)
    first = jax.tree.map(lambda stacked: stacked[0], scanned)
    chex.assert_trees_all_close(both(kernels[0]), first, rtol=1e-6, atol=1e-6)


@every
def test_sizes_and_rebuilt_constraints_do_not_recompile(case: ConstraintCase) -> None:
    chex.clear_trace_counter()
    tree = at(draw(21, np.float32))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def as_argument(constraint: jaxreg.Penalty) -> Any:
        return constraint(tree), constraint.prox(tree, 0.5)

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def as_static(constraint: jaxreg.Penalty) -> Any:
        return constraint(tree)

    for size in (0.1, 0.2, 0.0):
        as_argument(case.make(size))
        as_static(case.make(0.3))
    leaves, treedef = jax.tree.flatten(case.make(0.3))
    assert bool(leaves) == (case.sized or case.counted)
    assert jax.tree.unflatten(treedef, leaves) == case.make(0.3)
    assert treedef == jax.tree.structure(case.make(0.4))
    jax.tree.map(lambda _: None, case.make(0.3))


@sized
def test_one_size_per_leaf(case: ConstraintCase) -> None:
    tree = at(draw(22, np.float32))
    for prefix in ({"layer": 0.2}, {"layer": {"kernel": 0.2, "bias": 7.0}}):
        chex.assert_trees_all_close(
            case.make(prefix).prox(tree, 0.3), case.make(0.2).prox(tree, 0.3), atol=1e-6
        )
    with pytest.raises(ValueError, match=r"has no entry for the leaf 'layer/kernel'"):
        case.make({"layer": {"bias": 0.2}})(tree)
    with pytest.raises(ValueError, match=r"has an entry 'layer/kernal' that is above no leaf"):
        case.make({"layer": {"kernel": 0.2, "kernal": 0.2}})(tree)


@every
def test_sharding_is_kept_without_gathering(case: ConstraintCase) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    constraint, sizes = case.make(SIZE), steps_of(case.per_element)
    for axis in case.aligned_axes:
        sharding = NamedSharding(mesh, PartitionSpec(*(["d", None] if axis == 0 else [None, "d"])))
        kernel = jax.device_put(jnp.asarray(draw(23, np.float32)), sharding)

        def program(kernel: Any) -> Any:
            step = {"layer": {"kernel": jnp.asarray(sizes, jnp.float32), "bias": 1.0}}
            return constraint(at(kernel)), constraint.prox(at(kernel), step)["layer"]["kernel"]

        compiled = jax.jit(program).lower(kernel).compile()
        value, nearest = compiled(kernel)
        assert nearest.sharding.is_equivalent_to(sharding, 2)
        assert "all-gather" not in compiled.as_text()
        assert value == np.inf
        chex.assert_trees_all_close(nearest, project(case, draw(23, np.float32), sizes), atol=1e-5)


# In training


@every
def test_last_in_a_chain_every_step_ends_inside(case: ConstraintCase) -> None:
    constraint = case.make(SIZE)
    optimizer = optax.chain(optax.adam(0.1), jaxreg.proximal(constraint, 1.0))
    target = draw(24, np.float32)

    def body(carry: Any, _: Any) -> Any:
        params, state = carry
        grads = jax.grad(lambda p: jnp.sum((p["layer"]["kernel"] - target) ** 2))(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), constraint(params)

    params = at(draw(25, np.float32))
    values = jax.lax.scan(body, (params, optimizer.init(params)), length=20)[1]
    assert not np.any(values)


@double
@convex
def test_proximal_optimizers_end_at_the_nearest_point(case: ConstraintCase) -> None:
    """The minimiser of ``|w - a|^2 / 2`` on the set is the projection of a."""
    constraint, target = case.make(SIZE), jnp.asarray(draw(26))
    optimizers = [jaxreg.prox_sgd(0.3, constraint)]
    if case.per_element:
        optimizers.append(jaxreg.prox_adam(0.05, constraint))
    for optimizer in optimizers:

        def body(carry: Any, _: Any, optimizer: Any = optimizer) -> Any:
            params, state = carry
            grads = {"layer": {"kernel": params["layer"]["kernel"] - target, "bias": jnp.zeros(SHAPE[1])}}
            return jaxreg.step(optimizer, {**grads, "hole": None}, state, params), None

        start = at(draw(27))
        (params, _), _ = jax.lax.scan(body, (start, optimizer.init(start)), length=800)
        np.testing.assert_allclose(params["layer"]["kernel"], project(case, target), atol=1e-6)

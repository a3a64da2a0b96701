"""Penalties on the distance to a reference: those of 0 moved, exactness, errors."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import jaxreg
from jaxreg import groups, masks

BOTH = pytest.mark.parametrize("make", [jaxreg.l1_sp, jaxreg.l2_sp], ids=["l1_sp", "l2_sp"])
PLAIN = {jaxreg.l1_sp: jaxreg.l1, jaxreg.l2_sp: jaxreg.l2}
Make = Callable[..., jaxreg.Penalty]


def draw(seed: int, shape: tuple[int, ...] = (5, 3), dtype: Any = np.float64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=shape) + (
        1j * rng.normal(size=shape) if np.issubdtype(dtype, np.complexfloating) else 0
    )
    return z.astype(dtype)


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("per_element", [False, True])
def test_is_the_plain_penalty_moved(make: Make, dtype: Any, per_element: bool) -> None:
    x, r, grads = draw(0, dtype=dtype), draw(1, dtype=dtype), draw(2, dtype=dtype)
    step = np.abs(draw(3)) if per_element else 0.7
    here, plain = make(0.4, {"w": r}), PLAIN[make](0.4)
    at, away, steps = {"w": jnp.asarray(x)}, {"w": jnp.asarray(x - r)}, {"w": step}
    np.testing.assert_allclose(here(at), plain(away), rtol=1e-13)
    np.testing.assert_allclose(here.prox(at, steps)["w"], plain.prox(away, steps)["w"] + r, atol=1e-13)
    slopes = {"w": jnp.asarray(grads)}
    np.testing.assert_allclose(
        here.optimality(at, slopes)["w"], plain.optimality(away, slopes)["w"], atol=1e-13
    )
    value = jax.grad(lambda tree, penalty: penalty(tree))
    np.testing.assert_allclose(value(at, here)["w"], value(away, plain)["w"], rtol=1e-12)


@pytest.mark.usefixtures("x64")
@BOTH
def test_prox_is_what_scipy_finds_element_by_element(make: Make) -> None:
    x, r, step = draw(4), draw(5), np.abs(draw(6)) + 0.1
    found = make(0.4, {"w": r}).prox({"w": jnp.asarray(x)}, {"w": step})["w"]
    power = 1 if make is jaxreg.l1_sp else 2
    for index in np.ndindex(x.shape):
        search = optimize.minimize_scalar(
            lambda z, i=index: 0.4 * abs(z - r[i]) ** power + (z - x[i]) ** 2 / (2 * step[i]),
            bounds=(-5, 5), method="bounded", options={"xatol": 1e-10},
        )  # fmt: skip
        np.testing.assert_allclose(found[index], search.x, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16, np.complex64])
def test_l1_sp_is_at_its_reference_to_the_last_bit(dtype: Any, scale: float) -> None:
    if dtype == np.float16:
        scale = min(max(scale, 1e-3), 1e3)
    r = (draw(7, dtype=dtype if dtype == np.complex64 else np.float64) * scale).astype(dtype)
    # Some far away, some near, some a rounding away, some at it.
    far = np.resize([1.0, 0.3, 1e-3, 0.0], r.shape)
    x = (r.astype(np.complex128 if dtype == np.complex64 else np.float64) * (1 + far)).astype(dtype)
    wide = np.complex128 if dtype == np.complex64 else np.float64
    distance = np.abs(x.astype(wide) - r.astype(wide))
    threshold = float(np.median(distance[distance > 0]))
    for prox in (lambda p, t: p.prox(t, 1.0), jax.jit(lambda p, t: p.prox(t, 1.0))):
        out = np.asarray(prox(jaxreg.l1_sp(threshold, {"w": jnp.asarray(r)}), {"w": jnp.asarray(x)})["w"])
        near, beyond = distance < 0.999 * threshold, distance > 1.001 * threshold
        assert near.sum() > 5
        np.testing.assert_array_equal(out[near], r[near])
        # Never past it.
        step = out.astype(wide) - r.astype(wide)
        assert np.all(np.real(step * np.conj(x.astype(wide) - r.astype(wide))) >= 0)
        expected = distance - threshold
        np.testing.assert_allclose(
            np.abs(step)[beyond], expected[beyond], atol=16 * float(jnp.finfo(dtype).eps) * np.abs(x).max()
        )


def test_ties_denormals_and_huge_steps() -> None:
    r = jnp.array([0.5, 0.5, -0.0, 1e-45, 1e30, 3e38])
    x = jnp.array([1.0, 0.5, 0.0, -1e-45, -1e30, -3e38])
    np.testing.assert_array_equal(jaxreg.l1_sp(0.5, r).prox(x, 1.0)[:4], r[:4])
    for step in (1e5, 1e30):
        np.testing.assert_array_equal(jaxreg.l1_sp(1e9, r).prox(x, step)[:4], r[:4])
        np.testing.assert_allclose(jaxreg.l2_sp(1e9, r).prox(x, step), r, rtol=1e-6, atol=1e-30)
    np.testing.assert_array_equal(jaxreg.l1_sp(1e9, r).prox(x, 1e30), r)  # a threshold beyond the floats
    np.testing.assert_allclose(jaxreg.l2_sp(0.5, r).prox(r, 0.7), r, rtol=2e-7, atol=1e-44)


@pytest.mark.usefixtures("x64")
@BOTH
def test_step_zero_is_the_identity_also_to_differentiation(make: Make) -> None:
    r = jnp.asarray(draw(8))
    x = r.at[0].add(1.0)

    def move(x: jax.Array, r: jax.Array, strength: Any) -> jax.Array:
        return make(strength, {"w": r}).prox({"w": x}, {"w": jnp.zeros(x.shape)})["w"]

    along = jnp.asarray(draw(9))
    out, slope = jax.jvp(move, (x, r, 0.3), (along, 5 * along, 0.0))
    np.testing.assert_array_equal(out, x)
    np.testing.assert_allclose(slope, along, atol=1e-15)


@pytest.mark.usefixtures("x64")
@BOTH
def test_is_differentiable_in_the_reference_and_does_not_recompile_for_it(make: Make) -> None:
    x, r = jnp.asarray(draw(10)), jnp.asarray(draw(11))
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def total(penalty: jaxreg.Penalty) -> Any:
        return penalty({"w": x}) + jnp.sum(penalty.prox({"w": x}, 0.5)["w"] ** 2)

    slope = jax.grad(total)(make(0.3, {"w": r})).reference["w"]
    small = 1e-6
    for index in ((0, 0), (2, 1), (4, 2)):
        moved = [total(make(0.3, {"w": r.at[index].add(d)})) for d in (small, -small)]
        np.testing.assert_allclose(slope[index], (moved[0] - moved[1]) / (2 * small), rtol=1e-6, atol=1e-8)


@BOTH
def test_reference_may_be_a_number_a_prefix_or_more_than_the_mask(make: Make) -> None:
    params = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "steps": jnp.arange(2)}
    ones = {"a": 1.0}
    assert float(make(0.5, 1.0)(params)) == float(make(0.5, ones)(params)) == 0.0
    assert float(make(0.5, params)(params)) == 0.0
    assert float(make(0.5, 1)(params)) == 0.0
    # A head without a reference, left out by the mask; a reference that is not asked for, of another shape.
    both = params | {"head": jnp.ones(3)}
    assert float(make(0.5, params, mask=masks.path("a/**"))(both)) == 0.0
    odd = {"a": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(7)}}
    assert float(make(0.5, odd, mask=masks.name("kernel"))(params)) == 2.0


@BOTH
def test_bad_references(make: Make) -> None:
    name = make.__name__
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
    for bad in (None, "pretrained", {}, {"a": "x"}, jnp.ones):
        with pytest.raises(
            TypeError, match=f"The 'reference' parameter of {name} must be a pytree of arrays"
        ):
            make(0.1, bad)
    with pytest.raises(ValueError, match="'reference' has no entry for the leaf 'b'"):
        make(0.1, {"a": jnp.ones((2, 3))})(params)
    with pytest.raises(ValueError, match="'reference' has an entry 'c' that is above no leaf"):
        make(0.1, params | {"c": jnp.ones(2)})(params)
    words = rf"'reference' parameter of {name} must have the shapes .* Got \(3, 2\) at 'a', .* has \(2, 3\)"
    with pytest.raises(ValueError, match=words):
        make(0.1, params | {"a": jnp.ones((3, 2))})(params)
    with pytest.raises(ValueError, match=r"Got \(3,\) at 'a', where the parameter has \(2, 3\)"):
        make(0.1, jnp.ones(3))(params)
    with pytest.raises(ValueError, match="is complex at 'b', and the parameter is not"):
        make(0.1, params | {"b": jnp.ones(3, complex)})(params)
    with pytest.raises(ValueError, match=f"The 'strength' parameter of {name} must be a non-negative number"):
        make(-0.1, params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("step", [0.0, 0.7, 1e30])
def test_l2_sp_adds_to_other_penalties_exactly(step: float) -> None:
    """prox of R + l2_sp: 0 is in the subdifferential at the minimiser; that of l2_sp is plain calculus."""
    r = draw(12)
    others = [
        jaxreg.l1(0.3),
        jaxreg.l1(0.1) + jaxreg.group_lasso(0.2, groups.outputs()),
        jaxreg.elastic_net(0.3, 0.5),
        jaxreg.l2_sp(0.2, -1.0),
        jaxreg.l2(0.2),
    ]
    for other in others:
        for pair in (other + jaxreg.l2_sp(0.4, {"w": r}), jaxreg.l2_sp(0.4, {"w": r}) + other):
            x = {"w": jnp.asarray(draw(13))}
            found = pair.prox(x, step)["w"]
            if step == 0.0:
                np.testing.assert_array_equal(found, x["w"])
                continue
            slope = (found - x["w"]) / step
            direct = other.optimality({"w": found}, {"w": slope + 0.8 * (found - r)})["w"]
            np.testing.assert_allclose(direct, 0, atol=1e-12)
            np.testing.assert_allclose(pair.optimality({"w": found}, {"w": slope})["w"], 0, atol=1e-12)
            away = pair.optimality({"w": found + 0.1}, {"w": slope})["w"]
            again = other.optimality({"w": found + 0.1}, {"w": slope + 0.8 * (found + 0.1 - r)})["w"]
            np.testing.assert_allclose(away, again, atol=1e-12)
    with pytest.raises(ValueError, match="The sum of l1_sp and l1 has no exact prox"):
        (jaxreg.l1_sp(0.1, 0.0) + jaxreg.l1(0.1)).prox({"w": jnp.ones(2)}, 0.1)


@pytest.mark.usefixtures("x64")
def test_fine_tuning_changes_few_weights_and_l2_sp_has_the_ridge_solution() -> None:
    """Least squares around pretrained weights: l1_sp finds the change, l2_sp is a ridge in closed form."""
    rng = np.random.default_rng(14)
    x, r = rng.normal(size=(40, 6)), rng.normal(size=6)
    y = x @ (r + np.array([2.0, 0, 0, 0, -1.5, 0]))

    def train(penalty: jaxreg.Penalty) -> np.ndarray:
        optimizer = jaxreg.prox_sgd(0.3, penalty)

        def advance(carry: Any, _: None) -> Any:
            w, state = carry
            return jaxreg.step(optimizer, {"w": x.T @ (x @ w["w"] - y) / len(y)}, state, w), None

        start = {"w": jnp.asarray(r)}
        return np.asarray(jax.lax.scan(advance, (start, optimizer.init(start)), None, length=400)[0][0]["w"])

    w = train(jaxreg.l1_sp(0.3, {"w": jnp.asarray(r)}))
    np.testing.assert_array_equal(np.flatnonzero(w != r), [0, 4])
    ridge = train(jaxreg.l2_sp(0.3, {"w": jnp.asarray(r)}))
    gram = x.T @ x / len(y)
    np.testing.assert_allclose(ridge, r + np.linalg.solve(gram + 0.6 * np.eye(6), x.T @ (y - x @ r) / len(y)))


def test_a_partitioned_tree_sees_the_whole_reference() -> None:
    params = {"a": jnp.ones(2), "b": jnp.zeros(2)}
    penalty = jaxreg.l1_sp(0.5, params)
    optimizer = optax.partition(
        {"train": jaxreg.prox_sgd(0.1, penalty), "rest": optax.set_to_zero()}, {"a": "train", "b": "rest"}
    )
    updates, _ = optimizer.update(
        jax.tree.map(lambda p: jnp.full_like(p, 0.1), params), optimizer.init(params), params
    )
    chex.assert_trees_all_equal(updates, {"a": jnp.zeros(2), "b": jnp.zeros(2)})

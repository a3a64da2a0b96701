"""The start of a path: closed forms, scikit-learn's own, and training just above and below it."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import linear_model

import jaxreg
from jaxreg import groups, masks

x64 = pytest.mark.usefixtures("x64")
OUTPUTS, ON = groups.outputs(), masks.name("kernel")


def draw(seed: int, shape: tuple[int, ...] = (8, 4)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def column_norms(g: np.ndarray) -> np.ndarray:
    return np.linalg.norm(g, axis=0)


def sparse_group(g: np.ndarray) -> float:
    """Half l1, half groups: each column dies at the root of ||soft(g, s/2)|| = s/2 sqrt(8)."""
    roots = []
    for column in g.T:
        low, high = 0.0, 2 * float(np.max(abs(column)))
        for _ in range(200):
            middle = (low + high) / 2
            left = np.linalg.norm(np.maximum(abs(column) - middle / 2, 0)) - middle / 2 * np.sqrt(8)
            low, high = (middle, high) if left > 0 else (low, middle)
        roots.append(high)
    return max(roots)


CLOSED_FORMS: dict[str, tuple[jaxreg.Penalty, Callable[[np.ndarray], float]]] = {
    "l1": (jaxreg.l1(7.0), lambda g: np.max(abs(g))),
    "l1 at strength 0": (jaxreg.l1(0.0), lambda g: np.max(abs(g))),
    "elastic_net": (jaxreg.elastic_net(2.0, 0.3), lambda g: np.max(abs(g)) / 0.3),
    "group_lasso": (jaxreg.group_lasso(2.0, OUTPUTS), lambda g: np.max(column_norms(g)) / np.sqrt(8)),
    "group_lasso[weights of 1]": (
        jaxreg.group_lasso(2.0, OUTPUTS, size_weights=False),
        lambda g: np.max(column_norms(g)),
    ),
    "sparse_group_lasso": (jaxreg.sparse_group_lasso(1.0, OUTPUTS, 0.5), sparse_group),
    "hierarchical_group_lasso": (
        jaxreg.hierarchical_group_lasso(1.0, [groups.blocks((1,)), OUTPUTS], level_weights=[0.5, 0.5]),
        sparse_group,
    ),
    "mcp": (jaxreg.mcp(0.1), lambda g: np.max(abs(g))),
    "scad[outputs]": (jaxreg.scad(0.1, groups=OUTPUTS), lambda g: np.max(column_norms(g)) / np.sqrt(8)),
    "log_sum": (jaxreg.log_sum(1.0, 0.25), lambda g: np.max(abs(g)) * 0.25),
    "capped_l1": (jaxreg.capped_l1(1.0, 0.5), lambda g: np.max(abs(g))),
    "nuclear_norm": (jaxreg.nuclear_norm(2.0), lambda g: np.linalg.norm(g, 2)),
    "group_linf": (
        jaxreg.group_linf(1.0, OUTPUTS, size_weights=False),
        lambda g: np.max(np.sum(abs(g), axis=0)),
    ),
    "l1 + l2, a factor": (jaxreg.l1(0.5) + jaxreg.l2(3.0), lambda g: np.max(abs(g)) / 0.5),
    "a strength per leaf, a factor": (jaxreg.l1({"w": 0.25}), lambda g: np.max(abs(g)) / 0.25),
}


@x64
@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_closed_forms(name: str, scale: float) -> None:
    penalty, formula = CLOSED_FORMS[name]
    grads = draw(0) * scale
    found = jaxreg.strength_max(penalty, {"w": jnp.asarray(grads)})
    assert found.dtype == jnp.float64
    assert found.shape == ()
    np.testing.assert_allclose(found, formula(grads), rtol=1e-14)


def test_is_right_to_the_last_bit() -> None:
    for scale in (1e-30, 1e-6, 1.0, 3.0, 1e20):
        grads = jnp.asarray(draw(1) * scale, jnp.float32)
        found = jaxreg.strength_max(jaxreg.l1(1.0), grads)
        assert found.dtype == jnp.float32
        assert found == jnp.max(jnp.abs(grads))
    narrow = jnp.asarray(draw(1), jnp.bfloat16)
    assert jaxreg.strength_max(jaxreg.l1(1.0), narrow) == jnp.max(jnp.abs(narrow)).astype(jnp.float32)
    rotated = jnp.asarray(draw(1) + 1j * draw(2), jnp.complex64)
    np.testing.assert_allclose(
        jaxreg.strength_max(jaxreg.l1(1.0), rotated), np.max(abs(np.asarray(rotated))), rtol=1e-6
    )
    assert jaxreg.strength_max(jaxreg.l1(1.0), jnp.zeros(3)) == 0.0


@x64
def test_is_where_the_paths_of_scikit_learn_begin() -> None:
    x, y = draw(2, (30, 6)), draw(3, (30, 3))
    one = {"w": jnp.asarray(-x.T @ y[:, 0] / 30)}
    several = {"w": jnp.asarray(-x.T @ y / 30)}
    largest = lambda target, ratio: linear_model.enet_path(x, target, l1_ratio=ratio)[0][0]  # noqa: E731
    np.testing.assert_allclose(jaxreg.strength_max(jaxreg.l1(1.0), one), largest(y[:, 0], 1.0), rtol=1e-12)
    net = jaxreg.strength_max(jaxreg.elastic_net(1.0, 0.4), one)
    np.testing.assert_allclose(net, largest(y[:, 0], 0.4), rtol=1e-12)
    multitask = jaxreg.group_lasso(1.0, groups.inputs(), size_weights=False)
    np.testing.assert_allclose(jaxreg.strength_max(multitask, several), largest(y, 1.0), rtol=1e-12)


@x64
@pytest.mark.parametrize(
    "make",
    [
        lambda s: jaxreg.l1(s, mask=ON),
        lambda s: jaxreg.elastic_net(s, 0.5, mask=ON),
        lambda s: jaxreg.group_lasso(s, OUTPUTS, mask=ON),
        lambda s: jaxreg.sparse_group_lasso(s, groups.inputs(), 0.5, mask=ON),
        lambda s: jaxreg.mcp(s, 3.0, mask=ON),
        lambda s: jaxreg.hierarchical_group_lasso(s, [OUTPUTS, groups.layers()], mask=ON),
    ],
    ids=["l1", "elastic_net", "group_lasso", "sparse_group_lasso", "mcp", "hierarchical_group_lasso"],
)
def test_training_is_all_zero_above_and_not_below(make: Callable[[Any], jaxreg.Penalty]) -> None:
    """With an intercept that is not penalised, at its optimum."""
    x, y = draw(4, (40, 5)), draw(5, (40, 3)) + 2.0

    def loss(params: Any) -> Any:
        return jnp.sum((x @ params["kernel"] + params["bias"] - y) ** 2) / 80

    start = {"kernel": jnp.zeros((5, 3)), "bias": jnp.asarray(y.mean(0))}
    largest = jaxreg.strength_max(make(1.0), jax.grad(loss)(start))

    @jax.jit
    def train(strength: Any) -> Any:
        optimizer = jaxreg.fista(0.3, make(strength))

        def advance(carry: Any, _: None) -> Any:
            params, state = carry
            return jaxreg.step(optimizer, jax.grad(loss)(params), state, params), None

        return jax.lax.scan(advance, (start, optimizer.init(start)), None, length=300)[0][0]["kernel"]

    assert not np.any(train(1.001 * largest))
    assert np.any(train(0.999 * largest))


def test_only_leaves_that_the_penalty_reaches_count() -> None:
    grads = {
        "kernel": jnp.array([[0.5, -2.0]]),
        "bias": jnp.array([9.0]),
        "steps": np.zeros(2, int),
        "hole": None,
    }
    grads["masked"] = optax.MaskedNode()
    assert jaxreg.strength_max(jaxreg.l1(1.0, mask=masks.name("kernel")), grads) == 2.0
    both = jaxreg.l1(1.0, mask=masks.name("kernel")) + jaxreg.l1(3.0, mask=masks.name("bias"))
    assert jaxreg.strength_max(both, grads) == 3.0
    integers = {"w": jnp.ones(2), "steps": np.zeros(2, jax.dtypes.float0)}
    assert jaxreg.strength_max(jaxreg.l1(1.0), integers) == 1.0


def test_jit_and_vmap_and_no_recompilation() -> None:
    stacked = jnp.asarray(draw(6, (3, 8, 4)), jnp.float32)
    mapped = jax.jit(jax.vmap(lambda g: jaxreg.strength_max(jaxreg.l1(1.0), g)))(stacked)
    np.testing.assert_array_equal(mapped, jnp.max(jnp.abs(stacked), axis=(1, 2)))
    ratios = jnp.array([0.25, 0.5, 1.0])
    over = jax.vmap(lambda r: jaxreg.strength_max(jaxreg.elastic_net(1.0, r), stacked[0]))(ratios)
    np.testing.assert_allclose(over, mapped[0] / ratios, rtol=1e-6)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def again(penalty: jaxreg.Penalty, grads: Any) -> Any:
        return jaxreg.strength_max(penalty, grads)

    for seed in range(3):
        again(jaxreg.mcp(0.1 * seed), jnp.asarray(draw(seed), jnp.float32))


def test_where_there_is_none() -> None:
    grads = jnp.asarray(draw(7), jnp.float32)
    never = [
        jaxreg.l2(1.0),
        jaxreg.huber(1.0, 0.5),
        jaxreg.l1_sp(1.0, 2.0),
        jaxreg.l2_sp(1.0, 0.0),
        jaxreg.orthogonality(1.0),
        jaxreg.l1(0.0) + jaxreg.l2(1.0),
    ]
    for penalty in never:
        with pytest.raises(ValueError, match=f"No strength of {penalty.kind} makes all weights zero"):
            jaxreg.strength_max(penalty, grads)
        assert jnp.isinf(jax.jit(lambda g, p=penalty: jaxreg.strength_max(p, g))(grads))
    for penalty in (jaxreg.l0(1.0), jaxreg.l_half(1.0), jaxreg.hoyer(1.0)):
        with pytest.raises(ValueError, match=f"Any strength of {penalty.kind} keeps zero weights zero"):
            jaxreg.strength_max(penalty, grads)
    with pytest.raises(ValueError, match="must hold numbers"):
        jaxreg.strength_max(jaxreg.l1(1.0), grads.at[0, 0].set(jnp.nan))
    with pytest.raises(TypeError, match=r"'penalty' parameter of strength_max must be a penalty\. Got 0\.1"):
        jaxreg.strength_max(0.1, grads)
    with pytest.raises(ValueError, match=r"'grads' parameter of strength_max must hold arrays .* Got None"):
        jaxreg.strength_max(jaxreg.l1(1.0), None)
    with pytest.raises(ValueError, match="selects no leaf"):
        jaxreg.strength_max(jaxreg.l1(1.0, mask=masks.min_ndim(3)), grads)


def test_slope_and_protected_penalties():
    grads = jnp.array([3.0, -2.0, 1.0])
    assert jaxreg.strength_max(jaxreg.slope(jnp.array([3.0, 2.0, 1.0])), grads) == 1.0
    assert jaxreg.strength_max(jaxreg.protected(jaxreg.l1(0.3), max_zero_share=0.9), grads) == 3.0
    with pytest.raises(ValueError, match="top_k is a constraint"):
        jaxreg.strength_max(jaxreg.protected(jaxreg.top_k(1), max_zero_share=0.9), grads)
    with pytest.raises(ValueError, match="'grads' parameter of strength_max must hold numbers"):
        jaxreg.strength_max(jaxreg.l1(0.3), grads.at[0].set(jnp.nan))

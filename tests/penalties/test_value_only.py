"""Penalties for the loss only: orthogonality, hoyer and hoyer_square against NumPy, and what they keep."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from formulas import SHAPE, columns
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from registry import ON, parameters

import jaxreg
from jaxreg import groups, masks


@dataclasses.dataclass(frozen=True)
class Case:
    """A penalty on the leaf "kernel" and its formula there, in NumPy."""

    name: str
    make: Callable[[Any], jaxreg.Penalty]
    formula: Callable[[np.ndarray], float]
    scale_free: bool = False
    gathers: bool = False
    """Whether its value needs more than sums over a sharded leaf."""

    def __str__(self) -> str:
        return self.name


def ratio(r: np.ndarray) -> float:
    r = r.ravel()
    return float(r.sum() / np.sqrt((r**2).sum())) if r.any() else 0.0


def of_columns(w: np.ndarray) -> np.ndarray:
    return np.array([np.linalg.norm(w[m]) for m in columns()])


def deviation(w: np.ndarray) -> np.ndarray:
    """Of the squared singular values of the smaller Gram matrix from 1."""
    return np.linalg.svd(w, compute_uv=False) ** 2 - 1


CASES = [
    Case("hoyer", lambda s: jaxreg.hoyer(s, mask=ON), lambda w: ratio(abs(w)), True),
    Case(
        "hoyer[outputs]",
        lambda s: jaxreg.hoyer(s, groups.outputs(), mask=ON),
        lambda w: ratio(of_columns(w)),
        True,
    ),
    Case("hoyer_square", lambda s: jaxreg.hoyer_square(s, mask=ON), lambda w: ratio(abs(w)) ** 2, True),
    Case(
        "hoyer_square[outputs]",
        lambda s: jaxreg.hoyer_square(s, groups.outputs(), mask=ON),
        lambda w: ratio(of_columns(w)) ** 2,
        True,
    ),
    Case(
        "orthogonality[soft]",
        lambda s: jaxreg.orthogonality(s, mask=ON),
        lambda w: float(np.sum(deviation(w) ** 2)),
        gathers=True,
    ),
    Case(
        "orthogonality[srip]",
        lambda s: jaxreg.orthogonality(s, kind="srip", mask=ON),
        lambda w: float(np.max(abs(deviation(w)))),
        gathers=True,
    ),
]
SCALE_FREE = [case for case in CASES if case.scale_free]
every = pytest.mark.parametrize("case", CASES, ids=str)
scale_free = pytest.mark.parametrize("case", SCALE_FREE, ids=str)
DTYPES = [np.float32, jnp.bfloat16, np.float16, np.complex64]


def draw(seed: int, dtype: Any = np.float64) -> np.ndarray:
    """Far enough from orthonormal for one deviation to stand out."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=SHAPE) + (
        1j * rng.normal(size=SHAPE) if np.issubdtype(dtype, np.complexfloating) else 0
    )
    w[:, 1] *= 2
    return w.astype(dtype)


def alone(kernel: Any) -> dict[str, Any]:
    return {"layer": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(SHAPE[1])}}


def gradient(case: Case, w: Any, strength: Any = 0.4) -> np.ndarray:
    return np.asarray(jax.grad(lambda k: case.make(strength)(alone(k)))(jnp.asarray(w)))


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_is_the_formula(case: Case, dtype: Any) -> None:
    w = draw(0, dtype)
    found = case.make(0.4)(parameters(jnp.asarray(w)))
    assert found.shape == ()
    assert found.dtype == jnp.float32
    wide = w.astype(np.complex128 if dtype == np.complex64 else np.float64)
    np.testing.assert_allclose(found, 0.4 * case.formula(wide), rtol=3e-6)


@every
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_value_and_gradient_in_double_precision(case: Case, dtype: Any) -> None:
    w = draw(1, dtype)
    np.testing.assert_allclose(case.make(0.4)(alone(w)), 0.4 * case.formula(w), rtol=1e-9)
    slope, along = gradient(case, w), draw(2, dtype)
    if dtype == np.float64:
        along[0, 0] = 0.0
    small = 1e-6
    difference = 0.4 * (case.formula(w + small * along) - case.formula(w - small * along)) / (2 * small)
    np.testing.assert_allclose(np.sum(np.real(slope * along)), difference, rtol=1e-6)
    per_strength = jax.grad(lambda s: case.make(s)(alone(w)))(0.4)
    np.testing.assert_allclose(per_strength, case.formula(w), rtol=1e-9)


@scale_free
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_push_and_no_nan_at_zeros(case: Case, dtype: Any) -> None:
    w = draw(3, dtype)
    w[:, 1], w[2, :], w[4, 3] = 0, 0, 0
    for leaf in (w, np.zeros(SHAPE, dtype)):
        slope = gradient(case, leaf).astype(np.complex64)
        assert np.all(np.isfinite(slope))
        np.testing.assert_array_equal(slope[leaf == 0], 0)
        assert leaf.any() == slope.any()
    assert float(case.make(0.4)(alone(np.zeros(SHAPE, dtype)))) == 0.0


@scale_free
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_the_scale_of_the_weights_does_not_count(case: Case, scale: float) -> None:
    w = draw(4, np.float32)
    at_one, slope = case.make(0.4)(alone(w)), gradient(case, w)
    np.testing.assert_allclose(case.make(0.4)(alone(w * np.float32(scale))), at_one, rtol=2e-6)
    scaled = gradient(case, w * np.float32(scale)).astype(np.float64)
    np.testing.assert_allclose(scaled * scale, slope, rtol=1e-4, atol=1e-6)
    # Euler: nothing along the weights themselves.
    np.testing.assert_allclose(np.sum(slope * w), 0.0, atol=1e-5)


@scale_free
def test_extremes_of_the_ratio(case: Case) -> None:
    """One element or group: 1. All alike: their number, or its root."""
    one, same = np.zeros(SHAPE), np.ones(SHAPE)
    one[3, 2] = -1e-20
    assert float(case.make(1.0)(alone(one.astype(np.float32)))) == 1.0
    np.testing.assert_allclose(gradient(case, one.astype(np.float32))[3, 2], 0.0, atol=1e-6)
    count = SHAPE[1] if "outputs" in case.name else same.size
    expected = count if "square" in case.name else np.sqrt(count)
    np.testing.assert_allclose(case.make(1.0)(alone(same)), expected, rtol=1e-6)
    np.testing.assert_allclose(gradient(case, same), 0.0, atol=1e-6)
    assert float(case.make(1.0)({"layer": {"kernel": jnp.ones((1, 1)), "bias": 0.0}})) == 1.0


@every
def test_nan_comes_through_and_a_small_leaf_is_none(case: Case) -> None:
    w = draw(5, np.float32)
    w[1, 2] = np.nan
    assert np.isnan(case.make(0.4)(alone(w)))
    for tiny in (1e-30, 1e-38, 1e-45):
        assert np.all(np.isfinite(gradient(case, np.full(SHAPE, tiny, np.float32)))) or tiny < 1e-37
        assert np.isfinite(case.make(0.4)(alone(np.full(SHAPE, tiny, np.float32))))


@every
def test_its_prox_says_what_to_do(case: Case) -> None:
    penalty = case.make(0.4)
    words = r"has no closed form. Use its gradient.*jaxreg.add_penalty\(penalty\) before the optimizer"
    with pytest.raises(ValueError, match=words):
        penalty.prox(alone(draw(6)), 0.1)
    optimizer = jaxreg.prox_sgd(0.1, penalty)
    params = alone(draw(6, np.float32))
    with pytest.raises(ValueError, match=words):
        optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(ValueError, match=f"The sum of l1 and {penalty.kind} has no exact prox"):
        (jaxreg.l1(0.1) + penalty).prox(alone(draw(6)), 0.1)
    both = jaxreg.l1(0.1) + penalty
    np.testing.assert_allclose(both(params), jaxreg.l1(0.1)(params) + penalty(params), rtol=1e-6)


@every
def test_jit_vmap_scan_checkpoint_and_strengths(case: Case) -> None:
    kernels = jnp.stack([jnp.asarray(draw(seed, np.float32)) for seed in range(3)])
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def as_argument(penalty: jaxreg.Penalty, kernel: Any) -> Any:
        return jax.value_and_grad(lambda k: penalty(alone(k)))(kernel)

    def both(kernel: Any) -> Any:
        return jax.value_and_grad(lambda k: case.make(0.2)(alone(k)))(kernel)

    one_by_one = jax.tree.map(lambda *xs: jnp.stack(xs), *[as_argument(case.make(0.2), k) for k in kernels])
    mapped, saved = jax.vmap(both)(kernels), jax.vmap(jax.checkpoint(both))(kernels)
    scanned = jax.lax.scan(lambda carry, k: (carry, both(k)), 0, kernels)[1]
    for other in (mapped, saved, scanned):
        chex.assert_trees_all_close(other, one_by_one, rtol=1e-5, atol=1e-5)
    as_argument(case.make(0.3), kernels[0])
    strengths = jax.vmap(lambda s: case.make(s)(alone(kernels[0])))(jnp.array([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(strengths, strengths[1] * np.array([0, 1, 2]), rtol=1e-6)
    np.testing.assert_allclose(case.make(1.0).scale(2.0)(alone(kernels[0])), strengths[2], rtol=1e-6)


@every
def test_is_a_pytree_of_numbers_that_compares_by_value(case: Case) -> None:
    leaves, treedef = jax.tree.flatten(case.make(0.3))
    assert leaves == [0.3]
    assert jax.tree.unflatten(treedef, leaves) == case.make(0.3)
    assert hash(case.make(0.3)) == hash(case.make(0.3))
    tree = alone(draw(7, np.float32))
    np.testing.assert_allclose(case.make({"layer": 0.3})(tree), case.make(0.3)(tree), rtol=1e-6)
    with pytest.raises(ValueError, match="'strength' has no entry for the leaf 'layer/kernel'"):
        case.make({"layer": {"bias": 0.2}})(tree)


@every
@pytest.mark.parametrize("axis", [0, 1])
def test_of_a_sharded_leaf(case: Case, axis: int) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    sharding = NamedSharding(mesh, PartitionSpec(*(["d", None] if axis == 0 else [None, "d"])))
    penalty, tree = case.make(0.2), alone(draw(8, np.float32))
    spread = {"layer": tree["layer"] | {"kernel": jax.device_put(tree["layer"]["kernel"], sharding)}}
    compiled = jax.jit(lambda t: penalty(t)).lower(spread).compile()
    np.testing.assert_allclose(compiled(spread), penalty(tree), rtol=1e-5)
    assert case.gathers or "all-gather" not in compiled.as_text()


@scale_free
@pytest.mark.usefixtures("x64")
def test_optimality_is_the_distance_to_the_slopes_that_directions_see(case: Case) -> None:
    """A zero withstands gradients up to its own slope; elsewhere loss and penalty must cancel."""
    w = draw(9)
    w[:, 1], w[4, 3] = 0.0, 0.0
    penalty, grads = case.make(0.4), 0.3 * draw(10)
    distance = np.asarray(penalty.optimality(alone(w), alone(grads))["layer"]["kernel"])
    small, full = 1e-7, case.formula(w)

    def descent(move: np.ndarray) -> float:
        return -(0.4 * (case.formula(w + small * move) - full) / small + float(np.sum(grads * move)))

    elements = "outputs" not in case.name
    for index in ((0, 0), (4, 3), (2, 1)) if elements else ():
        move = np.zeros(SHAPE)
        move[index] = 1.0
        steepest = max(descent(move), descent(-move))
        np.testing.assert_allclose(distance[index], max(steepest, 0.0), atol=1e-5)
    for column in () if elements else columns()[:2]:
        # Downhill is against the gradient, on which the norm of a dead group does not depend.
        slope = grads + gradient(case, w)
        move = np.where(column, -slope, 0.0) / np.linalg.norm(slope[column])
        np.testing.assert_allclose(distance[column], max(descent(move), 0.0), atol=1e-5)
    empty = penalty.optimality(alone(0 * w), alone(grads))["layer"]["kernel"]
    np.testing.assert_array_equal(empty, 0.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("kind", ["soft", "srip"])
def test_optimality_of_orthogonality_is_the_slope_of_the_objective(kind: str, dtype: Any) -> None:
    w, penalty = jnp.asarray(draw(11, dtype)), jaxreg.orthogonality(0.4, kind=kind)
    slope = jnp.conj(jax.grad(penalty)(w))
    np.testing.assert_allclose(penalty.optimality(w, -slope), 0.0, atol=1e-12)
    np.testing.assert_allclose(penalty.optimality(w, 1.0 - slope), 1.0, atol=1e-12)
    np.testing.assert_allclose(penalty.optimality(jnp.eye(4, dtype=dtype), jnp.zeros((4, 4), dtype)), 0.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (3, 7), (7, 3), (4, 4), (3, 3, 2, 6)])
@pytest.mark.parametrize("kind", ["soft", "srip"])
def test_orthogonality_of_all_shapes_and_layouts(kind: str, shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(12).normal(size=shape) / 2
    w[..., 0] *= 3
    flax = w.reshape(-1, shape[-1])
    powers = {"soft": lambda d: np.sum(d**2), "srip": lambda d: np.max(abs(d))}
    expected = powers[kind](deviation(flax))
    make = functools.partial(jaxreg.orthogonality, 1.0, kind=kind)
    np.testing.assert_allclose(make()({"w": w}), expected, rtol=1e-8)
    torch = np.moveaxis(w, (-1, -2), (0, 1))
    for layout in ("torch", "equinox"):
        np.testing.assert_allclose(make(layout=layout)({"w": torch}), expected, rtol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(3))
def test_srip_is_a_lower_bound_within_10_percent(seed: int) -> None:
    """Also where eigenvalues crowd: random matrices, nearly orthonormal ones, and deviations of +d and -d."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(40, 20)))[0]
    pair = q * np.sqrt(np.where(np.arange(20) % 2, 1.3, 0.7))
    for w in (rng.normal(size=(30, 30)) / 5, q + 1e-4 * rng.normal(size=q.shape), pair, q, 0 * q, 2 * q):
        exact = np.max(abs(deviation(w)))
        found = float(jaxreg.orthogonality(1.0, kind="srip")(w))
        assert 0.9 * exact - 1e-14 <= found <= exact * (1 + 1e-12) + 1e-14
        assert np.all(np.isfinite(jax.grad(jaxreg.orthogonality(1.0, kind="srip"))(jnp.asarray(w))))


@pytest.mark.parametrize(("kind", "rate"), [("soft", 0.02), ("srip", 0.01)])
def test_training_with_it_makes_columns_orthonormal(kind: str, rate: float) -> None:
    params = {"kernel": jnp.asarray(np.random.default_rng(13).normal(size=(12, 6)) / 3, jnp.float32)}
    penalty = jaxreg.orthogonality(1.0, kind=kind, mask=masks.weights)
    optimizer = optax.chain(jaxreg.add_penalty(penalty), optax.sgd(rate))

    def advance(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    trained = jax.jit(lambda c: jax.lax.scan(advance, c, None, length=400)[0])(carry)[0]
    assert np.max(abs(deviation(np.asarray(params["kernel"])))) > 0.5
    assert np.max(abs(deviation(np.asarray(trained["kernel"])))) < 0.05


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="'kind' parameter of orthogonality must be one of 'soft', 'srip'"):
        jaxreg.orthogonality(0.1, kind="hard")
    with pytest.raises(ValueError, match="'layout' parameter of orthogonality must be one of 'flax'"):
        jaxreg.orthogonality(0.1, layout="keras")
    with pytest.raises(ValueError, match=r"The leaf 'bias' has shape \(3,\).*jaxreg.masks.weights"):
        jaxreg.orthogonality(0.1)({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    for make in (jaxreg.hoyer, jaxreg.hoyer_square, jaxreg.orthogonality):
        words = f"The 'strength' parameter of {make.__name__} must be a non-negative number. Got -1.0."
        with pytest.raises(ValueError, match=words):
            make(-1.0)
    with pytest.raises(TypeError, match="The 'groups' parameter of hoyer must be a structure"):
        jaxreg.hoyer(0.1, "outputs")
    with pytest.raises(ValueError, match=r"The leaf 'bias' has shape \(3,\)"):
        jaxreg.hoyer_square(0.1, groups.outputs())({"bias": jnp.ones(3)})

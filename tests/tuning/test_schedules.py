"""When a penalty is on: windows, Distiller's and jaxpruner's policies, Dense-Sparse-Dense, a refit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from convex_problems import diabetes
from helpers import apply, assert_same_bits, gradients, parameters, train

import jaxreg
from jaxreg import groups, masks


def values(schedule, steps):
    return np.array([float(schedule(count)) for count in range(steps)])


def test_a_window_is_its_schedule_inside_and_0_outside():
    found = values(jaxreg.windowed(lambda count: count / 10, begin_step=3, end_step=11, every=4), 14)
    np.testing.assert_allclose(
        found, np.where(np.isin(np.arange(14), [3, 7]), np.arange(14) / 10, 0), rtol=1e-6
    )
    np.testing.assert_array_equal(values(jaxreg.windowed(2.0, begin_step=2), 4), [0, 0, 2, 2])


def test_a_window_in_a_proximal_optimizer():
    optimizer = jaxreg.prox_sgd(
        1.0, jaxreg.scheduled(jaxreg.l1(0.25), jaxreg.windowed(1.0, begin_step=1, end_step=6, every=2))
    )
    new, _ = train(optimizer, [jnp.zeros(1)] * 8, jnp.array([2.0]), jax.jit)
    np.testing.assert_allclose(new, 2 - 3 * 0.25)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"end_step": 2}, "'end_step' parameter of windowed must be larger than 'begin_step'"),
        ({"every": 0}, "'every' parameter of windowed must be at least 1"),
        ({"schedule": -1.0}, "'schedule' parameter of windowed must be a non-negative number"),
    ],
)
def test_bad_windows_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        jaxreg.windowed(**{"schedule": 1.0, "begin_step": 2} | change)


# Dense-Sparse-Dense

ON = masks.name("kernel")


def two_layers(seed):
    """A layer, and one that is a hundred times smaller."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": (scale * rng.normal(size=(4, 3))).astype(np.float32),
            "bias": (scale * rng.normal(size=3)).astype(np.float32),
        }
        for name, scale in {"large": 1.0, "small": 0.01}.items()
    }


@pytest.mark.parametrize("scope", ["leaf", "global"])
def test_dense_then_sparse_then_dense(scope):
    sgd = optax.sgd(0.01, momentum=0.9)
    optimizer = jaxreg.dense_sparse_dense(sgd, 0.5, begin_step=3, end_step=6, scope=scope, mask=ON)
    update, plain = jax.jit(apply(optimizer)), jax.jit(apply(sgd))
    params = dense = two_layers(0)
    state, dense_state, seen, unpruned = optimizer.init(params), sgd.init(params), [], []
    for step in range(8):
        params, state = update(two_layers(1 + step), state, params)
        dense, dense_state = plain(two_layers(1 + step), dense_state, dense)
        seen.append(params)
        unpruned.append(dense)
    for name in ("large", "small"):
        kernels = [np.asarray(params[name]["kernel"]) for params in seen]
        sizes = np.abs(unpruned[3][name]["kernel"])
        n_zero = {"leaf": 6, "global": 12 if name == "small" else 0}[scope]
        smallest = sizes < np.sort(np.append(sizes.ravel(), np.inf))[n_zero]
        np.testing.assert_allclose(kernels[2], unpruned[2][name]["kernel"], rtol=1e-6)
        for kernel in kernels[3:6]:
            np.testing.assert_array_equal(kernel == 0, smallest)
        assert np.all(kernels[6] != 0)
        np.testing.assert_allclose(seen[-1][name]["bias"], unpruned[-1][name]["bias"], rtol=1e-6)


def test_whole_groups_are_pruned():
    optimizer = jaxreg.dense_sparse_dense(
        optax.adam(0.01), 2 / 3, begin_step=0, end_step=9, groups=groups.outputs(), mask=ON
    )
    new, _ = train(optimizer, gradients(2), parameters(), jax.jit)
    np.testing.assert_array_equal(np.any(new["layer"]["kernel"] != 0, axis=0), [False, False, True])


def test_a_bad_share_or_end_of_dense_sparse_dense_is_named():
    with pytest.raises(
        ValueError, match=r"'target' parameter of dense_sparse_dense must be a number in \[0, 1\)"
    ):
        jaxreg.dense_sparse_dense(optax.sgd(0.1), 1.0, begin_step=0, end_step=1)
    with pytest.raises(ValueError, match="'end_step' parameter of dense_sparse_dense must be larger"):
        jaxreg.dense_sparse_dense(optax.sgd(0.1), 0.5, begin_step=3, end_step=3)
    with pytest.raises(TypeError, match=r"'optimizer' parameter of dense_sparse_dense must be .* Got 0\.1"):
        jaxreg.dense_sparse_dense(0.1, 0.5, begin_step=3, end_step=4)


def test_the_start_at_a_step_in_optax_is_that_of_windowed():
    counts = np.arange(6)
    plain = optax.linear_schedule(0.0, 1.0, 1, transition_begin=3 - 1)
    window = jaxreg.windowed(1.0, begin_step=3)
    np.testing.assert_array_equal([plain(k) for k in counts], [window(k) for k in counts])


def test_the_frequency_of_a_window_may_be_traced():
    @jax.jit
    def values_at(every):
        return jax.vmap(jaxreg.windowed(1.0, begin_step=1, every=every))(jnp.arange(6))

    np.testing.assert_array_equal(values_at(2), [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(values_at(3), [0, 1, 0, 0, 1, 0])


# Debiasing


@pytest.mark.usefixtures("x64")
def test_a_refit_on_the_found_support_is_least_squares_on_it():
    x, y = diabetes()

    def fit(optimizer, start):
        def body(carry, _):
            w, state = carry
            return jaxreg.step(optimizer, x.T @ (x @ w - y) / len(y), state, w), None

        return jax.lax.scan(body, (start, optimizer.init(start)), length=2000)[0][0]

    sparse = fit(jaxreg.fista(0.15, jaxreg.l1(0.1)), jnp.zeros(10))
    refit = fit(jaxreg.freeze_zeros(optax.sgd(0.15, momentum=0.5)), sparse)
    support = np.asarray(sparse != 0)
    assert 0 < support.sum() < 10
    expected = np.zeros(10)
    expected[support] = np.linalg.lstsq(x[:, support], y, rcond=None)[0]
    np.testing.assert_allclose(refit, expected, atol=1e-8)
    assert_same_bits(refit == 0, sparse == 0)

"""What FISTA promises to its caller: trees, dtypes, extra arguments, state, compilation, errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_same_bits, gradients, parameters, zeros

import jaxreg
from jaxreg import groups, masks

L1 = jaxreg.l1(0.1)
KERNEL = masks.name("kernel")
GROUPED = jaxreg.group_lasso(0.02, groups.outputs(), mask=KERNEL) + jaxreg.l1(0.01, mask=KERNEL)


def loss(params):
    """Least squares for a kernel and a bias."""
    inputs = jnp.asarray(np.random.default_rng(3).normal(size=(20, 4)), params["layer"]["kernel"].dtype)
    outputs = inputs @ params["layer"]["kernel"] + params["layer"]["bias"]
    target = jnp.stack([inputs[:, 0], 0.5 * inputs[:, 1] - inputs[:, 2], jnp.zeros(20, inputs.dtype)], axis=1)
    return jnp.mean((outputs - target) ** 2)


def solve(optimizer, params, steps=150, value_fn=loss):
    def advance(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(value_fn)(params)
        return jaxreg.step(optimizer, grads, state, params, value=value, value_fn=value_fn), None

    return jax.lax.scan(advance, (params, optimizer.init(params)), None, length=steps)[0]


# Trees


@pytest.mark.parametrize("options", [{}, {"backtracking": True}], ids=["constant", "backtracking"])
def test_trees_with_masks_groups_and_sums(options):
    params, state = jax.jit(lambda params: solve(jaxreg.fista(0.5, GROUPED, **options), params))(parameters())
    assert_close(params, state.solution, atol=1e-5)
    worst = GROUPED.optimality(params, jax.grad(loss)(params))
    assert max(float(leaf.max()) for leaf in jax.tree.leaves(worst)) < 2e-6
    dead = np.all(np.asarray(params["layer"]["kernel"]) == 0, axis=0)
    np.testing.assert_array_equal(dead, [False, False, True])


def test_leaves_out_of_the_penaltys_reach_are_accelerated():
    optimizer = jaxreg.fista(0.05, jaxreg.l1(0.1, mask=KERNEL), restart=False)
    params, grads = parameters(), gradients(4)
    state, bias = optimizer.init(params), np.asarray(params["layer"]["bias"])
    point, t = bias, 1.0
    for grad in grads:
        params, state = jaxreg.step(optimizer, grad, state, params)
        new, t_next = point - 0.05 * np.asarray(grad["layer"]["bias"]), (1 + np.sqrt(1 + 4 * t**2)) / 2
        point, bias, t = new + (t - 1) / t_next * (new - bias), new, t_next
        np.testing.assert_allclose(params["layer"]["bias"], point, rtol=1e-5)
        np.testing.assert_allclose(state.solution["layer"]["bias"], bias, rtol=1e-5)


def test_leaves_without_updates_and_holes_stay():
    params = parameters() | {"frozen": jnp.ones(2), "hole": None, "steps": jnp.arange(3)}
    [grads] = gradients(1)
    grads |= {"frozen": None, "hole": None, "steps": jnp.zeros(3, jnp.int32)}
    value_fn = lambda params: loss(params) + params["frozen"].sum() + params["steps"].sum()  # noqa: E731
    optimizer = jaxreg.fista(0.5, GROUPED, backtracking=True)
    new, state = jax.jit(lambda g, s, p: jaxreg.step(optimizer, g, s, p, value_fn=value_fn))(
        grads, optimizer.init(params), params
    )
    for name in ("frozen", "steps"):
        assert_same_bits(new[name], params[name])
        assert_same_bits(state.solution[name], params[name])
    assert new["hole"] is None
    assert np.any(new["layer"]["kernel"] != params["layer"]["kernel"])


@pytest.mark.parametrize("options", [{}, {"backtracking": True}], ids=["constant", "backtracking"])
def test_the_solution_has_the_current_leaves_where_there_is_no_gradient(options):
    optimizer = jaxreg.fista(0.5, jaxreg.l1(0.1), **options)
    state = optimizer.init({"w": jnp.ones(2), "frozen": jnp.ones(2), "steps": jnp.arange(3)})
    params = {"w": jnp.ones(2), "frozen": jnp.full(2, 5.0), "steps": jnp.arange(3) + 7}
    grads = {"w": jnp.ones(2), "frozen": None, "steps": None}
    value_fn = lambda params: params["w"].sum()  # noqa: E731
    new, state = jaxreg.step(optimizer, grads, state, params, value_fn=value_fn)
    for name in ("frozen", "steps"):
        assert_same_bits(state.solution[name], params[name])
        assert state.solution[name].unsafe_buffer_pointer() != new[name].unsafe_buffer_pointer()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("backtracking", [False, True])
def test_complex_parameters_are_pairs_of_real_ones(backtracking):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 6)) + 1j * rng.normal(size=(12, 6))
    y = rng.normal(size=12) + 1j * rng.normal(size=12)

    def complex_loss(w):
        return jnp.mean(jnp.abs(x @ w - y) ** 2)

    def real_loss(pairs):
        return complex_loss(pairs[0] + 1j * pairs[1])

    def follow(penalty, value_fn, start):
        optimizer = jaxreg.fista(0.05, penalty, backtracking=backtracking)

        def advance(carry, _):
            params, state = carry
            grads = jnp.conj(jax.grad(value_fn)(params))
            params, state = jaxreg.step(optimizer, grads, state, params, value_fn=value_fn)
            return (params, state), state

        (last, _), states = jax.lax.scan(advance, (start, optimizer.init(start)), None, length=200)
        assert penalty.optimality(last, jnp.conj(jax.grad(value_fn)(last))).max() < 1e-13
        return states

    pairs = jaxreg.group_lasso(0.8, groups.axes(keep=[1]), size_weights=False)
    expected = follow(pairs, real_loss, jnp.zeros((2, 6)))
    actual = follow(jaxreg.l1(0.8), complex_loss, jnp.zeros(6, complex))
    np.testing.assert_allclose(actual.solution.real, expected.solution[:, 0], atol=1e-9)
    np.testing.assert_allclose(actual.solution.imag, expected.solution[:, 1], atol=1e-9)
    np.testing.assert_allclose(actual.step_size[:8], expected.step_size[:8], rtol=1e-6)
    assert 0 < np.count_nonzero(actual.solution[-1]) < 6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("backtracking", [False, True])
def test_narrow_parameters(dtype, backtracking):
    params, state = jax.jit(
        lambda params: solve(jaxreg.fista(0.3, GROUPED, backtracking=backtracking), params, 60)
    )(parameters(dtype))
    chex.assert_trees_all_equal_dtypes(params, state.solution, parameters(dtype))
    expected, _ = solve(jaxreg.fista(0.5, GROUPED), parameters())
    chex.assert_trees_all_close(jax.tree.map(jnp.float32, state.solution), expected, atol=0.05)
    chex.assert_trees_all_equal(zeros(state.solution["layer"]["kernel"]), zeros(expected["layer"]["kernel"]))


# The call


def test_the_value_and_what_the_loss_takes_besides():
    params = parameters()
    grads = jax.tree.map(lambda grad: 2 * grad, jax.grad(loss)(params))
    optimizer = jaxreg.fista(4.0, GROUPED, backtracking=True)
    state = optimizer.init(params)

    def scaled(params, factor, shift=0.0):
        return factor * loss(params) + shift

    def update(**extra):
        return jax.jit(lambda: optimizer.update(grads, state, params, unheard_of="x", **extra))()

    expected = update(value_fn=lambda params: 2 * loss(params), value=2 * loss(params))
    assert_close(update(value_fn=scaled, factor=2.0), expected, 1e-5)
    assert_close(update(value_fn=scaled, factor=2.0, shift=1.0, value=2 * loss(params) + 1), expected, 1e-4)
    assert_close(update(value_fn=jax.jit(scaled), factor=2.0), expected, 1e-5)
    # The value that is given is believed.
    assert update(value_fn=scaled, factor=2.0, value=1e6)[1].step_size > expected[1].step_size


def test_backtracking_needs_the_loss():
    params, [grads] = parameters(), gradients(1)
    optimizer = jaxreg.fista(0.1, GROUPED, backtracking=True)
    for run in (
        lambda: optimizer.update(grads, optimizer.init(params), params, value=1.0),
        lambda: jaxreg.step(optimizer, grads, optimizer.init(params), params),
    ):
        with pytest.raises(ValueError, match=r"fista with backtracking=True needs the loss.*value_fn=loss"):
            run()


NO_LOSSES = [
    ({"value_fn": 1.5}, TypeError, "'value_fn' of fista must be a function.* Got 1.5 of type float"),
    (
        {"value_fn": lambda params: (loss(params), 1)},
        TypeError,
        "'value_fn' of fista must return the loss.* of type tuple",
    ),
    (
        {"value_fn": lambda params: params["layer"]["bias"]},
        ValueError,
        r"'value_fn' of fista .*Got shape \(3,\)",
    ),
    ({"value_fn": lambda params: loss(params) + 0j}, TypeError, "'value_fn' of fista .*Got dtype complex64"),
    ({"value_fn": loss, "value": (1.0, 2)}, TypeError, r"'value' of fista must be the loss.*Got \(1.0, 2\)"),
    ({"value_fn": loss, "value": jnp.ones(1)}, ValueError, r"'value' of fista .*Got shape \(1,\)"),
]


@pytest.mark.parametrize(("extra", "error", "words"), NO_LOSSES)
def test_what_is_no_loss_is_refused(extra, error, words):
    params, [grads] = parameters(), gradients(1)
    optimizer = jaxreg.fista(0.1, GROUPED, backtracking=True)
    with pytest.raises(error, match=words):
        optimizer.update(grads, optimizer.init(params), params, **({"value": 1.0} | extra))


def test_the_value_may_be_an_integer():
    params, [grads] = parameters(), gradients(1)
    optimizer = jaxreg.fista(0.1, GROUPED, backtracking=True)
    expected, actual = (
        optimizer.update(grads, optimizer.init(params), params, value_fn=loss, value=value)
        for value in (2.0, 2)
    )
    assert_close(actual, expected)


def test_schedules_are_called_with_arrays():
    seen = []

    def schedule(count):
        seen.append((count.dtype, count.shape))
        return 0.1 * 0.5 ** count.astype(jnp.float32)

    optimizer, [grads] = jaxreg.fista(schedule, GROUPED), gradients(1)
    optimizer.update(grads, optimizer.init(parameters()), parameters())
    assert seen == [(jnp.int32, ())] * 2


def test_inside_a_chain():
    params = parameters()
    chained = optax.chain(optax.identity(), jaxreg.fista(1.0, GROUPED, backtracking=True))
    expected, state = solve(jaxreg.fista(1.0, GROUPED, backtracking=True), params)
    actual, chained_state = solve(chained, params)
    chex.assert_trees_all_close(actual, expected, atol=1e-6)
    chex.assert_trees_all_close(optax.tree.get(chained_state, "solution"), state.solution, atol=1e-6)


def test_update_equals_step_with_backtracking():
    params = parameters()
    optimizer = jaxreg.fista(1.0, GROUPED, backtracking=True)
    grads = jax.grad(loss)(params)
    state = optimizer.init(params)
    direct = jaxreg.step(optimizer, grads, state, params, value_fn=loss)
    updates, new_state = optimizer.update(grads, state, params, value_fn=loss)
    assert_close((optax.apply_updates(params, updates), new_state), direct)


def test_a_step_size_of_zero_holds_the_parameters():
    rates = jnp.array([0.1, 0.1, 0.1, 0.0, 0.0])
    optimizer, params = jaxreg.fista(lambda count: rates[count], GROUPED), parameters()
    state, seen = optimizer.init(params), []
    for grads in gradients(5):
        params, state = jaxreg.step(optimizer, grads, state, params)
        seen.append(params)
    assert_same_bits(seen[4], seen[3])
    assert_same_bits(seen[3], seen[2])
    assert np.any(seen[2]["layer"]["bias"] != seen[1]["layer"]["bias"])


# State and compilation


@pytest.mark.parametrize("backtracking", [False, True])
def test_the_state_is_one_buffer_and_three_scalars(backtracking):
    params = parameters()
    state = jaxreg.fista(0.1, L1, backtracking=backtracking).init(params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == size + 3 * 4
    assert_same_bits(state.solution, params)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state))}
    assert len(pointers) == len(jax.tree.leaves((params, state)))  # so that both may be donated


@pytest.mark.parametrize("backtracking", [False, True])
def test_another_strength_does_not_recompile(backtracking):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def train(penalty, params):
        return solve(jaxreg.fista(0.5, penalty, backtracking=backtracking), params)

    sparse = [train(L1.scale(factor), parameters())[1].solution for factor in (0.1, 5.0, 20.0)]
    shares = [float(jaxreg.sparsity(solution)) for solution in sparse]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_donation_keeps_backtracking_compiled_once():
    optimizer, params = jaxreg.fista(1.0, GROUPED, backtracking=True), parameters()
    state = optimizer.init(params)

    def advance(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        return jaxreg.step(optimizer, grads, state, params, value=value, value_fn=loss)

    expected, _ = solve(optimizer, parameters(), 4)
    step = jax.jit(advance, donate_argnums=(0, 1))
    for _ in range(4):
        given = params, state
        params, state = step(params, state)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert step._cache_size() == 1
    chex.assert_trees_all_close(params, expected, atol=1e-6)


def test_vmap_over_strengths_with_backtracking():
    def train(strength):
        return solve(jaxreg.fista(1.0, jaxreg.l1(strength), backtracking=True), parameters(), 60)[1].solution

    strengths = jnp.array([0.01, 0.1, 0.4])
    batched = jax.jit(jax.vmap(train))(strengths)
    for index, strength in enumerate(strengths):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], batched)
        assert_close(one, train(strength), atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_differentiable_in_strength_and_learning_rate_without_backtracking():
    def final(strength, rate):
        params = jax.tree.map(jnp.float64, parameters())
        return loss(solve(jaxreg.fista(rate, jaxreg.l1(strength)), params, 20)[0])

    for position, step in ((0, 1e-6), (1, 1e-6)):
        at = [0.05, 0.2]
        slope = jax.grad(final, argnums=position)(*at)
        low, high = ([*at[:position], at[position] + sign * step, *at[position + 1 :]] for sign in (-1, 1))
        np.testing.assert_allclose(slope, (final(*high) - final(*low)) / (2 * step), rtol=1e-5)


# Words


NUMBER = "must be a non-negative number. Got"
WHOLE = "The 'max_backtracking_steps' parameter of fista must be a non-negative whole number. Got"
BAD = [
    (lambda: jaxreg.fista(-0.1, L1), ValueError, f"The 'learning_rate' parameter of fista {NUMBER} -0.1."),
    (
        lambda: jaxreg.fista("a", L1),
        TypeError,
        f"'learning_rate' parameter of fista {NUMBER} 'a' of type str.",
    ),
    (lambda: jaxreg.fista(0.1, 0.1), TypeError, "'penalty' parameter of fista must be a jaxreg.Penalty"),
    (
        lambda: jaxreg.fista(0.1, L1, restart=1),
        TypeError,
        "The 'restart' parameter of fista must be True or False. Got 1.",
    ),
    (
        lambda: jaxreg.fista(0.1, L1, backtracking=None),
        TypeError,
        "The 'backtracking' parameter of fista must be True or False. Got None.",
    ),
    (lambda: jaxreg.fista(0.1, L1, max_backtracking_steps=-1), ValueError, f"{WHOLE} -1."),
    (lambda: jaxreg.fista(0.1, L1, max_backtracking_steps=1.5), TypeError, f"{WHOLE} 1.5 of type float."),
    (
        lambda: jaxreg.fista(0.0, L1, backtracking=True),
        ValueError,
        "The 'learning_rate' parameter of fista must be a positive number. Got 0.0.",
    ),
    (
        lambda: jaxreg.fista(optax.constant_schedule(0.1), L1, backtracking=True),
        TypeError,
        "With backtracking the 'learning_rate' parameter of fista must be a positive number, the first",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


def test_what_does_not_fit_is_refused_at_init():
    with pytest.raises(ValueError, match=r"'layer/bias' .*mask=jaxreg.masks.weights\."):
        jaxreg.fista(0.1, jaxreg.group_lasso(0.1, groups.outputs())).init(parameters())


def test_injected_hyperparameters():
    injected = optax.inject_hyperparams(jaxreg.fista, static_args=("penalty",))
    expected, _ = solve(jaxreg.fista(0.7, GROUPED, backtracking=True), parameters(), 30)
    actual, _ = solve(injected(0.7, GROUPED, backtracking=True), parameters(), 30)
    chex.assert_trees_all_close(actual, expected, atol=1e-6)

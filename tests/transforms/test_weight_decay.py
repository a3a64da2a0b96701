"""Weight decay against optax's, and against the recursion written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_same_bits, gradients, parameters, train

import jaxreg
from jaxreg import groups, masks

RATES = {"number": 0.05, "schedule": optax.linear_schedule(0.1, 0.0, 3)}


@pytest.mark.parametrize("rate", RATES)
def test_it_is_the_decay_of_adamw(rate):
    rate = RATES[rate]
    attached = optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(rate),
        jaxreg.weight_decay(0.3, learning_rate=rate, mask=masks.weights),
    )
    adamw = optax.adamw(rate, weight_decay=0.3, mask=masks.weights)
    params, grads = parameters(), gradients()
    actual, _ = train(attached, grads, params, jax.jit)
    expected, _ = train(adamw, grads, params, jax.jit)
    assert_close(actual, expected)
    undecayed, _ = train(optax.adam(rate), grads, params, jax.jit)
    assert np.any(actual["layer"]["kernel"] != undecayed["layer"]["kernel"])


@pytest.mark.parametrize("strength", [0.3, lambda count: jnp.array([0.3, 0.0, 0.1])[count]])
def test_without_a_learning_rate_it_is_independent_of_it(strength):
    shares = [strength(k) if callable(strength) else strength for k in range(3)]
    params, grads = parameters(), gradients()
    for rate in (0.1, 0.0):
        optimizer = optax.chain(optax.sgd(rate), jaxreg.weight_decay(strength))
        actual, _ = train(optimizer, grads, params)
        expected = params
        for share, grad in zip(shares, grads, strict=True):
            expected = jax.tree.map(lambda w, g, s=share, r=rate: w - r * g - s * w, expected, grad)
        assert_close(actual, expected, rtol=1e-5)


def test_masked_out_updates_keep_their_bits():
    params, [grads] = parameters(), gradients(1)
    decay = jaxreg.weight_decay(0.3, learning_rate=0.1, mask=masks.name("kernel"))
    updates, _ = decay.update(grads, decay.init(params), params)
    assert_same_bits(updates["layer"]["bias"], grads["layer"]["bias"])
    expected = grads["layer"]["kernel"] - 0.03 * params["layer"]["kernel"]
    assert_close(updates["layer"]["kernel"], expected)


def test_a_small_decay_is_not_lost_in_narrow_gradients():
    # 1 + 0.001 rounds to 1 in bfloat16.
    params = jnp.ones(3)
    decay = jaxreg.weight_decay(0.001)
    updates, _ = decay.update(jnp.ones(3, jnp.bfloat16), decay.init(params), params)
    assert_close(updates, jnp.full(3, 0.999))


@pytest.mark.filterwarnings("ignore:.*is lost")
@pytest.mark.parametrize("kind", ["numbers", "schedules", "multipliers", "injected"])
def test_a_product_of_small_float16_numbers_is_not_zero(kind):
    small = jnp.float16(3e-4)  # whose square float16 does not hold
    params = jnp.full(2, 0.01, jnp.float16)
    given = {
        "numbers": {"strength": small, "learning_rate": small},
        "schedules": {"strength": lambda _: small, "learning_rate": lambda _: small},
        "multipliers": {"strength": small, "multipliers": {"**": small}},
        "injected": {"strength": 3e-4, "learning_rate": 3e-4},  # cast to the parameters' dtype
    }[kind]
    make = optax.inject_hyperparams(jaxreg.weight_decay) if kind == "injected" else jaxreg.weight_decay
    decay = make(**given)
    updates, _ = jax.jit(decay.update)(jnp.zeros(2), decay.init(params), params)
    np.testing.assert_allclose(updates, -9e-10, rtol=2e-3)


def test_strength_may_be_traced():
    params, [grads] = parameters(), gradients(1)

    def decayed(strength, rate):
        decay = jaxreg.weight_decay(strength, learning_rate=rate)
        return decay.update(grads, decay.init(params), params)[0]["layer"]["kernel"]

    actual = jax.jit(decayed)(0.5, 0.2)
    assert_close(actual, grads["layer"]["kernel"] - 0.1 * params["layer"]["kernel"])
    slope = jax.grad(lambda strength: decayed(strength, 0.2).sum())(0.5)
    np.testing.assert_allclose(slope, -0.2 * params["layer"]["kernel"].sum(), rtol=1e-6)


@pytest.mark.parametrize("strength", [{"layer": {"kernel": 0.3, "bias": 0.1}}, {"layer": 0.2}])
def test_one_strength_per_leaf(strength):
    params, [grads] = parameters(), gradients(1)
    decay = jaxreg.weight_decay(strength)
    updates, _ = decay.update(grads, decay.init(params), params)
    for leaf, share in (("kernel", 0.3), ("bias", 0.1)):
        share = share if isinstance(strength["layer"], dict) else 0.2
        expected = grads["layer"][leaf] - share * params["layer"][leaf]
        assert_close(updates["layer"][leaf], expected, rtol=1e-5)


# Options, each against its formula in NumPy


def decayed(updates=None, **given):
    """The kernel's update, and the weights and the incoming update, in double precision."""
    params, [grads] = parameters(), gradients(1)
    decay = jaxreg.weight_decay(mask=masks.name("kernel"), **given)
    updates, _ = decay.update(grads, decay.init(params), params)
    assert_same_bits(updates["layer"]["bias"], grads["layer"]["bias"])
    return (np.asarray(tree["layer"]["kernel"], np.float64) for tree in (updates, params, grads))


def test_cautious_decay_spares_what_the_update_moves_outward():
    new, weight, move = decayed(strength=0.3, cautious=True)
    expected = move - 0.3 * weight * (move * weight <= 0)
    np.testing.assert_allclose(new, expected, rtol=1e-5)
    assert 0 < np.sum(move * weight > 0) < np.sum(weight != 0)


def test_cautious_decay_to_a_reference_asks_about_the_way_to_it():
    reference = np.linspace(-1, 1, 12).reshape(4, 3)
    given = {"layer": {"kernel": jnp.asarray(reference, jnp.float32)}}
    new, weight, move = decayed(strength=0.3, cautious=True, toward=given)
    distance = weight - reference
    np.testing.assert_allclose(new, move - 0.3 * distance * (move * distance <= 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reference", ["tree", "number"])
def test_toward_a_reference_it_is_l2_sp_by_gradient_descent(reference):
    start = parameters()
    rng = np.random.default_rng(3)
    tree = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), start)
    toward = tree if reference == "tree" else 0.5
    rate, strength, grads = 0.1, 0.4, gradients()
    attached = optax.chain(optax.sgd(rate), jaxreg.weight_decay(strength, learning_rate=rate, toward=toward))
    in_loss = optax.chain(jaxreg.add_penalty(jaxreg.l2_sp(strength / 2, toward)), optax.sgd(rate))
    actual, _ = train(attached, grads, start, jax.jit)
    expected, _ = train(in_loss, grads, start, jax.jit)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", [None, groups.outputs()], ids=str)
def test_a_target_norm_is_reached_from_both_sides(structure):
    weight = jnp.asarray(
        np.random.default_rng(4).normal(size=(6, 3)) * np.array([0.0, 0.1, 3.0]), jnp.float32
    )
    decay = jaxreg.weight_decay(0.1, target_norm=1.5, groups=structure)
    after, _ = train(decay, [jnp.zeros_like(weight)] * 130, weight, jax.jit)
    axis = None if structure is None else 0
    expected = 1.5 * np.sign(np.linalg.norm(weight, axis=axis))  # a group of zeros stays
    np.testing.assert_allclose(np.linalg.norm(after, axis=axis), expected, rtol=1e-3)
    np.testing.assert_array_equal(after[:, 0], 0.0)
    once, _ = train(decay, [jnp.zeros_like(weight)], weight)
    norms = np.linalg.norm(weight, axis=axis, keepdims=True)
    expected = weight * (1 - 0.1 * (1 - 1.5 / np.where(norms == 0, np.inf, norms)))
    np.testing.assert_allclose(once, np.where(norms == 0, 0, expected), rtol=1e-5)


def test_a_target_norm_per_leaf_and_of_zero():
    params, [grads] = parameters(), gradients(1)
    decay = jaxreg.weight_decay(0.1, target_norm={"layer": {"kernel": 0.0, "bias": 2.0}})
    updates, _ = decay.update(grads, decay.init(params), params)
    plain, _ = jaxreg.weight_decay(0.1).update(grads, decay.init(params), params)
    assert_close(updates["layer"]["kernel"], plain["layer"]["kernel"])
    bias = np.asarray(params["layer"]["bias"])
    expected = grads["layer"]["bias"] - 0.1 * bias * (1 - 2.0 / np.linalg.norm(bias))
    np.testing.assert_allclose(updates["layer"]["bias"], expected, rtol=1e-5)


def test_corrected_decay_goes_with_the_square_of_the_rate():
    rates = jnp.array([0.2, 0.05, 0.0])
    given = {"strength": 0.3, "learning_rate": lambda count: rates[count], "max_learning_rate": 0.2}
    params, nothing = parameters(), jax.tree.map(jnp.zeros_like, parameters())
    for corrected in (None, masks.name("kernel")):
        actual, _ = train(jaxreg.weight_decay(corrected=corrected, **given), [nothing] * 3, params)
        squares = np.prod([1 - 0.3 * rate**2 / 0.2 for rate in (0.2, 0.05)])
        plain = np.prod([1 - 0.3 * rate for rate in (0.2, 0.05)])
        np.testing.assert_allclose(actual["layer"]["kernel"], squares * params["layer"]["kernel"], rtol=1e-5)
        bias = squares if corrected is None else plain
        np.testing.assert_allclose(actual["layer"]["bias"], bias * params["layer"]["bias"], rtol=1e-5)


def test_a_schedule_above_the_largest_rate_is_refused_at_init():
    decay = jaxreg.weight_decay(
        0.1, learning_rate=optax.linear_schedule(0.0, 0.2, 100), max_learning_rate=0.1
    )
    words = (
        "'learning_rate' parameter of weight_decay must be .*'max_learning_rate', 0.1. Got 0.102 at step 51"
    )
    for init in (decay.init, jax.jit(decay.init)):
        with pytest.raises(ValueError, match=words):
            init(parameters())
    cosine = optax.warmup_cosine_decay_schedule(0.0, 0.1, 30, 100)
    for largest in (0.1, jnp.bfloat16(0.1), jnp.float16(0.1)):
        decay = jaxreg.weight_decay(0.1, learning_rate=cosine, max_learning_rate=largest)
        assert decay.init(parameters()).count == 0


def test_options_survive_inject_hyperparams():
    params, grads = parameters(), gradients(2)
    given = {"strength": 0.2, "cautious": True, "corrected": masks.weights, "max_learning_rate": 0.5}
    rate = optax.linear_schedule(0.3, 0.1, 2)
    injected = optax.inject_hyperparams(jaxreg.weight_decay, static_args=("corrected",))
    actual, _ = train(injected(learning_rate=rate, **given), grads, params, jax.jit)
    expected, _ = train(jaxreg.weight_decay(learning_rate=rate, **given), grads, params, jax.jit)
    assert_close(actual, expected, rtol=1e-5)


NUMBER = "parameter of weight_decay must be a non-negative number. Got"
BAD = [
    ({"strength": -1.0}, ValueError, f"The 'strength' {NUMBER} -1.0."),
    ({"strength": 0.1, "learning_rate": float("nan")}, ValueError, f"The 'learning_rate' {NUMBER} nan."),
    ({"strength": "0.1"}, TypeError, f"The 'strength' {NUMBER} '0.1' of type str."),
    (
        {"strength": {"a": -1.0}},
        ValueError,
        "The 'strength['a']' parameter of weight_decay must be a non-negative number. Got -1.0.",
    ),
    ({"strength": 0.1, "target_norm": -1.0}, ValueError, f"The 'target_norm' {NUMBER} -1.0."),
    (
        {"strength": 0.1, "target_norm": 1.0, "toward": 0.5},
        ValueError,
        "The 'toward' and 'target_norm' parameters of weight_decay are two places to decay to: give one.",
    ),
    (
        {"strength": 0.1, "toward": "start"},
        TypeError,
        "The 'toward' parameter of weight_decay must be a pytree of arrays like the parameters, or a number. "
        "Got 'start'.",
    ),
    (
        {"strength": 0.1, "groups": groups.outputs()},
        ValueError,
        "The 'groups' parameter of weight_decay says whose norm 'target_norm' is, and needs it. "
        f"Got {groups.outputs()!r}.",
    ),
    (
        {"strength": 0.1, "max_learning_rate": 0.1},
        ValueError,
        "The 'max_learning_rate' parameter of weight_decay needs 'learning_rate'. Got 0.1 without one.",
    ),
    (
        {"strength": 0.1, "learning_rate": 0.2, "max_learning_rate": 0.1},
        ValueError,
        "The 'learning_rate' parameter of weight_decay must be at most 'max_learning_rate', 0.1. Got 0.2.",
    ),
    (
        {"strength": 0.1, "corrected": masks.weights},
        ValueError,
        "The 'corrected' parameter of weight_decay says where 'max_learning_rate' holds, and needs it. "
        "Got weights.",
    ),
    (
        {"strength": 0.1, "cautious": 1},
        TypeError,
        "The 'cautious' parameter of weight_decay must be True or False. Got 1.",
    ),
    (
        {"strength": 0.1, "multipliers": {}},
        TypeError,
        "The 'multipliers' parameter of weight_decay must be a dict of patterns. Got {}.",
    ),
    (
        {"strength": 0.1, "multipliers": {"**": -1.0}},
        ValueError,
        "The 'multipliers['**']' parameter of weight_decay must be a non-negative number. Got -1.0.",
    ),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD)
def test_bad_arguments(given, error, words):
    with pytest.raises(error) as caught:
        jaxreg.weight_decay(**given)
    assert str(caught.value) == words


def test_a_mask_that_selects_nothing_is_refused_at_init():
    with pytest.raises(ValueError, match="The mask embeddings selects no leaf of the parameters"):
        jaxreg.weight_decay(0.1, mask=masks.embeddings).init(parameters())


UNFIT = [
    ({"strength": {"layer": 0.1, "head": 0.1}}, "'strength' has an entry 'head' that is above no leaf"),
    ({"toward": {"layer": {"kernel": 0.1}}}, "'toward' has no entry for the leaf 'layer/bias'"),
    (
        {"toward": {"layer": {"kernel": jnp.ones(2), "bias": 0.0}}},
        r"The 'toward' parameter of weight_decay must have the shapes of the parameters. Got \(2,\) at "
        r"'layer/kernel', where the parameter has \(4, 3\)",
    ),
    ({"toward": {"layer": 1j}}, "The 'toward' parameter of weight_decay is complex at 'layer/bias'"),
    ({"target_norm": 1.0, "groups": groups.outputs()}, r"'layer/bias' has shape \(3,\)"),
    (
        {
            "learning_rate": 0.1,
            "max_learning_rate": 0.1,
            "mask": masks.name("bias"),
            "corrected": masks.weights,
        },
        "The 'corrected' parameter of weight_decay must choose a leaf that 'mask' chooses too. "
        r"Got corrected=weights with mask=name\('bias'\).",
    ),
    (
        {"multipliers": {"**/kernel": 1.0}},
        "The multipliers of weight_decay have no pattern for the leaf 'layer/bias'. Add one",
    ),
    (
        {"multipliers": {"**/kernel": 1.0, "**/scale": 0.0, "**": 1.0}},
        "'\\*\\*/scale' of the multipliers of weight_decay matches no leaf",
    ),
    (
        {"mask": masks.weights, "multipliers": {"**/kernel": 1.0, "**/bias": 0.5}},
        r"The pattern '\*\*/bias' of the multipliers of weight_decay decides on no leaf of the mask.*Got 0.5",
    ),
    (
        {"multipliers": {"**": 1.0, "**/bias": 0.0}},
        r"The pattern '\*\*/bias' of the multipliers of weight_decay never decides: .*'layer/bias'. Put it",
    ),
]


@pytest.mark.parametrize(("given", "words"), UNFIT)
def test_what_does_not_fit_is_refused_at_init(given, words):
    with pytest.raises(ValueError, match=words):
        jaxreg.weight_decay(**{"strength": 0.1, **given}).init(parameters())


def test_a_multiplier_of_zero_may_stand_for_what_is_out_of_the_mask():
    table = {"**/kernel": 1.0, "**": 0.0}
    assert jaxreg.weight_decay(0.1, mask=masks.weights, multipliers=table).init(parameters()).count == 0


def test_float8_parameters_are_refused_by_name_unless_they_are_out_of_the_mask():
    params = {"kernel": jnp.ones((2, 2), jnp.float8_e4m3fn), "bias": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"must have at least 16 bits\. Got float8_e4m3fn at 'kernel'"):
        jaxreg.weight_decay(0.1).init(params)
    decay = jaxreg.weight_decay(0.1, mask=masks.biases)
    updates, _ = decay.update(params, decay.init(params), params)
    assert_same_bits(updates["kernel"], params["kernel"])


def test_a_multiplier_of_zero_touches_no_bit():
    params, [grads] = parameters(), gradients(1)
    params["layer"]["bias"] = jnp.array([jnp.inf, -1.0, jnp.nan])
    grads["layer"]["bias"] = jnp.array([-0.0, -0.0, 1.0])
    decay = jaxreg.weight_decay(
        0.1, learning_rate=optax.constant_schedule(0.1), multipliers={"**/kernel": 1, "**": 0}
    )
    updates, _ = decay.update(grads, decay.init(params), params)
    assert_same_bits(updates["layer"]["bias"], grads["layer"]["bias"])

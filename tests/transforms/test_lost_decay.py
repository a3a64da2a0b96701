"""A decay that the weights' precision cannot hold is named before training."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import masks

BFLOAT16 = {"layer": {"kernel": jnp.full((4, 3), 0.7, jnp.bfloat16), "bias": jnp.ones(3)}}


def warnings_of(params, *again, **given):
    """What ``init`` says, the first and any later time."""
    decay = jaxreg.weight_decay(**given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for tree in (params, *again):
            decay.init(tree)
    return [str(warning.message) for warning in caught]


def test_it_names_the_leaf_the_share_and_the_remedy_once():
    [words] = warnings_of(BFLOAT16, BFLOAT16, BFLOAT16, strength=0.1, learning_rate=1e-3)
    assert words == (
        "Where gradients are small, the weight decay of 'layer/kernel' is lost: a step takes a share of "
        "1.0e-04 of a weight, which is less than half the distance to the next bfloat16 number. Pass "
        "rounding='stochastic' or 'compensated' to weight_decay, or keep the parameters in float32."
    )


def test_it_is_a_user_warning_at_the_call_of_init():
    decay = jaxreg.weight_decay(1e-4)
    with pytest.warns(UserWarning, match="'layer/kernel'") as caught:
        decay.init(BFLOAT16)
    assert caught[0].filename == __file__


QUIET = {
    "rounded by chance": {"strength": 1e-4, "rounding": "stochastic"},
    "compensated": {"strength": 1e-4, "rounding": "compensated"},
    "strong": {"strength": 0.1, "learning_rate": 0.1},
    "out of the mask": {"strength": 1e-4, "mask": masks.biases},
    "not decayed": {"strength": 1e-4, "multipliers": {"**/kernel": 0.0, "**": 1.0}},
    "no decay at all": {"strength": 0.0},
    "a peak of 0.01": {
        "strength": 1.0,
        "learning_rate": optax.warmup_cosine_decay_schedule(0.0, 1e-2, 100, 500),
    },
    "a peak between two long ramps": {
        "strength": 1.0,
        "learning_rate": optax.join_schedules(
            [optax.linear_schedule(0.0, 1e-2, 9_000), optax.linear_schedule(1e-2, 0.0, 900)], [9_000]
        ),
    },
    "far from the target norm": {"strength": 1e-3, "target_norm": 100.0},
    "far from the reference": {"strength": 1e-3, "toward": 50.0},
    "a table that ends": {"strength": 1e-4, "learning_rate": lambda count: [0.1, 0.01][count]},
}


@pytest.mark.parametrize("case", QUIET)
def test_it_is_quiet_where_nothing_is_lost_or_known(case):
    assert warnings_of(BFLOAT16, **QUIET[case]) == []


def test_a_schedule_counts_by_its_peak():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 500)
    [words] = warnings_of(BFLOAT16, strength=0.5, learning_rate=schedule)
    assert "a share of 5.0e-04" in words


def test_multipliers_count_and_other_leaves_are_counted():
    shapes = {"kernel": (2, 2), "bias": 2, "scale": 2}
    wide = {"layer": {name: jnp.full(shape, 1.0625) for name, shape in shapes.items()}}
    given = {"multipliers": {"**/kernel": 1.0, "**": 0.5}}
    [words] = warnings_of(wide, strength=1e-7, **given)
    assert "'layer/bias' (and 1 more leaf) is lost" in words
    assert "5.0e-08 of a weight" in words
    assert "float32 number. A larger strength or learning rate" in words
    assert warnings_of(wide, strength=2e-6, **given) == []


@pytest.mark.parametrize(("weight", "lost"), [(1.0625, True), (1.9375, False)])
def test_in_between_the_size_of_the_weights_decides(weight, lost):
    # A share of 0.003: of 1.06 it is less than half of 2^-7, of 1.94 more.
    params = {"w": jnp.array([0.0, weight, -weight, 0.0], jnp.bfloat16)}
    assert len(warnings_of(params, strength=0.003)) == lost
    after = params["w"] + (-0.003 * params["w"].astype(jnp.float32))
    assert bool(jnp.all(after.astype(jnp.bfloat16) == params["w"])) == lost


def test_small_float16_weights_are_spaced_evenly():
    assert len(warnings_of({"w": jnp.full(3, 1e-6, jnp.float16)}, strength=0.01)) == 1
    assert warnings_of({"w": jnp.full(3, 1e-2, jnp.float16)}, strength=0.01) == []
    assert warnings_of({"w": jnp.zeros(3, jnp.float16)}, strength=0.01) == []


def test_powers_of_two_have_a_neighbour_close_below():
    # Half of 2^-8 below 1, and half of 2^-7 above it.
    ones = {"w": jnp.ones(3, jnp.bfloat16)}
    assert warnings_of(ones, strength=0.003) == []
    assert jnp.all(jnp.bfloat16(1 - 0.003) < ones["w"])
    assert len(warnings_of(ones, strength=0.0015)) == 1


def test_corrected_decay_counts_with_its_correction():
    given = {"strength": 1.0, "learning_rate": 1e-2}
    assert warnings_of(BFLOAT16, **given) == []
    [words] = warnings_of(BFLOAT16, max_learning_rate=1.0, **given)
    assert "a share of 1.0e-04" in words
    rising = optax.linear_schedule(1e-4, 1.0, 100)
    assert warnings_of(BFLOAT16, strength=1.0, learning_rate=rising, max_learning_rate=1.0) == []


@pytest.mark.parametrize("goal", [{"toward": 0.9}, {"target_norm": 0.95 * 2}], ids=str)
def test_a_decay_that_leads_elsewhere_counts_by_the_distance(goal):
    ones = {"w": jnp.ones(4, jnp.bfloat16)}
    assert warnings_of(ones, strength=0.01) == []
    [words] = warnings_of(ones, strength=0.01, **goal)
    assert f"a share of 1.0e-02 of a weight's distance to '{next(iter(goal))}'" in words
    assert warnings_of(ones, strength=0.5, **goal) == []


def test_a_reference_where_training_starts_is_judged_by_the_weights():
    given = {"toward": BFLOAT16}
    assert len(warnings_of(BFLOAT16, strength=1e-4, **given)) == 1
    assert warnings_of(BFLOAT16, strength=0.1, **given) == []


SCHEDULE = optax.linear_schedule(0.0, 1e-4, 10)
COMPILED = {
    "number": {"strength": 1e-4},
    "schedule": {"strength": SCHEDULE},
    "rate": {"strength": 1.0, "learning_rate": SCHEDULE},
}


@pytest.mark.parametrize("case", COMPILED)
def test_it_warns_while_init_is_compiled(case):
    with pytest.warns(UserWarning, match=r"a share of 1.0e-04.*half the distance to the next bfloat16"):
        jax.jit(jaxreg.weight_decay(**COMPILED[case]).init)(BFLOAT16)


def test_it_looks_at_constants_while_something_is_compiled():
    narrow = {"w": jnp.full(3, 1.0625, jnp.bfloat16)}
    with pytest.warns(UserWarning, match="a share of 3.0e-03"):
        jax.jit(lambda: jaxreg.weight_decay(0.003).init(narrow))()


@pytest.mark.parametrize("name", ["strength", "rate"])
def test_schedules_of_traced_values_pass(name):
    def begin(peak):
        schedule = {"strength": lambda count: peak * count}
        given = schedule if name == "strength" else {"strength": 1e-4, "learning_rate": schedule["strength"]}
        return jaxreg.weight_decay(**given).init(BFLOAT16)

    np.testing.assert_array_equal(jax.jit(begin)(1e-4).count, 0)


def test_abstract_parameters_and_traced_strengths_pass():
    decay = jaxreg.weight_decay(0.003)
    shapes = jax.eval_shape(lambda: BFLOAT16)
    assert decay.init(shapes).count.shape == ()
    jax.eval_shape(decay.init, BFLOAT16)
    state = jax.jit(lambda strength: jaxreg.weight_decay(strength).init(BFLOAT16))(1e-4)
    np.testing.assert_array_equal(state.count, 0)


def test_abstract_parameters_of_a_certain_loss_are_named():
    with pytest.warns(UserWarning, match="'layer/kernel'"):
        jax.eval_shape(jaxreg.weight_decay(1e-4).init, BFLOAT16)

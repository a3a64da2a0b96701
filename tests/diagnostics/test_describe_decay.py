"""The table of what decays, and the masks of models as their authors write them."""

import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich
from flax import nnx
from helpers import parameters

import jaxreg
from jaxreg import masks


class LinenBlock(nn.Module):
    """An encoder block as in Flax's examples: attention, then an MLP, each after a layer norm."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 8, name="embed")(tokens)
        y = nn.LayerNorm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(y)
        y = nn.LayerNorm(name="norm2")(x)
        return nn.Dense(3, name="head")(x + nn.Dense(8, name="mlp")(y))


class NNXBlock(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(7, 8, rngs=rngs)
        self.norm1 = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(8, rngs=rngs)
        self.mlp = nnx.Linear(8, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)


def linen():
    return jax.eval_shape(LinenBlock().init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]


def nnx_state():
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(NNXBlock), nnx.Param))


KERNELS = {
    "attention/key/kernel",
    "attention/out/kernel",
    "attention/query/kernel",
    "attention/value/kernel",
    "head/kernel",
    "mlp/kernel",
}
MODELS = pytest.mark.parametrize("model", [linen, nnx_state])


def ones(shapes):
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)


@MODELS
@pytest.mark.parametrize("mask", [masks.weights, masks.path("**/kernel")], ids=str)
def test_it_decays_exactly_the_kernels(model, mask):
    params = ones(model())
    decay = jaxreg.weight_decay(0.25, mask=mask)
    updates, _ = jax.jit(decay.update)(jax.tree.map(np.zeros_like, params), decay.init(params), params)
    paths = [jaxreg.tree.path_string(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(updates)]
    moved = {path for path, update in zip(paths, jax.tree.leaves(updates), strict=True) if np.any(update)}
    assert moved == KERNELS
    table = jaxreg.describe_decay(0.25, params, mask=mask)
    assert {row.path for row in table.rows if row.strength} == KERNELS
    assert {row.per_step for row in table.rows} == {0.0, 0.25}


@MODELS
def test_it_says_so_where_the_mask_is_inverted(model):
    # What an official example had: True for what should not decay.
    table = jaxreg.describe_decay(0.1, model(), mask=~masks.path("**/kernel"))
    assert {row.path for row in table.rows if row.strength}.isdisjoint(KERNELS)
    assert str(table).endswith("No weights decay, only biases, norms or embeddings: is the mask inverted?")
    right = jaxreg.describe_decay(0.1, model(), mask=masks.path("**/kernel"))
    assert "inverted" not in str(right)
    assert "6 of " in str(masks.describe(masks.path("**/kernel"), model()))


@MODELS
def test_an_empty_mask_is_refused(model):
    params = ones(model())
    nothing = jax.tree.map(lambda _: False, params)
    for mask, words in (
        (masks.path("**/weight"), r"The pattern '\*\*/weight' of mask .* matches no leaf"),
        (nothing, "selects no leaf of the parameters"),
    ):
        with pytest.raises(ValueError, match=words):
            jaxreg.weight_decay(0.1, mask=mask).init(params)
        with pytest.raises(ValueError, match=words):
            jaxreg.describe_decay(0.1, params, mask=mask)


@MODELS
def test_multipliers_by_path_and_their_coverage(model):
    table = {"head/*": 0.0, "attention/**/kernel": 0.5, "**/kernel": 1.0, "**": 0.0}
    rows = jaxreg.describe_decay(0.1, model(), multipliers=table).rows
    strengths = {row.path: row.strength for row in rows if row.strength}
    attention = {path: 0.05 for path in KERNELS if path.startswith("attention")}
    assert strengths == {**attention, "mlp/kernel": 0.1}
    with pytest.raises(ValueError, match="of describe_decay have no pattern for the leaf"):
        jaxreg.describe_decay(0.1, model(), multipliers={"**/kernel": 1.0})


def test_numbers_schedules_and_corrections():
    given = {
        "learning_rate": 0.02,
        "max_learning_rate": 0.04,
        "corrected": masks.weights,
        "multipliers": {"**/kernel": 2.0, "**/bias": 0.5},
    }
    bias, kernel = jaxreg.describe_decay(0.1, parameters(), **given).rows
    assert (bias.strength, kernel.strength) == (0.05, 0.2)
    np.testing.assert_allclose([bias.per_step, kernel.per_step], [0.05 * 0.02, 0.2 * 0.02**2 / 0.04])
    assert kernel.rule == "'**/kernel': times 2; corrected"
    scheduled = jaxreg.describe_decay(0.1, parameters(), learning_rate=optax.linear_schedule(0.1, 0.0, 9))
    assert {row.per_step for row in scheduled.rows} == {None}
    assert "0.1  schedule  everything" in str(scheduled)
    traced = jax.jit(lambda strength: jaxreg.describe_decay(strength, parameters()).rows[0].strength is None)
    assert traced(0.1)


SCHEDULE = optax.linear_schedule(0.1, 0.0, 9)


@pytest.mark.parametrize(
    "given",
    [
        {"strength": SCHEDULE},
        {"strength": 0.1, "learning_rate": SCHEDULE},
        {"strength": SCHEDULE, "learning_rate": SCHEDULE},
    ],
    ids=["strength", "rate", "both"],
)
def test_a_multiplier_of_zero_is_zero_of_a_schedule_too(given):
    table = jaxreg.describe_decay(params=parameters(), multipliers={"**/kernel": 0.0, "**": 1.0}, **given)
    bias, kernel = table.rows
    assert (kernel.strength, kernel.per_step) == (0.0, 0.0)
    assert bias.per_step is None
    assert "1 of 2 floating-point leaves decay, 3 of 15 elements" in str(table)
    assert str(table).endswith("is the mask inverted?")


@pytest.mark.parametrize("strength", [0.1, SCHEDULE], ids=["number", "schedule"])
def test_at_a_learning_rate_of_zero_nothing_decays(strength):
    table = jaxreg.describe_decay(strength, parameters(), learning_rate=0.0)
    assert {row.per_step for row in table.rows} == {0.0}
    assert "0 of 2 floating-point leaves decay, 0 of 15 elements" in str(table)
    assert str(table).endswith("Nothing decays: the strength, the learning rate or each multiplier is 0.")
    independent = jaxreg.describe_decay(0.1, parameters())
    assert "2 of 2 floating-point leaves decay" in str(independent)


def test_rich_draws_the_same_table():
    table = jaxreg.describe_decay(0.1, parameters(), mask=masks.weights)
    screen = io.StringIO()
    rich.print(table, file=screen)
    for cell in ("layer/kernel", "(4, 3)", "role biases", "1 of 2 floating-point leaves decay"):
        assert cell in screen.getvalue()

"""Roles of every leaf of the layers that the frameworks ship, and of hand-written trees."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from jaxreg import masks, roles, tree

KEY = jax.random.key(0)


def assert_roles(params, **expected):
    """The paths that have each role, in one string."""
    flat = tree.flatten(params)
    found = {}
    for path, leaf, (role, _) in zip(flat.paths, flat.leaves, roles.classify(flat), strict=True):
        if not tree.is_absent(leaf) and tree.is_inexact(leaf):
            found.setdefault(role, []).append(path)
    assert {role: sorted(paths) for role, paths in found.items()} == {
        role: sorted(paths.split()) for role, paths in expected.items()
    }


def tree_of(**shapes):
    """``tree_of(a__b=(2,))`` is ``{"a": {"b": zeros(2)}}``."""
    out = {}
    for path, shape in shapes.items():
        *parents, name = path.split("__")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return out


class LinenZoo(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.ConvTranspose(4, (3, 3))(nn.Conv(4, (3, 3))(x))
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.BatchNorm(use_running_average=True, use_scale=False)(x)
        x = nn.BatchNorm(use_running_average=True, use_bias=False, name="bn")(x)
        x = nn.Dense(8)(x.reshape(x.shape[0], 1, -1))
        x = nn.GroupNorm(num_groups=2)(nn.RMSNorm()(nn.LayerNorm(name="ln1")(x)))
        x = nn.MultiHeadDotProductAttention(num_heads=2, normalize_qk=True)(x)
        x = nn.RNN(nn.LSTMCell(8))(x) + nn.Embed(5, 8)(jnp.zeros((1, 1), int))
        return x + self.param("pos_embedding", nn.initializers.normal(), (1, 1, 8))


def test_linen():
    variables = jax.eval_shape(LinenZoo().init, KEY, jnp.zeros((2, 4, 4, 1)))
    attention = "MultiHeadDotProductAttention_0"
    flat = tree.flatten(variables["params"])
    found = dict(zip(flat.paths, (role for role, _ in roles.classify(flat)), strict=True))
    expected = {path: "weights" if path.endswith("kernel") else "biases" for path in found}
    for norm in ("BatchNorm_0", "BatchNorm_1", "bn", "ln1", "RMSNorm_0", "GroupNorm_0"):
        expected |= {path: "norms" for path in found if path.startswith(norm + "/")}
    expected |= {
        path: "norms" for path in found if path.startswith((f"{attention}/query_ln", f"{attention}/key_ln"))
    }
    expected |= {"Embed_0/embedding": "embeddings", "pos_embedding": "embeddings"}
    assert found == expected
    assert sum(role == "norms" for role in found.values()) == 11
    assert found[f"{attention}/query/bias"] == found["LSTMCell_0/hf/bias"] == "biases"
    statistics = [role for role, _ in roles.classify(tree.flatten(variables["batch_stats"]))]
    assert set(statistics) == {"statistics"}


def test_linen_scan_stacks_layers():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(4)(nn.LayerNorm()(x)), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return scanned(name="blocks")(x, None)[0]

    params = jax.eval_shape(Stack().init, KEY, jnp.zeros((2, 4)))["params"]
    assert params["blocks"]["Dense_0"]["bias"].shape == (3, 4)
    assert_roles(
        params,
        weights="blocks/Dense_0/kernel",
        biases="blocks/Dense_0/bias",
        norms="blocks/LayerNorm_0/bias blocks/LayerNorm_0/scale",
    )


class NnxZoo(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(4, 4, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.bn_shift = nnx.BatchNorm(4, use_scale=False, rngs=rngs)
        self.norm = nnx.RMSNorm(4, rngs=rngs)
        self.ln1 = nnx.LayerNorm(4, use_scale=False, rngs=rngs)
        self.gn = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
        self.tokens = nnx.Embed(5, 4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False)
        self.lora = nnx.LoRA(4, 2, 4, rngs=rngs)
        self.cell = nnx.GRUCell(2, 3, rngs=rngs)


@pytest.mark.parametrize("form", ["state", "pure", "module", "params"])
def test_nnx(form):
    net = NnxZoo(nnx.Rngs(0))
    params = {
        "state": lambda: nnx.state(net),
        "pure": lambda: nnx.to_pure_dict(nnx.state(net)),
        "module": lambda: net,
        "params": lambda: nnx.state(net, nnx.Param),
    }[form]()
    heads = [f"attention/{part}" for part in "query key value out".split()]
    cells = ["cell/dense_i", "cell/dense_h"]
    kernels = [f"{layer}/kernel" for layer in ["conv", "up", *heads, *cells]]
    biases = [f"{layer}/bias" for layer in ["conv", "up", *heads, "cell/dense_i"]]
    statistics = {"statistics": "bn/mean bn/var bn_shift/mean bn_shift/var"} if form != "params" else {}
    assert_roles(
        params,
        weights=" ".join([*kernels, "lora/lora_a lora/lora_b"]),
        biases=" ".join(biases),
        norms="bn/bias bn/scale bn_shift/bias norm/scale ln1/bias gn/bias gn/scale",
        embeddings="tokens/embedding",
        **statistics,
    )


def test_nnx_vmapped_layers():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(key)), nnx.LayerNorm(4, rngs=nnx.Rngs(key)))

    params = nnx.state(make(jax.random.split(KEY, 3)), nnx.Param)
    assert_roles(
        params, weights="layers/0/kernel", biases="layers/0/bias", norms="layers/1/bias layers/1/scale"
    )


class EquinoxZoo(eqx.Module):
    linear: eqx.nn.Linear
    conv: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose1d
    first: eqx.nn.LayerNorm
    second: eqx.nn.RMSNorm
    third: eqx.nn.GroupNorm
    batch: eqx.nn.BatchNorm
    words: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    cell: eqx.nn.GRUCell
    norm: eqx.nn.Linear  # a name that lies
    pos_embed: jax.Array
    stack: eqx.nn.LayerNorm
    deep: eqx.nn.Linear
    act: object
    steps: int

    def __init__(self):
        self.linear = eqx.nn.Linear(3, 4, key=KEY)
        self.conv = eqx.nn.Conv2d(1, 2, 3, key=KEY)
        self.up = eqx.nn.ConvTranspose1d(1, 2, 3, key=KEY)
        self.first = eqx.nn.LayerNorm((2, 4))
        self.second = eqx.nn.RMSNorm(4)
        self.third = eqx.nn.GroupNorm(2, 4)
        self.batch = eqx.nn.BatchNorm(4, "batch", mode="ema")
        self.words = eqx.nn.Embedding(5, 4, key=KEY)
        self.attention = eqx.nn.MultiheadAttention(2, 4, use_query_bias=True, key=KEY)
        self.cell = eqx.nn.GRUCell(2, 3, key=KEY)
        self.norm = eqx.nn.Linear(3, 3, key=KEY)
        self.pos_embed = jnp.ones((7, 4))
        self.stack = eqx.filter_vmap(lambda _: eqx.nn.LayerNorm(4))(jnp.arange(3))
        self.deep = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(jax.random.split(KEY, 3))
        self.act = jax.nn.relu
        self.steps = 3


@pytest.mark.parametrize("filtered", [True, False])
def test_equinox(filtered):
    model = eqx.nn.delete_init_state(EquinoxZoo())
    params = eqx.filter(model, eqx.is_inexact_array) if filtered else model
    projections = [f"attention/{part}_proj/weight" for part in "query key value output".split()]
    norms = "first second third batch stack".split()
    assert_roles(
        params,
        weights="linear/weight conv/weight up/weight cell/weight_ih cell/weight_hh norm/weight deep/weight "
        + " ".join(projections),
        biases="linear/bias conv/bias up/bias cell/bias cell/bias_n norm/bias deep/bias "
        "attention/query_proj/bias",
        norms=" ".join(f"{norm}/{leaf}" for norm in norms for leaf in ("weight", "bias")),
        embeddings="words/weight pos_embed",
        # equinox keeps a dropout rate as a plain float; filtering drops it.
        **({} if filtered else {"other": "attention/dropout/p"}),
    )
    chosen = masks.weights(params)
    assert jax.tree.structure(chosen) == jax.tree.structure(jax.tree.map(lambda _: True, params))
    assert chosen.deep.weight is True
    assert chosen.first.weight is False


def test_equinox_running_averages_have_no_role():
    found = roles.classify(tree.flatten(eqx.nn.BatchNorm(4, "batch", mode="ema")))
    assert [role for role, _ in found[:2]] == ["norms", "norms"]
    assert {role for role, _ in found[2:]} <= {"statistics", "norms"}
    flat = tree.flatten(eqx.nn.BatchNorm(4, "batch", mode="ema"))
    assert masks.norms.select(flat)[:2] == [True, True]
    assert not any(masks.norms.select(flat)[2:])


def test_haiku():
    def forward(x, words):
        x = hk.Linear(4)(hk.LayerNorm(-1, True, True)(x))
        x = hk.BatchNorm(True, True, 0.9, name="first")(x, is_training=True)
        x = hk.RMSNorm(-1)(x) + hk.Embed(5, 4)(words)
        x = hk.MultiHeadAttention(2, 2, w_init=hk.initializers.Constant(0.0))(x[None], x[None], x[None])[0]
        out, _ = hk.GRU(3)(x, jnp.zeros((2, 3)))
        return out

    net = hk.transform_with_state(forward)
    params, _ = net.init(KEY, jnp.ones((2, 4)), jnp.zeros(2, int))
    heads = [f"multi_head_attention/{part}" for part in "query key value linear".split()]
    assert_roles(
        params,
        weights=" ".join(["linear/w gru/w_i gru/w_h", *(f"{head}/w" for head in heads)]),
        biases=" ".join(["linear/b gru/b", *(f"{head}/b" for head in heads)]),
        norms="layer_norm/offset layer_norm/scale first/offset first/scale rms_norm/scale",
        embeddings="embed/embeddings",
    )


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # A vision transformer's patch embedding is a convolution.
        (
            tree_of(embedding__kernel=(4, 4, 3, 8), embedding__bias=(8,), cls=(1, 1, 8)),
            {"weights": "embedding/kernel", "biases": "embedding/bias", "embeddings": "cls"},
        ),
        (
            tree_of(embed__weight=(9, 4), wte__embedding=(9, 4), wpe=(7, 4)),
            {"embeddings": "embed/weight wte/embedding wpe"},
        ),
        (
            tree_of(patch_embed__weight=(8, 3, 4, 4), patch_embed__bias=(8,)),
            {"weights": "patch_embed/weight", "biases": "patch_embed/bias"},
        ),
        # GPT by hand, and torch's names in a plain dict.
        (
            tree_of(ln_1__g=(4,), ln_1__b=(4,), attn__w=(4, 4), attn__b=(4,)),
            {"norms": "ln_1/g ln_1/b", "weights": "attn/w", "biases": "attn/b"},
        ),
        (
            tree_of(
                seven__weight=(4,),
                seven__bias=(4,),
                fc__weight=(4, 3),
                fc__bias=(4,),
                input_layernorm__weight=(4,),
            ),
            {
                "norms": "seven/weight seven/bias input_layernorm/weight",
                "weights": "fc/weight",
                "biases": "fc/bias",
            },
        ),
        (tree_of(ffn_norm=(4,), wq=(4, 4), wo=(4, 4)), {"norms": "ffn_norm", "weights": "wq wo"}),
        # Siblings decide before the parent's name.
        (tree_of(norm__kernel=(4, 4), norm__bias=(4,)), {"weights": "norm/kernel", "biases": "norm/bias"}),
        (tree_of(x__gamma=(4,), x__beta=(4,)), {"norms": "x/gamma x/beta"}),
        (tree_of(mean=(4,), var=(4,), bias=(4,)), {"statistics": "mean var", "norms": "bias"}),
        (tree_of(w=(1,), b=(1,)), {"weights": "w", "biases": "b"}),
        (tree_of(w1=(2, 3), b1=(3,)), {"weights": "w1", "biases": "b1"}),
        ([(jnp.ones((2, 3)), jnp.ones(3))], {"weights": "0/0", "other": "0/1"}),
        (tree_of(logit_scale=(), mean=(4,)), {"other": "logit_scale mean"}),
    ],
)
def test_plain_trees(params, expected):
    assert_roles(params, **expected)


def test_a_single_array_is_judged_by_its_axes():
    assert masks.weights(jnp.ones((2, 3))) is True

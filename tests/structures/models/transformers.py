"""Transformers: a ViT of Linen's own modules, language models as plain functions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from structures.models.case import Case, Made, dense, draw, filled, shape, tokens, unit
from structures.models.convolutional import linen
from structures.models.plain import affine


class ViT(nn.Module):
    """Patches, learned positions, attention, MLP, mean over the patches."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), strides=(3, 3), padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + self.param("positions", nn.initializers.normal(), (1, 4, 8))
        y = nn.LayerNorm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, name="attention")(y)
        y = nn.gelu(nn.Dense(10, name="mlp1")(nn.LayerNorm(name="norm2")(x)))
        x = x + nn.Dense(8, name="mlp2")(y)
        return nn.Dense(3, name="classes")(nn.LayerNorm(name="norm3")(x).mean(1))


def _attention(letters, axis):
    prefix = "params/attention/"
    return " ".join(f"{prefix}{name}/kernel@{axis} {prefix}{name}/bias@{axis - 1}" for name in letters) + " "


VIT = (
    unit(
        8,
        "params/patches/kernel@3 params/patches/bias@0 params/positions@2 "
        + " ".join(f"params/norm{i}/{leaf}@0" for i in (1, 2, 3) for leaf in ("scale", "bias"))
        + " params/attention/out/kernel@2 params/attention/out/bias@0"
        + " params/mlp2/kernel@1 params/mlp2/bias@0",
        " ".join(f"params/attention/{name}/kernel@0" for name in ("query", "key", "value"))
        + " params/mlp1/kernel@0 params/classes/kernel@0",
    ),
    unit(2, _attention(("query", "key", "value"), 1), "params/attention/out/kernel@0"),
    unit(3, _attention(("query", "key"), 2)),
    unit(3, _attention(("value",), 2), "params/attention/out/kernel@1"),
    unit(10, "params/mlp1/kernel@1 params/mlp1/bias@0", "params/mlp2/kernel@0"),
)


def rms_norm(x, scale):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * scale


def rotate(x):
    """Rotary position embedding of (batch, time, ..., head_dim): the halves of a head are pairs."""
    half = x.shape[-1] // 2
    frequencies = np.exp(-np.arange(half) / half).astype(np.float32)
    angles = np.arange(x.shape[1])[:, None].astype(np.float32) * frequencies
    angles = angles.reshape(x.shape[1], *[1] * (x.ndim - 3), half)
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def causal(scores):
    time = scores.shape[-1]
    return jax.nn.softmax(jnp.where(np.tril(np.ones((time, time), bool)), scores, -1e9))


WIDTH, KEYS, REPEATS, HEAD, NEURONS, VOCABULARY = 8, 2, 3, 4, 6, 9


def _decoder():
    """Grouped-query attention, rotary embedding, RMSNorm, SwiGLU, tied embeddings."""

    def apply(params, ids):
        x = params["embedding"][ids]
        batch, time, _ = x.shape
        y = rms_norm(x, params["norm1"])
        query = (y @ params["query"]).reshape(batch, time, KEYS, REPEATS, HEAD)
        key = (y @ params["key"]).reshape(batch, time, KEYS, HEAD)
        value = (y @ params["value"]).reshape(batch, time, KEYS, HEAD)
        scores = jnp.einsum("btkrd,bskd->bkrts", rotate(query), rotate(key)) / np.float32(np.sqrt(HEAD))
        mixed = jnp.einsum("bkrts,bskd->btkrd", causal(scores), value).reshape(batch, time, -1)
        x = x + mixed @ params["out"]
        y = rms_norm(x, params["norm2"])
        x = x + (jax.nn.silu(y @ params["gate"]) * (y @ params["up"])) @ params["down"]
        return rms_norm(x, params["norm3"]) @ params["embedding"].T

    shapes = {
        "embedding": shape(VOCABULARY, WIDTH),
        "query": shape(WIDTH, KEYS * REPEATS * HEAD),
        "key": shape(WIDTH, KEYS * HEAD),
        "value": shape(WIDTH, KEYS * HEAD),
        "out": shape(KEYS * REPEATS * HEAD, WIDTH),
        "gate": shape(WIDTH, NEURONS),
        "up": shape(WIDTH, NEURONS),
        "down": shape(NEURONS, WIDTH),
        **{f"norm{i}": shape(WIDTH) for i in (1, 2, 3)},
    }
    return Made(apply, filled(shapes), (tokens(2, 5, vocabulary=VOCABULARY),))


# The embedding is also read, as the output layer: what is both made and read counts as made.
DECODER = (
    unit(
        WIDTH,
        "embedding@1 norm1@0 norm2@0 norm3@0 out@1 down@1",
        "query@0 key@0 value@0 gate@0 up@0",
    ),
    unit(KEYS, "query@1(2*,3,4) key@1(2*,4) value@1(2*,4)", "out@0(2*,3,4)"),
    # A head with no query still passes the mean of its values on.
    unit(REPEATS, "query@1(2,3*,4)", "out@0(2,3*,4)", refused="."),
    unit(HEAD // 2, "query@1(2,3,2,2*) key@1(2,2,2*)"),
    unit(HEAD, "value@1(2,4*)", "out@0(2,3,4*)"),
    unit(NEURONS, "gate@1 up@1", "down@0"),
)


def _gpt(parts):
    """Learned positions, one projection for query, key and value, one for the gate and what it gates."""

    def apply(params, ids):
        x = params["tokens"][ids] + params["positions"]
        query, key, value = parts(affine(params["qkv"], x))
        scores = jnp.einsum("bthd,bshd->bhts", query, key) * 0.5
        mixed = jnp.einsum("bhts,bshd->bthd", causal(scores), value)
        x = x + affine(params["out"], mixed.reshape(*ids.shape, -1))
        gate, up = jnp.split(affine(params["gate_and_up"], x), 2, axis=-1)
        x = x + affine(params["down"], jax.nn.silu(gate) * up)
        return affine(params["head"], x)

    shapes = {
        "tokens": shape(VOCABULARY, WIDTH),
        "positions": shape(5, WIDTH),
        "qkv": dense(WIDTH, 3 * 2 * 4),
        "out": dense(2 * 4, WIDTH),
        "gate_and_up": dense(WIDTH, 2 * 6),
        "down": dense(6, WIDTH),
        "head": dense(WIDTH, VOCABULARY),
    }
    return lambda: Made(apply, filled(shapes), (tokens(2, 5, vocabulary=VOCABULARY),))


def _one_reshape(qkv):
    batch, time, _ = qkv.shape
    return (part[:, :, 0] for part in jnp.split(qkv.reshape(batch, time, 3, 2, 4), 3, axis=2))


def _one_split(qkv):
    batch, time, _ = qkv.shape
    return (part.reshape(batch, time, 2, 4) for part in jnp.split(qkv, 3, axis=-1))


GPT = (
    unit(
        WIDTH,
        "tokens@1 positions@1 out/kernel@1 out/bias@0 down/kernel@1 down/bias@0",
        "qkv/kernel@0 gate_and_up/kernel@0 head/kernel@0",
    ),
    unit(2, "qkv/kernel@1(3,2*,4) qkv/bias@0(3,2*,4)", "out/kernel@0(2*,4)"),
    unit(6, "gate_and_up/kernel@1(2,6*) gate_and_up/bias@0(2,6*)", "down/kernel@0"),
)


def _layer_stack():
    """Layers in one array each, run by a scan whose body is rematerialised."""

    def apply(params, x):
        @jax.checkpoint
        def block(x, layer):
            y = jax.nn.relu(x @ layer["up"] + layer["bias"])
            return x + y @ layer["down"], None

        x = affine(params["in"], x)
        x, _ = jax.lax.scan(block, x, params["layers"])
        return affine(params["out"], x)

    layers = {"up": shape(3, 8, 6), "bias": shape(3, 6), "down": shape(3, 6, 8)}
    shapes = {"in": dense(5, 8), "layers": layers, "out": dense(8, 3)}
    return Made(apply, filled(shapes), (draw(16, 5),))


CASES = [
    Case("vit", lambda: linen(ViT(), draw(3, 6, 6, 2)), VIT),
    Case("decoder", _decoder, DECODER),
    Case(
        "gpt_qkv_by_reshape",
        _gpt(_one_reshape),
        (*GPT, unit(4, "qkv/kernel@1(3,2,4*) qkv/bias@0(3,2,4*)", "out/kernel@0(2,4*)")),
    ),
    Case(
        "gpt_qkv_by_split",
        _gpt(_one_split),
        (
            *GPT,
            unit(4, "qkv/kernel@1(2,2,4*) qkv/bias@0(2,2,4*)"),
            unit(4, "qkv/kernel@1(2,4*)+16 qkv/bias@0(2,4*)+16", "out/kernel@0(2,4*)"),
        ),
    ),
    Case(
        "scanned_layers",
        _layer_stack,
        (
            unit(8, "in/kernel@1 in/bias@0 layers/down@2", "layers/up@1 out/kernel@0"),
            unit(6, "layers/up@2 layers/bias@1", "layers/down@1"),
        ),
    ),
]

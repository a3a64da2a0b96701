"""Weight decay as PyTorch and Keras define it: against their update rules, and against PyTorch itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, assert_same_bits, gradients, parameters

import jaxreg
from jaxreg import masks

RATE, DECAY, STEPS = 0.05, 0.1, 50


def data():
    """Inputs, targets and the start of a small network, in double precision."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 1))
    return (
        x,
        y,
        {"hidden": rng.normal(size=(4, 6)), "bias": rng.normal(size=6), "out": rng.normal(size=(6, 1))},
    )


def network_loss(tanh, params, x, y):
    return ((tanh(x @ params["hidden"] + params["bias"]) @ params["out"] - y) ** 2).mean()


def trained(optimizer, loss, params):
    """The parameters after ``STEPS`` steps."""
    params = jax.tree.map(jnp.asarray, params)

    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            return apply(optimizer)(jax.grad(loss)(params), state, params), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=STEPS)[0][0]

    return run(params)


def sgd(w, g, k, memory, momentum=0.9):
    memory["b"] = g if k == 0 else momentum * memory["b"] + g
    return RATE * memory["b"]


def adam(w, g, k, memory):
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * g
    memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * g**2
    return RATE * memory["m"] / (1 - 0.9 ** (k + 1)) / (np.sqrt(memory["v"] / (1 - 0.999 ** (k + 1))) + 1e-8)


MOMENTUM = optax.sgd(RATE, momentum=0.9)
# The optimizer, whether the learning rate is given, and the framework's own step from its documentation: what
# it adds to the gradient, what it takes from the weights, and the step in between.
RULES = {
    "torch.optim.SGD": (MOMENTUM, None, lambda w: DECAY * w, lambda w: 0.0, sgd),
    "torch.optim.Adam": (optax.adam(RATE), None, lambda w: DECAY * w, lambda w: 0.0, adam),
    "torch.optim.AdamW": (optax.adam(RATE), RATE, lambda w: 0.0, lambda w: RATE * DECAY * w, adam),
    # The derivative of l2 * sum(w^2).
    "keras.regularizers.L2": (MOMENTUM, None, lambda w: 2 * DECAY * w, lambda w: 0.0, sgd),
    "keras.optimizers": (MOMENTUM, RATE, lambda w: 0.0, lambda w: DECAY * w * RATE, sgd),
}


@pytest.mark.parametrize("convention", RULES)
def test_it_is_the_rule_of_the_documentation(convention, x64):
    optimizer, rate, coupled, taken, step = RULES[convention]
    rng = np.random.default_rng(1)
    matrix, target, w = rng.normal(size=(20, 5)), rng.normal(size=20), rng.normal(size=5)
    ours = jaxreg.decayed_like(convention, optimizer, DECAY, learning_rate=rate)
    actual = trained(ours, lambda w: jnp.mean((matrix @ w - target) ** 2), w)
    memory: dict = {}
    for k in range(STEPS):
        g = 2 * matrix.T @ (matrix @ w - target) / 20 + coupled(w)
        w = (w - taken(w)) - step(w, g, k, memory)
    np.testing.assert_allclose(actual, w, rtol=1e-9)


def by_torch(torch, make, start):
    x, y, _ = (torch.tensor(array) for array in (*data()[:2], 0.0))
    params = {name: torch.tensor(array, requires_grad=True) for name, array in start.items()}
    optimizer = make(torch.optim, list(params.values()))
    for _ in range(STEPS):
        optimizer.zero_grad()
        network_loss(torch.tanh, params, x, y).backward()
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in params.items()}


TORCH = {
    "torch.optim.SGD": lambda optim, params: optim.SGD(params, RATE, momentum=0.9, weight_decay=DECAY),
    "torch.optim.Adam": lambda optim, params: optim.Adam(params, RATE, weight_decay=DECAY),
    "torch.optim.AdamW": lambda optim, params: optim.AdamW(params, RATE, weight_decay=DECAY),
}


@pytest.mark.parametrize("convention", TORCH)
def test_it_is_pytorch(convention, x64):
    torch = pytest.importorskip("torch")
    x, y, start = data()
    optimizer, rate, *_ = RULES[convention]
    ours = jaxreg.decayed_like(convention, optimizer, DECAY, learning_rate=rate)
    actual = trained(ours, lambda params: network_loss(jnp.tanh, params, x, y), start)
    for name, expected in by_torch(torch, TORCH[convention], start).items():
        np.testing.assert_allclose(actual[name], expected, rtol=0, atol=1e-6)
        assert np.max(np.abs(expected - start[name])) > 0.01


def test_of_plain_sgd_coupled_and_decoupled_decay_are_the_same_and_of_adam_not(x64):
    x, y, start = data()

    def both(optimizer):
        pairs = (("torch.optim.SGD", None), ("torch.optim.AdamW", RATE))
        links = [jaxreg.decayed_like(c, optimizer, DECAY, learning_rate=rate) for c, rate in pairs]
        return [trained(link, lambda params: network_loss(jnp.tanh, params, x, y), start) for link in links]

    coupled, decoupled = both(optax.sgd(RATE))
    np.testing.assert_allclose(coupled["hidden"], decoupled["hidden"], rtol=1e-9)
    coupled, decoupled = both(optax.adam(RATE))
    assert np.max(np.abs(coupled["hidden"] - decoupled["hidden"])) > 0.05


def test_the_mask_and_a_schedule_go_through():
    params, [grads] = parameters(), gradients(1)
    schedule = optax.linear_schedule(0.3, 0.1, 2)
    for convention, rate in (("torch.optim.Adam", None), ("torch.optim.AdamW", schedule)):
        ours = jaxreg.decayed_like(
            convention, optax.adam(schedule), DECAY, learning_rate=rate, mask=masks.weights
        )
        updates, _ = ours.update(grads, ours.init(params), params)
        plain = optax.adam(schedule)
        expected, _ = plain.update(grads, plain.init(params), params)
        assert_same_bits(updates["layer"]["bias"], expected["layer"]["bias"])
    decay = updates["layer"]["kernel"] - expected["layer"]["kernel"]
    np.testing.assert_allclose(decay, -0.3 * DECAY * params["layer"]["kernel"], rtol=1e-4, atol=1e-7)


NAMES = "torch.optim.SGD, torch.optim.Adam, keras.regularizers.L2, torch.optim.AdamW, keras.optimizers"
BAD = [
    (("torch.AdamW", MOMENTUM, 0.1), {}, ValueError, f"must be one of {NAMES}. Got 'torch.AdamW'."),
    (
        ("torch.optim.SGD", 0.1, 0.1),
        {},
        TypeError,
        "The 'optimizer' parameter of decayed_like must be an optax",
    ),
    (
        ("torch.optim.SGD", MOMENTUM, -1),
        {},
        ValueError,
        "'number' parameter of decayed_like must be a non-neg",
    ),
    (
        ("torch.optim.AdamW", MOMENTUM, 0.1),
        {},
        ValueError,
        "The 'learning_rate' parameter of decayed_like must be given for torch.optim.AdamW",
    ),
    (
        ("torch.optim.Adam", MOMENTUM, 0.1),
        {"learning_rate": 0.1},
        ValueError,
        "The 'learning_rate' parameter of decayed_like is not used by torch.optim.Adam",
    ),
]


@pytest.mark.parametrize(("given", "named", "error", "words"), BAD)
def test_bad_arguments(given, named, error, words):
    with pytest.raises(error) as caught:
        jaxreg.decayed_like(*given, **named)
    assert words in str(caught.value)

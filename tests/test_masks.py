"""Which leaves masks choose, in every framework, and that optax can use them."""

import dataclasses
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze

from jaxreg import masks, patterns, tree

KEY = jax.random.key(0)


def params_of(**leaves):
    return {name: jnp.ones(shape) for name, shape in leaves.items()}


NET = {
    "body": params_of(kernel=(2, 3), bias=(3,)),
    "head": params_of(kernel=(3, 1), bias=(1,)),
    "ln": params_of(scale=(3,), bias=(3,)),
}


def chosen(mask, params=NET):
    flat = tree.flatten(params)
    return {path for path, hit in zip(flat.paths, mask.select(flat), strict=True) if hit}


# Patterns


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**/kernel", "kernel", True),
        ("**/kernel", "a/b/kernel", True),
        ("**/kernel", "a/mykernel", False),
        ("a/**/kernel", "a/kernel", True),
        ("a/**/kernel", "a/b/c/kernel", True),
        ("a/**/kernel", "ab/kernel", False),
        ("head/**", "head", True),
        ("head/**", "head/0/b", True),
        ("head/**", "header/b", False),
        ("**", "", True),
        ("**/**", "a/b", True),
        ("*", "a/b", False),
        ("*/b", "a/b", True),
        ("Dense_?/*", "Dense_0/bias", True),
        ("Dense_?/*", "Dense_10/bias", False),
        ("Dense_[0-3]/kernel", "Dense_2/kernel", True),
        ("Dense_[!0-3]/kernel", "Dense_2/kernel", False),
        ("a[!b]c", "a/c", False),
        ("a.c", "abc", False),
        ("mlp/~/linear_[01]/w", "mlp/~/linear_1/w", True),
        ("a[b", "a[b", True),
        ("KERNEL", "kernel", False),
    ],
)
def test_glob(pattern, path, expected):
    assert bool(patterns.compiled(pattern).fullmatch(path)) is expected


def test_path_and_name_take_several_patterns():
    assert chosen(masks.path("body/*", "head/bias")) == {"body/kernel", "body/bias", "head/bias"}
    assert chosen(masks.name("ker*", "scale")) == {"body/kernel", "head/kernel", "ln/scale"}
    assert chosen(masks.min_ndim(2)) == {"body/kernel", "head/kernel"}


def test_unmatched_pattern_names_itself_and_the_nearest_paths():
    text = (
        r"The pattern '\*\*/kernal' of mask path\('\*\*/kernal'\) matches no leaf.*are: '(body|head)/kernel'"
    )
    for mask in (
        masks.path("**/kernal"),
        ~masks.path("**/kernal"),
        masks.weights & masks.path("**/kernal"),
        masks.weights | masks.path("**/kernal"),
    ):
        with pytest.raises(ValueError, match=text):
            mask(NET)
    with pytest.raises(ValueError, match=r"'kernal' of mask name.*nearest are: 'kernel'"):
        masks.name("kernel", "kernal")(NET)
    with pytest.raises(ValueError, match="the tree has no leaves"):
        masks.path("a")({})


def test_a_pattern_may_match_only_what_cannot_be_chosen():
    params = {"a": jnp.ones(2), "steps": jnp.zeros((), int), "gone": None}
    assert (~masks.path("steps"))(params) == {"a": True, "steps": False, "gone": None}
    assert (~masks.path("gone"))(params) == {"a": True, "steps": False, "gone": None}


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: masks.path(), ValueError, "path takes at least one pattern"),
        (lambda: masks.name(), ValueError, "name takes at least one pattern"),
        (lambda: masks.path(3), TypeError, "patterns of path must be strings. Got 3"),
        (lambda: masks.path("a[z-a]"), ValueError, r"pattern 'a\[z-a\]' is malformed"),
        (lambda: masks.name("a/b"), ValueError, "has no '/' in it.*Got 'a/b'"),
        (
            lambda: masks.min_ndim(-1),
            ValueError,
            "'n' parameter of min_ndim must be a non-negative integer. Got -1",
        ),
        (lambda: masks.min_ndim(True), ValueError, "Got True"),
        (lambda: masks.weights and masks.norms, TypeError, "combine masks with &, | and ~"),
        (lambda: masks.weights & True, TypeError, "unsupported operand"),
    ],
)
def test_malformed_masks_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


# Algebra


def test_combinations():
    assert chosen(masks.weights & ~masks.path("head/**")) == {"body/kernel"}
    assert chosen(masks.biases | masks.norms) == {"body/bias", "head/bias", "ln/scale", "ln/bias"}
    assert chosen(~(masks.weights | masks.norms)) == {"body/bias", "head/bias"}


def test_repr_is_the_expression():
    kernel, head = masks.path("**/kernel"), masks.path("head/**")
    assert str(kernel & ~head) == "path('**/kernel') & ~path('head/**')"
    assert str((masks.weights | masks.biases) & head) == "(weights | biases) & path('head/**')"
    assert str(masks.weights | masks.biases & head) == "weights | biases & path('head/**')"
    assert str(~(masks.weights | masks.norms)) == "~(weights | norms)"
    assert str(~~masks.norms) == "norms"
    assert str(masks.name("a", "b") & masks.min_ndim(2)) == "name('a', 'b') & min_ndim(2)"
    assert str(masks.as_mask({"a": True, "b": False})) == "as_mask({'a': True, 'b': False})"


def test_masks_are_values():
    def make():
        return (
            masks.path("a", "b") & ~masks.name("c") | masks.min_ndim(2) & masks.weights,
            masks.as_mask({"a": True, "b": {"c": False}}),
            masks.as_mask(None),
            masks.as_mask(jnp.shape),
        )

    assert make() == make()
    assert hash(make()) == hash(make())
    assert len(set(make() + make())) == 4
    a, b, c = masks.norms, masks.biases, masks.weights
    assert (a & b) & c == a & (b & c)
    assert (a | b) | c == a | (b | c)
    assert a != b
    assert a & b != a | b
    assert masks.path("a") != masks.name("a")
    assert jax.tree.leaves(a) == [a]
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.role = "other"


def test_a_rebuilt_mask_does_not_recompile():
    traces = []

    @partial(jax.jit, static_argnums=0)
    def total(mask, params):
        traces.append(mask)
        return sum(
            jnp.sum(x)
            for x, m in zip(jax.tree.leaves(params), jax.tree.leaves(mask(params)), strict=True)
            if m
        )

    for _ in range(3):
        assert total(masks.weights & ~masks.path("head/**"), NET) == 6
        assert total(masks.as_mask({"body": True, "head": False, "ln": False}), NET) == 9
    assert len(traces) == 2


# Trees


def test_result_has_the_structure_of_the_tree():
    params = {
        "a": {"kernel": jnp.ones((2, 2)), "bias": None},
        "b": optax.MaskedNode(),
        "n": 3,
        "f": jax.nn.relu,
    }
    assert masks.weights(params) == {
        "a": {"kernel": True, "bias": None},
        "b": optax.MaskedNode(),
        "n": False,
        "f": False,
    }
    assert (~masks.weights)(params)["n"] is False
    assert masks.weights(freeze(NET)) == freeze(masks.weights(NET))
    shapes = jax.eval_shape(lambda: NET)
    assert masks.weights(shapes) == masks.weights(NET)
    assert masks.min_ndim(1)(jnp.ones(3)) is True
    assert masks.path("**")(jnp.ones(())) is True


def test_a_mask_that_selects_nothing_is_refused():
    mask = masks.path("ln/**") & masks.weights
    with pytest.raises(
        ValueError, match=r"mask path\('ln/\*\*'\) & weights selects no leaf.*paths are: 'body/bias'"
    ):
        mask(NET)
    with pytest.raises(ValueError, match="mask embeddings selects no leaf"):
        masks.embeddings(NET)
    with pytest.raises(ValueError, match="selects no leaf"):
        masks.as_mask(False)(NET)
    assert masks.embeddings({"a": jnp.ones(2), "b": optax.MaskedNode()})["a"] is False
    assert masks.embeddings({"count": jnp.ones((), int), "gone": None}) == {"count": False, "gone": None}


def test_step_counts_are_refused():
    for count in (3, jnp.zeros((), jnp.int32), np.int32(2)):
        for mask in (masks.weights, masks.path("x"), masks.as_mask(lambda params: True)):
            with pytest.raises(TypeError, match=r"takes a pytree of parameters.*static_args="):
                mask(count)
    tx = optax.inject_hyperparams(optax.adamw)(1e-3, mask=masks.weights)
    with pytest.raises(TypeError, match=r"The mask weights takes a pytree.*inject_hyperparams"):
        tx.init(NET)


def test_thousand_leaves_are_quick():
    params = {f"layer_{i}": params_of(kernel=(2, 2), bias=(2,)) for i in range(500)}
    flat = tree.flatten(params)
    mask = masks.weights & ~masks.path("layer_0/**") | masks.name("bias")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert sum(mask.select(flat)) == 999
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # some 5 ms; quadratic work would take seconds


# What `mask=` accepts


def test_as_mask_takes_bools_prefixes_callables_and_none():
    everything = {"body/kernel", "body/bias", "head/kernel", "head/bias", "ln/scale", "ln/bias"}
    assert chosen(masks.as_mask(None)) == chosen(masks.as_mask(True)) == everything
    assert masks.as_mask(masks.norms) is masks.norms
    prefix = {"body": {"kernel": np.bool_(True), "bias": np.array(False)}, "head": True, "ln": False}
    assert chosen(masks.as_mask(prefix)) == {"body/kernel", "head/kernel", "head/bias"}
    assert chosen(masks.as_mask(lambda params: jax.tree.map(lambda x: x.ndim > 1, params))) == chosen(
        masks.weights
    )
    assert chosen(masks.as_mask(lambda params: prefix)) == chosen(masks.as_mask(prefix))
    assert chosen(masks.as_mask(prefix) & masks.biases) == {"head/bias"}


def test_as_mask_errors():
    with pytest.raises(TypeError, match=r"Got a ArrayImpl at 'body/bias'.*arrays cannot say it"):
        masks.as_mask({"body": {"bias": jnp.array(True)}})
    with pytest.raises(TypeError, match="at 'a'"):
        jax.jit(lambda x: masks.as_mask({"a": x > 0}))(1.0)
    with pytest.raises(TypeError, match=r"For a path write masks.path\('kernel'\)"):
        masks.as_mask("kernel")
    with pytest.raises(ValueError, match="'mask' has no entry for the leaf 'head/bias'"):
        masks.as_mask({"body": True})(NET)
    with pytest.raises(ValueError, match="'mask' has an entry 'boddy' that is above no leaf"):
        masks.as_mask({"boddy": True, "body": True, "head": True, "ln": True})(NET)


def test_a_callable_module_of_bools_is_a_tree():
    mlp = eqx.nn.MLP(2, 2, 3, 1, key=KEY)
    none = jax.tree.map(lambda _: False, mlp)
    bools = eqx.tree_at(lambda m: m.layers[0].weight, none, True)
    assert chosen(masks.as_mask(bools), mlp) == {"layers/0/weight"}


# Descriptions


def test_describe_says_which_rule_decided():
    mask = masks.path("**/kernel") & ~masks.path("head/**")
    described = masks.describe(
        mask, NET | {"step": jnp.zeros((), int), "gone": None, "part": optax.MaskedNode()}
    )
    rows = {row.path: row for row in described.rows}
    assert rows["body/kernel"].selected
    assert rows["body/kernel"].shape == (2, 3)
    assert rows["body/kernel"].rule == "path('**/kernel') matches; path('head/**') does not match"
    assert rows["head/kernel"].rule == "path('head/**') matches"
    assert rows["body/bias"].rule == "path('**/kernel') does not match"
    assert (rows["step"].rule, rows["gone"].rule) == ("not floating-point", "absent")
    assert rows["part"].rule == "masked out by optax"
    assert [row.path for row in described.rows if row.selected] == ["body/kernel"]
    lines = str(described).splitlines()
    assert lines[0].split() == ["path", "shape", "dtype", "selected", "rule"]
    assert lines[-1] == "1 of 6 floating-point leaves selected, 6 of 19 elements"


def test_describe_shows_an_empty_mask_but_not_a_wrong_pattern():
    rows = masks.describe(masks.embeddings, NET).rows
    assert not any(row.selected for row in rows)
    assert rows[0].rule == "role biases: leaf name 'bias'"
    assert rows[4].rule == "role norms: beside 'scale'"
    assert str(masks.describe(None, NET)).endswith("6 of 6 floating-point leaves selected, 19 of 19 elements")
    with pytest.raises(ValueError, match="matches no leaf"):
        masks.describe(masks.path("nope"), NET)


# Inside optax

USES = {
    "masked": lambda mask: optax.masked(optax.scale(0.0), mask),
    "adamw": lambda mask: optax.adamw(1e-2, mask=mask),
    "chain": lambda mask: optax.chain(optax.add_decayed_weights(0.1, mask=mask), optax.sgd(0.1)),
    "inject": lambda mask: optax.inject_hyperparams(optax.adamw, static_args=("mask",))(1e-2, mask=mask),
    "partition": lambda mask: optax.partition(
        {"in": optax.adamw(0.1, mask=mask), "out": optax.set_to_zero()},
        lambda params: jax.tree.map(lambda m: "in" if m else "out", (masks.weights | masks.norms)(params)),
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "mask", [masks.weights & ~masks.path("head/**"), ~(masks.biases | masks.norms)], ids=str
)
def test_optax_accepts_masks(use, mask):
    tx = USES[use](mask)
    state = tx.init(NET)
    updates, state = jax.jit(tx.update)(NET, state, NET)
    assert jax.tree.structure(updates) == jax.tree.structure(NET)
    if use == "masked":
        assert {p for p, u in zip(*leaves_of(updates), strict=True) if not u.any()} == chosen(mask)


def leaves_of(params):
    flat = tree.flatten(params)
    return flat.paths, flat.leaves


@pytest.mark.parametrize("depth", ["leaves", "subtrees"])
def test_partition_hides_leaves_from_inner_masks(depth):
    # Labels on subtrees put one MaskedNode in place of a whole layer, kernel and all.
    labels = {"body": "a", "head": "a", "ln": "b"}
    if depth == "leaves":
        labels = {layer: dict.fromkeys(leaves, labels[layer]) for layer, leaves in NET.items()}
    given = masks.as_mask(masks.weights(NET))
    for mask in (
        masks.path("**/kernel"),
        masks.name("kernel") & masks.weights,
        masks.path("body/k*", "head/k*"),
        given,
    ):
        inner = optax.masked(optax.scale(0.0), mask)
        tx = optax.partition({"a": inner, "b": inner}, labels)
        updates, _ = tx.update(NET, tx.init(NET), NET)
        assert {p for p, u in zip(*leaves_of(updates), strict=True) if not u.any()} == chosen(masks.weights)
    wrong = optax.partition({"a": optax.masked(optax.identity(), masks.path("boddy/*")), "b": inner}, labels)
    with pytest.raises(ValueError, match=r"'boddy/\*' of mask path.* matches no leaf"):
        wrong.init(NET)


def test_nnx_optimizer_accepts_masks():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 3, rngs=rngs)
            self.bn = nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.bn(self.linear(x))

    net = Net(nnx.Rngs(0))
    given = jax.tree.map(lambda x: x.ndim == 2, nnx.state(net, nnx.Param))
    before = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    for mask in (masks.weights, masks.path("linear/kernel"), masks.as_mask(given)):
        tx = optax.chain(optax.set_to_zero(), optax.add_decayed_weights(0.5, mask=mask))
        optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
        grads = nnx.grad(lambda net: jnp.sum(net(jnp.ones((4, 2))) ** 2))(net)
        optimizer.update(net, grads)
    after = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    np.testing.assert_allclose(after["linear"]["kernel"], before["linear"]["kernel"] * 1.5**3, rtol=1e-6)
    np.testing.assert_array_equal(after["bn"]["scale"], before["bn"]["scale"])

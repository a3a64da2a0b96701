"""What the caller of ``trace`` may say beside the function, and what is refused."""

import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures.models.case import dense, draw, shape

from jaxreg import masks, structures

X = shape(4, 5)
PARAMS = {"in": dense(5, 6), "left": dense(6, 6), "right": dense(6, 6), "out": dense(6, 3)}


def apply(params, x):
    x = jax.nn.relu(x @ params["in"]["kernel"] + params["in"]["bias"])
    x = jnp.tanh(x @ params["left"]["kernel"]) * (x @ params["right"]["kernel"])
    return x @ params["out"]["kernel"]


def paths(graph):
    return [{(member.path, member.axis) for member in group.members} for group in graph.groups]


FIRST = {("in/kernel", 1), ("in/bias", 0), ("left/kernel", 0), ("right/kernel", 0)}
SECOND = {("left/kernel", 1), ("right/kernel", 1), ("out/kernel", 0)}


def test_shapes_alone_are_enough():
    assert paths(structures.trace(apply, PARAMS, X)) == [FIRST, SECOND]


def test_free_inputs_and_outputs_are_groups_too():
    free = structures.trace(apply, PARAMS, X, free_inputs=True, free_outputs=True)
    assert {("in/kernel", 0)} in paths(free)
    assert {("out/kernel", 1)} in paths(free)
    [inputs] = [group for group in free.groups if group.members[0].path == "in/kernel" and group.size == 5]
    assert [member.role for member in inputs.members] == ["consumes"]


@pytest.mark.parametrize("frozen", ["out/kernel", ["out/*"], masks.path("out/*")], ids=str)
def test_frozen_leaves_keep_their_shape(frozen):
    graph = structures.trace(apply, PARAMS, X, frozen=frozen)
    assert paths(graph) == [FIRST]
    reasons = {pin.path: pin.reason for pin in graph.pinned}
    assert reasons["left/kernel"] == reasons["out/kernel"] == "frozen"


def test_tied_axes_lose_the_same_units():
    graph = structures.trace(apply, PARAMS, X, tie=[[("in/kernel", 1), ("out/kernel", 0)]])
    assert paths(graph) == [FIRST | SECOND]


def test_arrays_that_nothing_uses_are_no_groups():
    unused = structures.trace(apply, {**PARAMS, "unused": dense(6, 6)}, X)
    assert paths(unused) == [FIRST, SECOND]
    assert {pin.path for pin in unused.pinned} >= {"unused/kernel", "unused/bias", "left/bias"}


def test_what_is_unknown_pins_and_says_its_name_and_line():
    def with_sort(params, x):
        x = x @ params["in"]["kernel"]
        return jnp.sort(x, axis=-1) @ params["out"]["kernel"]  # the line that the reason names

    graph = structures.trace(with_sort, {"in": PARAMS["in"], "out": PARAMS["out"]}, X)
    assert graph.groups == ()
    lines = pathlib.Path(__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "the line that the reason names" in text)
    for path, axis in [("in/kernel", 1), ("out/kernel", 0)]:
        [reason] = [pin.reason for pin in graph.pinned if (pin.path, pin.axis) == (path, axis)]
        assert re.search(rf"sort at .*test_trace_arguments\.py:{line}\b", reason)
        assert reason in str(graph.describe())


def test_new_values_of_state_keep_the_groups_free():
    """Without being told, the new statistics are outputs like any other."""

    def training(params, x):
        x = x @ params["in"]["kernel"]
        mean = x.mean(0)
        return (x - mean) @ params["out"]["kernel"], {"mean": 0.9 * params["mean"] + 0.1 * mean}

    params = {"in": PARAMS["in"], "out": PARAMS["out"], "mean": shape(6)}
    assert structures.trace(training, params, X).groups == ()
    told = structures.trace(training, params, X, state_outputs=lambda out: out[1])
    assert paths(told) == [{("in/kernel", 1), ("mean", 0), ("out/kernel", 0)}]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"frozen": "nowhere/*"}, ValueError, "'nowhere/.*' of the 'frozen' parameter of structures.trace"),
        ({"frozen": 3}, TypeError, "mask|frozen"),
        ({"tie": [[("in/kernel", 0), ("out/kernel", 0)]]}, ValueError, "different lengths: 5 .* and 6"),
        ({"tie": [[("in/kernel", 2), ("out/kernel", 0)]]}, ValueError, r"axis 2 .*'in/kernel'.*\(5, 6\)"),
        ({"tie": [["in/kernel", "out/kernel"]]}, TypeError, "'tie' parameter .* Got 'in/kernel'"),
        ({"free_inputs": 1}, TypeError, "'free_inputs' parameter of structures.trace"),
        ({"state": "nowhere"}, ValueError, "'nowhere' of the 'state' parameter of structures.trace"),
        ({"state_outputs": lambda out: {"in": out}}, ValueError, "'state_outputs' parameter .*'in'"),
        ({"state_outputs": lambda out: {"out": {"bias": out}}}, ValueError, r"\(4, 3\).*'out/bias'.*\(3,\)"),
        ({"state_outputs": lambda out: {"out": {"bias": 1.0}}}, ValueError, "must pick leaves of the output"),
    ],
)
def test_refused(options, error, words):
    with pytest.raises(error, match=words):
        structures.trace(apply, PARAMS, X, **options)


def test_the_function_must_be_callable():
    with pytest.raises(TypeError, match="'apply_fn' parameter"):
        structures.trace(PARAMS, PARAMS, X)


def test_twelve_layers_are_traced_in_seconds():
    """From shapes alone: 12 layers of the size of GPT-2, 85 million parameters that are never made."""
    width, heads, layers = 768, 12, 12

    def transformer(params, x):
        for layer in params:
            qkv = (x @ layer["qkv"]["kernel"] + layer["qkv"]["bias"]).reshape(*x.shape[:2], 3, heads, -1)
            query, key, value = (qkv[:, :, place] for place in range(3))
            weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", query, key))
            mixed = jnp.einsum("bhts,bshd->bthd", weights, value).reshape(x.shape)
            x = x + mixed @ layer["out"]["kernel"]
            x = x + jax.nn.gelu(x @ layer["up"]["kernel"]) @ layer["down"]["kernel"]
        return x

    layer = {
        "qkv": dense(width, 3 * width),
        "out": dense(width, width),
        "up": dense(width, 4 * width),
        "down": dense(4 * width, width),
    }
    began = time.perf_counter()
    graph = structures.trace(transformer, [layer] * layers, shape(1, 128, width))
    assert time.perf_counter() - began < 5
    sizes = sorted(group.size for group in graph.groups)
    assert sizes == sorted(layers * [heads, width // heads, 4 * width])


def test_a_graph_is_equal_to_another_of_the_same_groups():
    first, second = (structures.trace(apply, PARAMS, X) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != structures.trace(apply, PARAMS, X, frozen="out/*")
    assert {first: 1}[second] == 1


def test_a_graph_holds_no_array():
    """A function that closes over a big constant must not keep it alive in the graph's identity."""
    constant = draw(6)

    def scaled(params, x):
        return jnp.tanh(x @ params["in"]["kernel"]) * constant @ params["out"]["kernel"]

    graph = structures.trace(scaled, {"in": PARAMS["in"], "out": PARAMS["out"]}, X)
    held = (
        leaf for group in graph.groups for member in group.members for leaf in jax.tree.leaves(vars(member))
    )
    assert not any(isinstance(leaf, np.ndarray | jax.Array) for leaf in held)
    assert [group.size for group in graph.groups] == [6]


def test_the_picture_is_saved(tmp_path):
    structures.trace(apply, PARAMS, X).draw(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")

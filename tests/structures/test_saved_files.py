"""What a file of a saved model holds, what it refuses to hold, and what it says when it is used otherwise."""

import json
import pathlib
import subprocess
import sys
import textwrap
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import jaxreg
from jaxreg import structures


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


DEAD = jnp.array([2, 4])
PARAMS = {"a": draw(0, 3, 6).at[:, DEAD].set(0), "b": draw(1, 6, 2)}
X = draw(2, 4, 3)


def hidden(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def shrunk(apply, params, *inputs, **options):
    return jaxreg.compact(structures.trace(apply, params, *inputs, **options), params)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def small():
    return shrunk(hidden, PARAMS, X)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.zip"


def reloaded(file, small, *examples, **options):
    structures.save(file, small, *examples, **options)
    return structures.load(file)


def test_inputs_are_told_apart_by_their_names(file):
    def apply(params, x, mask=None, scale=None):
        h = x @ params["a"]
        h = h if mask is None else h * mask
        return jnp.tanh(h if scale is None else 3 * h * scale) @ params["b"]

    m = draw(3, 4, 1)
    small = shrunk(apply, PARAMS, X, m, None)
    loaded = reloaded(file, small, (X, m, None), (X, None, m))
    for inputs in ((X, m, None), (X, None, m), (X, m)):
        close(loaded.apply(loaded.params, *inputs), apply(PARAMS, *inputs))
    with pytest.raises(
        ValueError, match=r"saved for inputs float32\[4, 3\], float32\[4, 1\]; 0: .*, 2: .* Got"
    ):
        loaded.apply(loaded.params, X)


def test_names_in_the_inputs_come_in_any_container(file):
    def apply(params, given):
        return hidden(params, given["x"] - given["y"])

    loaded = reloaded(file, shrunk(apply, PARAMS, {"y": X, "x": 2 * X}))
    close(loaded.apply(loaded.params, FrozenDict({"x": 2 * X, "y": X})), hidden(PARAMS, X))


def test_examples_that_differ_in_containers_alone_are_refused(file):
    def apply(params, given):
        return hidden(params, given[0])

    with pytest.raises(ValueError, match=r"does not see the kind of containers"):
        structures.save(file, shrunk(apply, PARAMS, [X]), ([X],), ((X,),))


def test_parameters_are_known_by_their_paths(file, small):
    loaded = reloaded(file, small)
    shifted = {"_first": draw(4, 3, 4)} | loaded.params
    with pytest.raises(ValueError, match=r"loaded model .* Missing: nothing\. Superfluous: '_first'"):
        loaded.apply(shifted, X)
    with pytest.raises(ValueError, match=r"Missing: 'b'\. Superfluous: 'c'"):
        loaded.apply({"a": loaded.params["a"], "c": loaded.params["b"]}, X)


def test_lists_tuples_and_numbers_come_back(file):
    def apply(params, x):
        h = jnp.tanh(x @ params["layers"][0]) * params["scale"]
        return h.reshape(params["rows"], -1, 6) @ params["layers"][1][0]

    params = {"layers": [PARAMS["a"], (PARAMS["b"],)], "scale": 2.0, "rows": 2}
    small = shrunk(apply, params, X)
    loaded = reloaded(file, small)
    assert jax.tree.structure(loaded.params | {"rows": 2}) == jax.tree.structure(params)
    assert loaded.params["scale"] == 2.0
    close(loaded.apply(loaded.params, X), apply(params, X))
    close(loaded.apply(small.params | {"scale": 5.0}, X), apply(params | {"scale": 5.0}, X))
    with pytest.raises(ValueError, match=r"'rows' is a part of what the loaded model computes"):
        loaded.apply(loaded.params | {"rows": 4}, X)


def test_what_is_no_array_in_a_module_is_left_out(file):
    model = eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=jax.random.key(0)), eqx.nn.Lambda(jax.nn.relu)])

    def apply(model, x):
        return jax.vmap(model)(x)

    loaded = reloaded(file, shrunk(apply, model, X))
    assert list(loaded.sizes) == ["layers/0/weight", "layers/0/bias"]
    for params in (loaded.params, model):
        close(loaded.apply(params, X), apply(model, X))


def test_a_separator_in_a_key_is_no_step(file):
    params = {"a": PARAMS["a"], "a/b": PARAMS["b"]}

    def apply(params, x):
        return jnp.tanh(x @ params["a"]) @ params["a/b"]

    loaded = reloaded(file, shrunk(apply, params, X))
    close(loaded.apply(loaded.params, X), apply(params, X))
    with pytest.raises(ValueError, match=r"leaf 'a/b' cannot be saved beside the leaf 'a'"):
        structures.save(file, shrunk(apply, FrozenDict(params), X))


def test_a_save_that_fails_leaves_the_file_that_was_there(file, small):
    structures.save(file, small)
    before = file.read_bytes()

    def callback(params, x):
        shape = jax.ShapeDtypeStruct((4, 2), jnp.float32)
        return jax.pure_callback(np.negative, shape, hidden(params, x))

    with pytest.raises(NotImplementedError):
        structures.save(file, shrunk(callback, PARAMS, X))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_arguments_of_save_are_checked(file, small):
    with pytest.raises(TypeError, match=r"'examples' .* must be a sequence of the inputs, such as \(x,\)"):
        structures.save(file, small, X)
    with pytest.raises(TypeError, match=r"'platforms' .* must be a sequence of some of .*'cpu'"):
        structures.save(file, small, platforms="cpu")
    for wrong in (("foo",), ("cpu", "gpu"), ()):
        with pytest.raises(ValueError, match=r"'platforms' .* must be a sequence of some of"):
            structures.save(file, small, platforms=wrong)
    assert not file.exists()


def test_wide_numbers_are_not_rounded_in_silence(file):
    program = f"""
        import jax, jax.numpy as jnp, numpy as np
        jax.config.update("jax_enable_x64", True)
        import jaxreg
        params = {{"a": jnp.asarray(np.eye(3, 4)), "b": jnp.ones((4, 2))}}
        apply = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]
        small = jaxreg.compact(jaxreg.structures.trace(apply, params, jnp.ones((2, 3))), params)
        jaxreg.structures.save({str(file)!r}, small)
        loaded = jaxreg.structures.load({str(file)!r})
        assert loaded.apply(loaded.params, jnp.ones((2, 3))).dtype == np.float64
    """
    here = pathlib.Path(jaxreg.__file__).parent.parent
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(program)], check=True, cwd=here)
    with pytest.raises(ValueError, match=r"saved with float64 for the leaf 'a'\. Enable jax_enable_x64"):
        structures.load(file)


def test_a_file_that_is_no_model_is_refused(file, small):
    structures.save(file, small)
    whole = file.read_bytes()
    middle = len(whole) // 2
    for data in (b"", b"text", whole[:-40], whole[:middle] + b"\0\0\0\0" + whole[middle + 4 :]):
        file.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"model\.zip' is damaged or was not written by structures\.save"
        ):
            structures.load(file)
    for name in ("other", "model.json"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, "{}")
        with pytest.raises(
            ValueError, match=r"model\.zip' is damaged or was not written by structures\.save"
        ):
            structures.load(file)
    with pytest.raises(FileNotFoundError):
        structures.load(file.parent / "none")


def test_a_loaded_model_is_short_to_print_and_says_what_cannot_map_it(file, small):
    loaded = reloaded(file, small)
    assert repr(loaded) == "Loaded(2 leaves, for inputs float32[4, 3])"
    with pytest.raises(NotImplementedError) as raised:
        jax.vmap(loaded.apply, in_axes=(None, 0))(loaded.params, X[None])
    assert "cannot be mapped by jax.vmap" in raised.value.__notes__[0]


def test_inputs_and_outputs_may_be_keys_and_numbers(file):
    def apply(params, x, key, scale):
        return hidden(params, x * scale), jax.random.split(key)

    key = jax.random.key(0)
    small = shrunk(apply, PARAMS, X, key, 2.0)
    loaded = reloaded(file, small)
    for scale in (3.0, jnp.float32(3)):
        found, expected = loaded.apply(loaded.params, X, key, scale), apply(PARAMS, X, key, scale)
        close(found[0], expected[0])
        assert jnp.array_equal(found[1], expected[1])


def test_inputs_that_lost_units_are_saved_without_them(file):
    params = {"a": draw(5, 3, 8).at[0].set(0), "b": draw(6, 8, 2)}
    loaded = reloaded(file, shrunk(hidden, params, X, free_inputs=True))
    close(loaded.apply(loaded.params, X[:, 1:]), hidden(params, X))


def test_a_file_of_an_earlier_format_says_so(file, small):
    structures.save(file, small)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    table = json.loads(parts["model.json"])
    table = {name: table[name] for name in ("leaves", "tree", "functions")} | {"format": 1}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (parts | {"model.json": json.dumps(table).encode()}).items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match="has format 1; this version reads 2"):
        structures.load(file)

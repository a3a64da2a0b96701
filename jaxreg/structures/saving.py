"""Save a smaller model with its computation, and load it where the model's code is not."""

import dataclasses
import importlib.util
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxreg.arguments import check_whole_number
from jaxreg.structures.by_path import ANYTHING, ByPath, by_path
from jaxreg.structures.compaction import Compacted
from jaxreg.structures.containers import as_json, from_json, is_plain, nested
from jaxreg.structures.recording import shape_of
from jaxreg.tree import PyTree, flatten

_FORMAT = 2
_TABLE = "model.json"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError)

Signature = tuple[tuple[str, tuple[int, ...], str, bool], ...]
"""Path, shape, dtype and weak type of all inputs, by path."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Loaded:
    """A saved model; what :func:`load` returns.

    Attributes:
        params: the parameters, in dicts, lists and tuples.
        sizes: the shape of every parameter by path.
    """

    params: PyTree
    sizes: Mapping[str, tuple[int, ...]]
    leaves: ByPath
    functions: Mapping[Signature, Any]

    def __repr__(self) -> str:
        return f"Loaded({len(self.sizes)} leaves, for inputs {self._known()})"

    def apply(self, params: PyTree, *inputs: Any) -> Any:
        """Run the model on inputs of one of the structures and shapes that it was saved for.

        It may be jitted. ``jax.grad`` of it needs a model that was saved with ``vjp_order=1``; ``jax.vmap``
        does not take it, nor does forward differentiation: what JAX exports has fixed shapes.
        """
        arrays = self.leaves.pick(params, "the loaded model")
        given = _inputs(inputs)
        function = self._function(_signature(given))
        try:
            return function.call(arrays, list(given.values()))
        except NotImplementedError as error:
            error.add_note("A loaded model cannot be mapped by jax.vmap. Save it for inputs with that axis.")
            raise

    def _function(self, wanted: Signature) -> Any:
        if wanted in self.functions:
            return self.functions[wanted]
        for known, function in self.functions.items():
            if _strong(known) == _strong(wanted):
                return function
        raise ValueError(f"The model was saved for inputs {self._known()}. Got {_shown(wanted)}.")

    def _known(self) -> str:
        return "; ".join(map(_shown, self.functions))


def save(
    path: str | os.PathLike[str],
    small: Compacted,
    *examples: Sequence[Any],
    platforms: Sequence[str] | None = None,
    vjp_order: int = 0,
) -> None:
    """Save a compacted model: parameters, sizes, and the computation through ``jax.export``.

    Args:
        path: of the file to write, a zip archive.
        small: what :func:`jaxreg.compact` returned.
        *examples: for each shape of inputs that the loaded model is to take, the inputs as a sequence,
            arrays or ``jax.ShapeDtypeStruct``, such as ``(x,)``. Default: the shapes that the graph was
            traced with.
        platforms: where it is to run, some of ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``.
            Default: where it is saved.
        vjp_order: how many times the loaded function can be differentiated in reverse.

    Raises:
        TypeError: if an argument is of the wrong kind, or a parameter is no array of numbers.
        ValueError: for a platform that JAX does not know, or examples that a loaded model could not tell
            apart.

    Examples:
        >>> import jax.numpy as jnp, tempfile, os
        >>> import jaxreg
        >>> def apply(params, x):
        ...     return jnp.tanh(x @ params["w1"]) @ params["w2"]
        >>> params = {"w1": jnp.eye(3, 4), "w2": jnp.ones((4, 2))}  # the last unit is dead
        >>> x = jnp.ones((1, 3))
        >>> small = jaxreg.compact(jaxreg.structures.trace(apply, params, x), params)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     jaxreg.structures.save(os.path.join(folder, "model.zip"), small)
        ...     loaded = jaxreg.structures.load(os.path.join(folder, "model.zip"))
        >>> loaded.sizes
        {'w1': (3, 3), 'w2': (3, 2)}
        >>> print(loaded.apply(loaded.params, x).round(2))
        [[2.28 2.28]]

    Notes:
        A tree with containers of other kinds than dicts, lists and tuples comes back as nested dicts. The
        file is written in whole before it takes the place of one that was there.
    """
    if not isinstance(small, Compacted):
        raise TypeError(f"The 'small' parameter of structures.save must come from compact. Got {small!r}.")
    check_whole_number(vjp_order, "vjp_order", "structures.save")
    _check_platforms(platforms)
    _check_examples(examples)
    arrays = small.apply.leaves.pick(small.params, "the smaller model")
    names = small.apply.leaves.arrays
    shapes = list(map(shape_of, arrays))
    _check_leaves(names, shapes)
    functions = _exported(small, shapes, examples or (small.apply.inputs,), platforms)
    parts = {f"function_{n}": _serialized(f, vjp_order) for n, f in enumerate(functions.values())}
    for number, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        parts[f"leaf_{number}"] = np.asarray(array, shape.dtype).tobytes()
    table = {
        "format": _FORMAT,
        "leaves": [[n, list(s.shape), str(s.dtype)] for n, s in zip(names, shapes, strict=True)],
        "numbers": [name for name, array in zip(names, arrays, strict=True) if not hasattr(array, "dtype")],
        "fixed": [[name, _as_known(leaf)] for name, leaf in small.apply.leaves.fixed.items()],
        "tree": _described(small.params, names),
        "functions": list(functions),
    }
    _write(path, parts | {_TABLE: json.dumps(table).encode()})


def load(path: str | os.PathLike[str]) -> Loaded:
    """Load what :func:`save` wrote, without the code of the model.

    Args:
        path: of the file.

    Returns:
        A :class:`Loaded` with ``params``, ``sizes`` and ``apply(params, *inputs)``.

    Raises:
        ValueError: if the file is damaged or not of :func:`save`, or holds 64-bit numbers and
            ``jax_enable_x64`` is off.

    Examples:
        >>> import jax.numpy as jnp, tempfile, os
        >>> import jaxreg
        >>> params = {"up": jnp.eye(3), "down": jnp.ones((3, 2))}
        >>> graph = jaxreg.structures.trace(lambda p, x: x @ p["up"] @ p["down"], params, jnp.ones((1, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = os.path.join(folder, "model.zip")
        ...     jaxreg.structures.save(file, jaxreg.compact(graph, params))
        ...     loaded = jaxreg.structures.load(file)
        >>> print(loaded.apply(loaded.params, jnp.ones((1, 3))))
        [[3. 3.]]
    """
    table, parts = _read(path)
    leaves = {
        name: _leaf(name, shape, dtype, parts[f"leaf_{number}"], name in table["numbers"])
        for number, (name, shape, dtype) in enumerate(table["leaves"])
    }
    functions = {}
    for number, signature in enumerate(table["functions"]):
        for name, _, dtype, _ in signature:
            _refuse_rounding(dtype, f"the input '{name}'")
        key = tuple((name, tuple(shape), dtype, weak) for name, shape, dtype, weak in signature)
        functions[key] = _deserialized(parts[f"function_{number}"])
        for output in functions[key].out_avals:
            _refuse_rounding(str(output.dtype), "an output")
    fixed = {name: ANYTHING if value is None else value for name, value in table["fixed"]}
    return Loaded(
        params=from_json(table["tree"], list(leaves.values())),
        sizes={name: np.shape(leaf) for name, leaf in leaves.items()},
        leaves=ByPath(tuple(leaves), fixed),
        functions=functions,
    )


def _check_platforms(platforms: Any) -> None:
    if platforms is None:
        return
    known = sorted({*_PLATFORMS, export.default_export_platform()})
    message = f"The 'platforms' parameter of structures.save must be a sequence of some of {known}."
    if isinstance(platforms, str) or not isinstance(platforms, Sequence):
        raise TypeError(f"{message} Got {platforms!r}.")
    if not platforms or not set(platforms) <= set(known):
        raise ValueError(f"{message} Got {platforms!r}.")


def _check_examples(examples: Sequence[Any]) -> None:
    for inputs in examples:
        if not isinstance(inputs, tuple | list):
            raise TypeError(
                "Each of the 'examples' of structures.save must be a sequence of the inputs, such as (x,). "
                f"Got {type(inputs).__name__}."
            )


def _check_leaves(names: Sequence[str], shapes: Sequence[Any]) -> None:
    for name, shape in zip(names, shapes, strict=True):
        if not isinstance(shape.dtype, np.dtype):
            raise TypeError(f"structures.save takes arrays of numbers. Got {shape.dtype} at '{name}'.")


def _exported(
    small: Compacted, shapes: Sequence[Any], examples: Sequence[Any], platforms: Any
) -> dict[Signature, Any]:
    """The computation for each kind of inputs."""
    found: dict[Signature, Any] = {}
    trees: dict[Signature, Any] = {}
    for inputs in examples:
        given, tree = _inputs(inputs), jax.tree.structure(tuple(inputs))
        signature = _signature(given)
        if trees.setdefault(signature, tree) != tree:
            raise ValueError(
                "A loaded model does not see the kind of containers, in which alone two of the 'examples' of "
                f"structures.save differ: {trees[signature]} and {tree}."
            )
        function = jax.jit(_on_lists(small, tuple(inputs)))
        found[signature] = export.export(function, platforms=platforms)(
            shapes, list(map(shape_of, given.values()))
        )
    return found


def _on_lists(small: Compacted, example: tuple[Any, ...]) -> Any:
    """The model as a function of lists of arrays, which need no code to be described in a file."""
    params, inputs = flatten(small.params), flatten(example)
    names = small.apply.leaves.arrays

    def function(arrays: Sequence[Any], given: Sequence[Any]) -> Any:
        outputs = small.apply(
            _with(params, dict(zip(names, arrays, strict=True))),
            *_with(inputs, dict(zip(_inputs(example), given, strict=True))),
        )
        named = flatten(outputs)
        return outputs if is_plain(outputs) else nested(dict(zip(named.paths, named.leaves, strict=True)))

    return function


def _with(flat: Any, new: Mapping[str, Any]) -> PyTree:
    pairs = zip(flat.paths, flat.leaves, strict=True)
    return flat.rebuild([new.get(path, leaf) for path, leaf in pairs])


def _described(params: PyTree, names: Sequence[str]) -> Any:
    places = {name: number for number, name in enumerate(names)}
    flat = flatten(params)
    numbered = flat.rebuild([places.get(path) for path in flat.paths])
    return as_json(numbered if is_plain(numbered) else nested(places))


def _as_known(leaf: Any) -> Any:
    return leaf if type(leaf) in (bool, int, float, str) else None


def _inputs(inputs: Sequence[Any]) -> dict[str, Any]:
    """The inputs by path, in order, whatever their containers are."""
    return dict(sorted(by_path(flatten(tuple(inputs)), "The inputs of a saved model").items()))


def _signature(given: Mapping[str, Any]) -> Signature:
    shapes = {path: shape_of(leaf) for path, leaf in given.items()}
    return tuple((path, s.shape, str(s.dtype), s.weak_type) for path, s in shapes.items())


def _strong(signature: Signature) -> Any:
    return [(path, shape, dtype) for path, shape, dtype, _ in signature]


def _shown(signature: Signature) -> str:
    in_order = all(path == str(place) for place, (path, *_) in enumerate(signature))
    return ", ".join(
        f"{'' if in_order else path + ': '}{dtype}{list(shape)}" for path, shape, dtype, _ in signature
    )


def _write(path: str | os.PathLike[str], parts: Mapping[str, bytes]) -> None:
    """Beside the file first, so that one that was there is lost to nothing but a whole one."""
    goal = os.path.realpath(path)
    temporary = f"{goal}.{os.getpid()}.part"
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        os.replace(temporary, goal)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            table = json.loads(archive.read(_TABLE))
            parts = {name: archive.read(name) for name in archive.namelist()}
            version = table["format"]
    except _DAMAGE as error:
        raise ValueError(
            f"The file '{path}' is damaged or was not written by structures.save: {error}"
        ) from error
    if version != _FORMAT:
        raise ValueError(f"The file '{path}' has format {version}; this version reads {_FORMAT}.")
    return table, parts


def _leaf(name: str, shape: Sequence[int], dtype: str, data: bytes, is_number: bool) -> Any:
    _refuse_rounding(dtype, f"the leaf '{name}'")
    array = np.frombuffer(data, jnp.dtype(dtype)).reshape(shape)
    return array.item() if is_number else jnp.asarray(array)


def _refuse_rounding(dtype: str, what: str) -> None:
    if dtype.endswith(("64", "128")) and str(jnp.result_type(np.zeros(0, dtype))) != dtype:
        raise ValueError(
            f"The model was saved with {dtype} for {what}. Enable jax_enable_x64 before it is loaded."
        )


def _serialized(exported: Any, vjp_order: int) -> bytes:
    _require_flatbuffers()
    return bytes(exported.serialize(vjp_order=vjp_order))


def _deserialized(data: bytes) -> Any:
    _require_flatbuffers()
    return export.deserialize(bytearray(data))


def _require_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("Saving and loading functions needs the extra 'export': pip install jaxreg[export]")

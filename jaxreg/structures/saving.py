"""Save a smaller model with its computation, and load it where the model's code is not."""

import dataclasses
import importlib.util
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxreg.arguments import check_whole_number
from jaxreg.structures.compaction import Compacted
from jaxreg.tree import SEPARATOR, PyTree, flatten

_FORMAT = 1
_TABLE = "model.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A saved model; what :func:`load` returns.

    Attributes:
        params: the parameters as nested dicts of arrays.
        sizes: the shape of every parameter by path.
    """

    params: PyTree
    sizes: Mapping[str, tuple[int, ...]]
    paths: tuple[str, ...]
    functions: Mapping[tuple[Any, ...], Any]

    def apply(self, params: PyTree, *inputs: Any) -> Any:
        """Run the model on inputs of one of the shapes that it was saved for."""
        flat = flatten(params)
        by_path = dict(zip(flat.paths, flat.leaves, strict=True))
        given = jax.tree.leaves(inputs)
        function = self.functions.get(_signature(given))
        if function is None:
            known = "; ".join(
                ", ".join(f"{dtype}{list(shape)}" for shape, dtype in key) for key in self.functions
            )
            got = ", ".join(f"{dtype}{list(shape)}" for shape, dtype in _signature(given))
            raise ValueError(f"The model was saved for inputs {known}. Got {got}.")
        return function.call([by_path[path] for path in self.paths], given)


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
            arrays or ``jax.ShapeDtypeStruct``. Default: the shapes that the graph was traced with.
        platforms: where it is to run, such as ``("cpu", "cuda", "tpu")``. Default: where it is saved.
        vjp_order: how many times the loaded function can be differentiated in reverse.

    Raises:
        TypeError: if an argument is of the wrong kind, or a parameter is no array of numbers.

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
        Containers of other kinds than dicts, lists and tuples come back as nested dicts.
    """
    if not isinstance(small, Compacted):
        raise TypeError(f"The 'small' parameter of structures.save must come from compact. Got {small!r}.")
    check_whole_number(vjp_order, "vjp_order", "structures.save")
    flat = flatten(small.params)
    by_path = dict(zip(flat.paths, flat.leaves, strict=True))
    arrays = [by_path[name] for name in small.sizes]
    for name, array in zip(small.sizes, arrays, strict=True):
        if not isinstance(array.dtype, np.dtype):
            raise TypeError(f"structures.save takes arrays of numbers. Got {array.dtype} at '{name}'.")
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    table: dict[str, Any] = {
        "format": _FORMAT,
        "leaves": [[name, list(a.shape), str(a.dtype)] for name, a in zip(small.sizes, arrays, strict=True)],
        "functions": [],
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, inputs in enumerate(examples or (small.apply.graph.recipe.inputs,)):
            leaves, tree = jax.tree.flatten(tuple(inputs))
            function = jax.jit(_on_lists(small, flat, tree))
            given = [jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
            exported = export.export(function, platforms=platforms)(shapes, given)
            archive.writestr(f"function_{number}", _serialized(exported, vjp_order))
            table["functions"].append([[list(shape), dtype] for shape, dtype in _signature(leaves)])
        for number, array in enumerate(arrays):
            archive.writestr(f"leaf_{number}", np.asarray(array).tobytes())
        archive.writestr(_TABLE, json.dumps(table))


def load(path: str | os.PathLike[str]) -> Loaded:
    """Load what :func:`save` wrote, without the code of the model.

    Args:
        path: of the file.

    Returns:
        A :class:`Loaded` with ``params``, ``sizes`` and ``apply(params, *inputs)``.

    Raises:
        ValueError: if the file is of another format.

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
    with zipfile.ZipFile(path) as archive:
        table = json.loads(archive.read(_TABLE))
        if table["format"] != _FORMAT:
            raise ValueError(f"The file '{path}' has format {table['format']}; this version reads {_FORMAT}.")
        leaves = {
            name: jnp.asarray(np.frombuffer(archive.read(f"leaf_{number}"), jnp.dtype(dtype)).reshape(shape))
            for number, (name, shape, dtype) in enumerate(table["leaves"])
        }
        functions = {
            tuple((tuple(shape), dtype) for shape, dtype in signature): _deserialized(
                archive.read(f"function_{number}")
            )
            for number, signature in enumerate(table["functions"])
        }
    sizes = {name: leaf.shape for name, leaf in leaves.items()}
    return Loaded(_nested(leaves), sizes, tuple(leaves), functions)


def _serialized(exported: Any, vjp_order: int) -> bytes:
    _require_flatbuffers()
    return bytes(exported.serialize(vjp_order=vjp_order))


def _deserialized(data: bytes) -> Any:
    _require_flatbuffers()
    return export.deserialize(bytearray(data))


def _require_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("Saving and loading functions needs the extra 'export': pip install jaxreg[export]")


def _on_lists(small: Compacted, flat: Any, tree: Any) -> Any:
    """The model as a function of lists of arrays, which need no code to be described in a file."""

    def function(arrays: Sequence[Any], given: Sequence[Any]) -> Any:
        new = dict(zip(small.sizes, arrays, strict=True))
        pairs = zip(flat.paths, flat.leaves, strict=True)
        params = flat.rebuild([new.get(path, leaf) for path, leaf in pairs])
        outputs = small.apply(params, *jax.tree.unflatten(tree, given))
        named = flatten(outputs)
        return outputs if _is_plain(outputs) else _nested(dict(zip(named.paths, named.leaves, strict=True)))

    return function


def _is_plain(tree: Any) -> bool:
    """Whether it is made of dicts, lists and tuples, down to its arrays."""
    if type(tree) is dict:
        return all(map(_is_plain, tree.values()))
    if type(tree) in (list, tuple):
        return all(map(_is_plain, tree))
    return tree is None or jax.tree.structure(tree) == jax.tree.structure(0)


def _nested(leaves: Mapping[str, Any]) -> PyTree:
    if list(leaves) == [""]:
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *heads, last = path.split(SEPARATOR)
        node = tree
        for head in heads:
            node = node.setdefault(head, {})
        node[last] = leaf
    return tree


def _signature(leaves: Sequence[Any]) -> tuple[Any, ...]:
    return tuple((tuple(np.shape(leaf)), str(jnp.result_type(leaf))) for leaf in leaves)

"""Put smaller arrays into an NNX module."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxreg.structures.by_path import by_path
from jaxreg.tree import SEPARATOR, PyTree, flatten

if TYPE_CHECKING:
    from jaxreg.structures.compaction import Compacted

_NESTED = 3  # functions within functions that are searched for the definition of a module


def nnx_update(small: "Compacted", module: Any) -> None:
    try:
        from flax import nnx
    except ImportError as error:
        raise ImportError("NNX modules need the extra 'flax': pip install jaxreg[flax]") from error
    _refuse(small.module_difference())
    definition, state = nnx.split(module)
    mine = flatten(state)
    owners = _owners(mine.paths, sorted(small.sizes))

    def with_arrays(params: PyTree) -> Any:
        given = by_path(flatten(params), "The smaller parameters")
        pairs = zip(mine.paths, mine.leaves, strict=True)
        return mine.rebuild([given[owners[path]] if path in owners else leaf for path, leaf in pairs])

    def called(params: PyTree, *inputs: Any) -> Any:
        return nnx.merge(definition, with_arrays(params))(*inputs)

    known = [
        found if isinstance(found, nnx.GraphDef) else nnx.split(found)[0]
        for found in _closed_over(small.apply.graph.recipe.apply_fn, (nnx.GraphDef, nnx.Module), _NESTED)
    ]
    difference = small.module_difference(called)
    if difference is not None and known and definition not in known:
        _refuse(f"it is not the one that was traced. When it is called, {difference}")
    nnx.update(module, with_arrays(small.params))


def _refuse(difference: str | None) -> None:
    if difference is not None:
        raise ValueError(
            f"The module would not compute the same at the smaller sizes: {difference}. Build a module of "
            "these sizes, or keep to apply(params, ...), which does."
        )


def _owners(variables: Sequence[str], params: Sequence[str]) -> Mapping[str, str]:
    """For each variable its parameter, whose path may begin with more steps: as many for all of them."""
    lost = []
    for steps in range(max((path.count(SEPARATOR) for path in params), default=0) + 1):
        owners = {SEPARATOR.join(path.split(SEPARATOR)[steps:]): path for path in params}
        missing = sorted(set(params) - {owners[path] for path in owners.keys() & set(variables)})
        if not missing:
            return owners
        lost.append(missing)
    raise ValueError(
        f"The module has no variable for '{min(lost, key=len)[0]}'. Its variables are: "
        f"{', '.join(variables[:5])}."
    )


def _closed_over(function: Any, kinds: tuple[type, ...], nested: int) -> Iterator[Any]:
    """What a function holds of these kinds, in variables or in functions that it calls."""
    if isinstance(function, functools.partial):
        held = [function.func, *function.args, *function.keywords.values()]
    elif inspect.isfunction(function):
        variables = inspect.getclosurevars(function)
        held = [*variables.nonlocals.values(), *variables.globals.values()]
    else:
        held = [getattr(function, "__wrapped__", None)]
    for value in held:
        if isinstance(value, kinds):
            yield value
        elif nested and isinstance(value, Callable):
            yield from _closed_over(value, kinds, nested - 1)

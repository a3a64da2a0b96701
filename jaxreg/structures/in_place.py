"""Put smaller arrays into an NNX module."""

from typing import TYPE_CHECKING, Any

from jaxreg.tree import SEPARATOR, flatten

if TYPE_CHECKING:
    from jaxreg.structures.compaction import Compacted


def nnx_update(small: "Compacted", module: Any) -> None:
    try:
        from flax import nnx
    except ImportError as error:
        raise ImportError("NNX modules need the extra 'flax': pip install jaxreg[flax]") from error
    difference = small.module_difference()
    if difference is not None:
        raise ValueError(
            f"The module would not compute the same at the smaller sizes: {difference}. Build a module of "
            "these sizes, or keep to apply(params, ...), which does."
        )
    flat = flatten(small.params)
    new = {path: leaf for path, leaf in zip(flat.paths, flat.leaves, strict=True) if path in small.sizes}
    state = nnx.state(module)
    mine = flatten(state)
    leaves, used = [], set()
    for path, leaf in zip(mine.paths, mine.leaves, strict=True):
        owner = next((known for known in new if known == path or known.endswith(SEPARATOR + path)), None)
        leaves.append(leaf if owner is None else new[owner])
        used.add(owner)
    missing = sorted(new.keys() - used)
    if missing:
        raise ValueError(
            f"The module has no variable for '{missing[0]}'. Its variables are: {', '.join(mine.paths[:5])}."
        )
    nnx.update(module, mine.rebuild(leaves))

"""Slice trees that look like the parameters: optimizer states, averages, other copies."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxreg.structures.owners import Owner, Parameters, owners_of
from jaxreg.structures.program import Value
from jaxreg.structures.removal import Removal
from jaxreg.structures.state_fields import BESIDE_RATES, FACTORED, MOMENTS, OWN_ARRAYS, PER_RATE, PROJECTED
from jaxreg.tree import SEPARATOR, FlatTree, PyTree, flatten, is_absent, is_inexact

_SHOWN = 40  # letters of something that is no array
_REMEDY = {
    "state": "Leave 'state' out, and make it anew from the smaller parameters.",
    "opt_state": "Leave 'opt_state' out, and start it afresh: optimizer.init(small.params).",
}


def slice_like(
    tree: PyTree, parameters: Parameters, removal: Removal, name: str, folded: Collection[str] = ()
) -> PyTree:
    """Every leaf that belongs to a parameter loses what the parameter loses; counts and keys are kept.

    ``name`` is the argument's, and ``folded`` are the biases that took up constants. What cannot be sliced
    element by element is refused by its path.
    """
    flat = flatten(tree)
    if name == "opt_state":
        _check_arrays(flat)
    owners = owners_of(flat, parameters, removal, name)
    _refuse_folded(flat, owners, parameters, name, folded)
    slicing = _Slicing(flat, owners, parameters, removal, name)
    return flat.rebuild([slicing.leaf(number) for number in range(len(owners))])


def _check_arrays(flat: FlatTree) -> None:
    for path, leaf in zip(flat.paths, flat.leaves, strict=True):
        if not (is_absent(leaf) or hasattr(leaf, "dtype") or isinstance(leaf, int | float | complex)):
            raise TypeError(
                "The 'opt_state' parameter of compact must hold arrays, as optimizer.init(params) returns "
                f"them. Got {repr(leaf)[:_SHOWN]} at '{path}'."
            )


def _refuse_folded(
    flat: FlatTree, owners: list[Owner | None], parameters: Parameters, name: str, folded: Collection[str]
) -> None:
    """Constants are not folded into copies of the parameters, nor into what determines them."""
    for path, leaf, owner in zip(flat.paths, flat.leaves, owners, strict=True):
        if owner is None or owner.path not in folded:
            continue
        value = parameters.values[owner.path]
        if name == "state":
            # A copy of the parameters has kernels of its own, and so constants of its own to fold.
            raise ValueError(
                f"Constants of removed units were folded into '{owner.path}', and 'state' has a leaf of that "
                "name with constants of its own. Compact it by itself: compact(graph, state)."
            )
        if value is not None and np.shape(leaf) == value.shape and owner.field not in MOMENTS:
            raise ValueError(
                f"Constants of removed units were folded into '{owner.path}', and '{path}' of 'opt_state' "
                f"is not known to be a moment of derivatives: its field '{owner.field}' may hold parameters, "
                f"and would undo the change. {_REMEDY[name]}"
            )


class _Slicing:
    def __init__(
        self,
        flat: FlatTree,
        owners: Sequence[Owner | None],
        parameters: Parameters,
        removal: Removal,
        name: str,
    ) -> None:
        self.flat, self.owners, self.parameters = flat, owners, parameters
        self.removal, self.name = removal, name
        self.shrinks = any(value and removal.touches(value) for value in parameters.values.values())
        self.projected = any(owner is not None and owner.field == PROJECTED for owner in owners)

    def leaf(self, number: int) -> Any:
        leaf, owner = self.flat.leaves[number], self.owners[number]
        if is_absent(leaf) or np.ndim(leaf) == 0:
            return leaf
        value = None if owner is None else self.parameters.values[owner.path]
        if owner is None or value is None:
            self._expect_own_array(number)
            return leaf
        touched = self.removal.touches(value)
        if self.projected and touched:
            self._refuse(
                number, value, "GaLore's projections and the moments of what they give are no slices"
            )
        if np.shape(leaf) == value.shape:
            return self.removal.take(value, leaf)
        if np.size(leaf) > 1 and (touched or not self._may_differ(leaf, owner, value)):
            factored = owner.field in FACTORED
            why = "means over an axis are others for a shorter one" if factored else "its shape is another"
            self._refuse(number, value, why)
        return leaf

    def _may_differ(self, leaf: Any, owner: Owner, value: Value) -> bool:
        """Whether another shape is no sign of a mistake, for a parameter that loses nothing."""
        if self.shrinks:
            return owner.field in FACTORED
        return self.projected or np.ndim(leaf) != len(value.shape)

    def _expect_own_array(self, number: int) -> None:
        """Arrays that belong to no parameter, where those shrink."""
        path, leaf = self.flat.paths[number], self.flat.leaves[number]
        if not self.shrinks or not is_inexact(leaf) or self._stands_alone(path):
            return
        known = next(path for path, value in self.parameters.values.items() if value is not None)
        raise ValueError(
            f"The leaf '{path}' of shape {np.shape(leaf)} in '{self.name}' belongs to no parameter, so that "
            "it is not known how to slice it. Expected a path that ends in that of a parameter, such as "
            f"'{known}'. {_REMEDY[self.name]}"
        )

    def _stands_alone(self, path: str) -> bool:
        """Whether the leaf is known to have nothing to do with the parameters' sizes."""
        *above, field = path.split(SEPARATOR)
        if not OWN_ARRAYS.isdisjoint([*above, field]):
            return True
        start = [*above, BESIDE_RATES]
        return field in PER_RATE and any(
            other.split(SEPARATOR)[: len(start)] == start for other in self.flat.paths
        )

    def _refuse(self, number: int, value: Value, why: str) -> None:
        owner = self.owners[number]
        raise ValueError(
            f"The leaf '{self.flat.paths[number]}' of shape {np.shape(self.flat.leaves[number])} in "
            f"'{self.name}' cannot be sliced like its parameter '{owner and owner.path}' of shape "
            f"{value.shape}: {why}. {_REMEDY[self.name]}"
        )

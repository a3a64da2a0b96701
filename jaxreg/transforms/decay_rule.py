"""What weight decay takes from each leaf: a share, of the distance to where it leads."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxreg.arguments import check_flag, check_number, check_number_tree, check_rate
from jaxreg.group_kinds import Groups
from jaxreg.groups import check_groups, layers
from jaxreg.mask_algebra import Mask, View
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Leaves
from jaxreg.penalties.reference import NUMBERS
from jaxreg.penalties.shrinkage import group_norm
from jaxreg.transforms.multipliers import Multipliers, checked_multipliers
from jaxreg.transforms.new_parameters import rate_at
from jaxreg.tree import FlatTree, PyTree, as_real, is_complex, is_inexact, spread, widened

SAME = 1e-6
"""How far the same number may differ in float32 and in double precision."""


class Part(NamedTuple):
    """What the arguments say of one leaf."""

    strength: Any
    """A number or a schedule."""
    pattern: str | None
    multiplier: Any
    corrected: bool


@dataclasses.dataclass(frozen=True)
class DecayRule:
    """The arguments of :func:`jaxreg.weight_decay`, checked; see there."""

    owner: str
    strength: Any
    learning_rate: Any
    mask: Mask
    multipliers: Multipliers | None
    max_learning_rate: Any
    corrected: Mask
    cautious: bool
    toward: PyTree
    target_norm: PyTree
    groups: Groups

    def check_fit(self, flat: FlatTree) -> None:
        """Refuse masks, tables, references and groups that do not fit the parameters."""
        chosen = self.mask.indices(flat)
        self._refuse_float8(flat, chosen)
        parts = self.parts(flat, chosen).values()
        if self.multipliers is not None:
            self.multipliers.check_reach(flat, chosen)
        if self.max_learning_rate is not None and not any(part.corrected for part in parts):
            self._refuse_disjoint(flat)
        if self.toward is not None:
            self._references(flat, chosen)
        if self.target_norm is not None:
            spread(self.target_norm, flat, "target_norm", chosen)
            self.groups.resolve(flat, chosen)

    def _refuse_float8(self, flat: FlatTree, chosen: list[int]) -> None:
        for index in chosen:
            dtype = jnp.result_type(flat.leaves[index])
            if jnp.finfo(dtype).bits < 16:  # which jax promotes to no other
                raise TypeError(
                    f"The parameters of {self.owner} must have at least 16 bits. Got {dtype.name} at "
                    f"'{flat.paths[index]}': keep them wider and cast for the forward pass, or take the leaf "
                    "out of the mask."
                )

    def _refuse_disjoint(self, flat: FlatTree) -> None:
        if not View(flat).hidden:  # what optax hides, both may choose
            raise ValueError(
                f"The 'corrected' parameter of {self.owner} must choose a leaf that 'mask' chooses too. "
                f"Got corrected={self.corrected!r} with mask={self.mask!r}."
            )

    def parts(self, flat: FlatTree, chosen: list[int]) -> dict[int, Part]:
        """What is said of each chosen leaf."""
        scheduled = callable(self.strength)
        strengths = {} if scheduled else spread(self.strength, flat, "strength", chosen)
        table = self.multipliers.resolve(flat, chosen) if self.multipliers else {}
        corrected: list[bool] = []
        if self.max_learning_rate is not None:
            corrected = self.corrected.select(flat)
        return {
            index: Part(
                self.strength if scheduled else strengths[index],
                *table.get(index, (None, None)),
                corrected=bool(corrected) and corrected[index],
            )
            for index in chosen
        }

    def shares(self, flat: FlatTree, chosen: list[int], count: Any) -> Leaves:
        """The share of its distance that each leaf loses in the step after ``count`` others.

        A Python 0 is a leaf that does not decay.
        """
        strength, rate = self.strength, self.learning_rate
        if callable(strength):
            strength = widened(rate_at(strength, count, self.owner, "strength"))
        if rate is not None:
            rate = widened(rate_at(rate, count, self.owner, "learning_rate"))
        found = {}
        for index, part in self.parts(flat, chosen).items():
            if isinstance(part.multiplier, int | float) and part.multiplier == 0:
                found[index] = 0.0  # also of a schedule
                continue
            share = strength if callable(part.strength) else widened(part.strength)
            if part.multiplier is not None:
                share = share * widened(part.multiplier)
            if rate is not None:
                share = share * rate
            if part.corrected:
                share = share * (rate / widened(self.max_learning_rate))
            found[index] = share
        return found

    def distances(self, flat: FlatTree, leaves: Leaves) -> Leaves:
        """For each leaf, in computing precision, how far it is from where the decay leads."""
        if self.toward is not None:
            references = self._references(flat, list(leaves))
            return {index: leaf - references[index] for index, leaf in leaves.items()}
        if self.target_norm is None:
            return dict(leaves)
        targets = spread(self.target_norm, flat, "target_norm", list(leaves))
        found = {}
        for cluster in self.groups.resolve(flat, list(leaves)):
            indices, views = zip(*cluster, strict=True)
            norms = group_norm([leaves[index] for index in indices], views)
            target = as_real(targets[indices[0]], leaves[indices[0]])
            # A group of zeros has no direction to grow in.
            share = jnp.where(norms == 0, 0.0, target / jnp.where(norms == 0, 1.0, norms))
            for index, view in cluster:
                found[index] = leaves[index] * (1 - view.broadcast(share))
        return found

    def _references(self, flat: FlatTree, chosen: list[int]) -> Leaves:
        given = spread(self.toward, flat, "toward", chosen)
        return {index: self._reference(given[index], index, flat) for index in chosen}

    def _reference(self, given: Any, index: int, flat: FlatTree) -> Any:
        leaf, path = flat.leaves[index], flat.paths[index]
        if np.shape(given) not in ((), np.shape(leaf)):
            raise ValueError(
                f"The 'toward' parameter of {self.owner} must have the shapes of the parameters. Got "
                f"{np.shape(given)} at '{path}', where the parameter has {np.shape(leaf)}."
            )
        if is_complex(given) and not is_complex(leaf):
            raise ValueError(
                f"The 'toward' parameter of {self.owner} is complex at '{path}', and the parameter is not."
            )
        return jnp.asarray(given, jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def checked_rule(
    owner: str,
    strength: Any,
    *,
    learning_rate: Any = None,
    mask: Any = None,
    multipliers: Any = None,
    max_learning_rate: Any = None,
    corrected: Any = None,
    cautious: bool = False,
    toward: PyTree = None,
    target_norm: PyTree = None,
    groups: Groups | None = None,
) -> DecayRule:
    """The rule of :func:`jaxreg.weight_decay`'s arguments, refused where they are wrong."""
    if not callable(strength):
        strength = check_number_tree(strength, "strength", owner)
    if learning_rate is not None:
        check_rate(learning_rate, "learning_rate", owner)
    _check_correction(owner, learning_rate, max_learning_rate, corrected)
    if toward is not None:
        _check_reference(owner, toward, target_norm)
    if target_norm is not None:
        target_norm = check_number_tree(target_norm, "target_norm", owner)
    elif groups is not None:
        raise ValueError(
            f"The 'groups' parameter of {owner} says whose norm 'target_norm' is, and needs it. "
            f"Got {groups!r}."
        )
    return DecayRule(
        owner,
        strength,
        learning_rate,
        as_mask(mask),
        None if multipliers is None else checked_multipliers(multipliers, owner),
        max_learning_rate,
        as_mask(corrected),
        check_flag(cautious, "cautious", owner),
        toward,
        target_norm,
        layers() if groups is None else check_groups(groups, "groups", owner),
    )


def slack(number: Any) -> float:
    """How far this number may be from the same number in another precision, as a share."""
    narrow = is_inexact(number) and hasattr(number, "dtype")
    return max(SAME, float(jnp.finfo(number.dtype).eps)) if narrow else SAME


def _check_correction(owner: str, learning_rate: Any, largest: Any, corrected: Any) -> None:
    if largest is None:
        if corrected is not None:
            raise ValueError(
                f"The 'corrected' parameter of {owner} says where 'max_learning_rate' holds, and needs it. "
                f"Got {corrected!r}."
            )
        return
    check_number(largest, "max_learning_rate", owner, open_low=True)
    if learning_rate is None:
        raise ValueError(
            f"The 'max_learning_rate' parameter of {owner} needs 'learning_rate'. "
            f"Got {largest!r} without one."
        )
    if any(callable(number) or isinstance(number, Tracer) for number in (learning_rate, largest)):
        return
    if float(learning_rate) > float(largest) * (1 + max(map(slack, (learning_rate, largest)))):
        raise ValueError(
            f"The 'learning_rate' parameter of {owner} must be at most 'max_learning_rate', "
            f"{float(largest):g}. Got {float(learning_rate):g}."
        )


def _check_reference(owner: str, toward: PyTree, target_norm: PyTree) -> None:
    if target_norm is not None:
        raise ValueError(
            f"The 'toward' and 'target_norm' parameters of {owner} are two places to decay to: give one."
        )
    leaves = jax.tree.leaves(toward)
    wrong = [leaf for leaf in leaves if not (isinstance(leaf, NUMBERS) or is_inexact(leaf))]
    if wrong or not leaves:
        raise TypeError(
            f"The 'toward' parameter of {owner} must be a pytree of arrays like the parameters, or a "
            f"number. Got {wrong[0] if wrong else toward!r}."
        )

"""Penalties on how far the parameters are from a reference, such as pretrained weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.penalties.base import Leaves, Term, TermPenalty, checked_strength
from jaxreg.tree import FlatTree, is_complex, is_inexact, spread, upcast

NUMBERS = (int, float, complex, jax.Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class ReferenceTerm(Term):
    """A leaf with its reference, in the leaf's precision."""

    reference: Any


@dataclasses.dataclass(frozen=True)
class ReferencePenalty(TermPenalty):
    """A penalty on ``w - reference``; the reference is a pytree like the parameters, or a prefix of it."""

    reference: Any

    def _terms(self, flat: FlatTree) -> list[Term]:
        terms = super()._terms(flat)
        indices = [index for term in terms for index in term.indices]
        references = spread(self.reference, flat, "reference", indices)
        return [
            ReferenceTerm(term.indices, (), term.strength, self._fitted(references[index], index, flat))
            for term, index in zip(terms, indices, strict=True)
        ]

    def references_of(self, flat: FlatTree) -> Leaves:
        terms = [term for term in self.terms(flat) if isinstance(term, ReferenceTerm)]
        return {term.indices[0]: term.reference for term in terms}

    def _fitted(self, reference: Any, index: int, flat: FlatTree) -> Any:
        leaf, path = flat.leaves[index], flat.paths[index]
        if np.shape(reference) not in ((), np.shape(leaf)):
            raise ValueError(
                f"The 'reference' parameter of {self.kind} must have the shapes of the parameters. Got "
                f"{np.shape(reference)} at '{path}', where the parameter has {np.shape(leaf)}."
            )
        if is_complex(reference) and not is_complex(leaf):
            raise ValueError(
                f"The 'reference' parameter of {self.kind} is complex at '{path}', and the parameter is not."
            )
        if isinstance(reference, int | float | complex) and not isinstance(reference, np.generic):
            return reference  # weakly typed, as Python numbers are
        return jnp.asarray(reference, upcast(leaf).dtype)


def checked_reference(strength: Any, reference: Any, mask: Any, owner: str) -> dict[str, Any]:
    """The fields of a penalty with a reference, checked; shapes are checked where parameters are seen."""
    leaves = jax.tree.leaves(reference)
    # Whole numbers may stand beside the weights, as step counts do.
    wrong = [leaf for leaf in leaves if not isinstance(leaf, NUMBERS) and not is_inexact(leaf)]
    if wrong or not leaves:
        raise TypeError(
            f"The 'reference' parameter of {owner} must be a pytree of arrays like the parameters, or a "
            f"number. Got {wrong[0] if wrong else reference!r}."
        )
    return checked_strength(strength, mask, owner) | {"reference": _floating(reference)}


def _floating(reference: Any) -> Any:
    # A Python integer could be neither differentiated nor traced as the float that it stands for.
    return jax.tree.map(lambda leaf: float(leaf) if type(leaf) is int else leaf, reference)

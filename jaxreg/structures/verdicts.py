"""What the walk through a program says about the units of a group."""

import dataclasses

import numpy as np

from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.facts import Known
from jaxreg.structures.program import Operation


@dataclasses.dataclass(frozen=True)
class Fold:
    """A product over units that hold known constants other than zero: what they add is a constant."""

    operation: Operation
    place: int
    """The input that is constant."""
    axis: int
    unit: Dimension
    constants: Known
    needed: np.ndarray
    """The units that this product keeps from going as they are."""


@dataclasses.dataclass(frozen=True)
class Objection:
    """An operation that sees more than nothing in some units, and the constants that it sees."""

    operation: Operation | None
    """None for the caller, who sees the outputs."""
    units: np.ndarray
    constants: Known | None

    def text(self, unit: int) -> str:
        if self.operation is None:
            return "an output of the function holds more than zeros"
        if self.constants is None or not self.constants.mask[unit]:
            return f"{self.operation.where()} meets more than zeros"
        return (
            f"{self.operation.where()} meets the constant {self.constants.values[unit]:g}, with no bias "
            "behind it that could take that up"
        )


@dataclasses.dataclass
class Verdict:
    """Of one group: for each unit whether it may go as it is, why not, and what would have to be folded."""

    exact: np.ndarray
    foldable: np.ndarray
    read: bool = False
    """Whether any operation depends on the units being zero, or on anything else."""
    objections: list[Objection] = dataclasses.field(default_factory=list)
    folds: list[Fold] = dataclasses.field(default_factory=list)

    def reasons(self, unit: int) -> list[str]:
        found = [objection.text(unit) for objection in self.objections if objection.units[unit]]
        return list(dict.fromkeys(found))

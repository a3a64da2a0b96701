"""A penalty at strength 1, so that a factor on it is a strength."""

import dataclasses

import numpy as np

from jaxreg.penalties import Penalty
from jaxreg.penalties.base import TermPenalty
from jaxreg.penalties.protected import Protected
from jaxreg.tree import is_container


def at_strength_one(penalty: Penalty) -> Penalty:
    """The penalty at strength 1, where it has one number for it; others as they are."""
    if isinstance(penalty, Protected):
        return dataclasses.replace(penalty, penalty=at_strength_one(penalty.penalty))
    if isinstance(penalty, TermPenalty) and not is_container(penalty.strength):
        return dataclasses.replace(penalty, strength=1.0) if np.ndim(penalty.strength) == 0 else penalty
    return penalty

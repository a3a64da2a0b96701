"""Choosing a strength."""

from jaxreg.tuning.strength_max import strength_max

__all__ = ["strength_max"]

"""Penalties in NumPy, one group at a time; they know nothing of jaxreg."""

from typing import Any

import jax
import numpy as np

SHAPE = (8, 4)
"""Of the leaf "kernel", the one that every penalty of the registry reaches."""


def columns() -> list[np.ndarray]:
    return _labels(np.broadcast_to(np.arange(SHAPE[1]), SHAPE))


def rows() -> list[np.ndarray]:
    return _labels(np.broadcast_to(np.arange(SHAPE[0])[:, None], SHAPE))


def tiles(height: int, width: int) -> list[np.ndarray]:
    row, column = np.indices(SHAPE)
    return _labels((row // height) * SHAPE[1] + column // width)


def stripes(stride: int) -> list[np.ndarray]:
    row, column = np.indices(SHAPE)
    return _labels((row % stride) * SHAPE[1] + column)


def _labels(labels: np.ndarray) -> list[np.ndarray]:
    return [labels == label for label in np.unique(labels)]


def absolute(w: np.ndarray) -> float:
    return float(np.sum(np.abs(w)))


def squared(w: np.ndarray) -> float:
    return float(np.sum(np.abs(w) ** 2))


def norms(w: np.ndarray, members: list[np.ndarray], weighted: bool = True) -> float:
    return float(sum(np.sqrt(m.sum() if weighted else 1.0) * np.sqrt(squared(w[m])) for m in members))


def times(factor: float, strength: Any) -> Any:
    """A strength, or a tree with one per leaf, times a factor."""
    return jax.tree.map(lambda value: factor * value, strength)


def mcp(r: np.ndarray, strength: Any, gamma: float = 2.5) -> np.ndarray:
    return np.where(r < gamma * strength, strength * r - r**2 / (2 * gamma), gamma * strength**2 / 2)


def scad(r: np.ndarray, strength: Any, gamma: float = 3.7) -> np.ndarray:
    middle = (2 * gamma * strength * r - r**2 - strength**2) / (2 * (gamma - 1))
    flat = strength**2 * (gamma + 1) / 2
    return np.where(r <= strength, strength * r, np.where(r <= gamma * strength, middle, flat))


def huber(r: np.ndarray, strength: Any, delta: float = 0.6) -> np.ndarray:
    return strength * np.where(r < delta, r**2 / (2 * delta), r - delta / 2)

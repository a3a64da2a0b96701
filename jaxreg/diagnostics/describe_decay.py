"""A table of which weights decay, by how much, and why."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jax.core import Tracer

from jaxreg import masks
from jaxreg.mask_algebra import View
from jaxreg.tables import text_table
from jaxreg.transforms.decay_rule import DecayRule, Part, checked_rule
from jaxreg.tree import PyTree, flatten

HEADERS = ("leaf", "shape", "dtype", "strength", "per step", "rule")
INVERTED = "No weights decay, only biases, norms or embeddings: is the mask inverted?"

NOTHING = "Nothing decays: the strength, the learning rate or each multiplier is 0."


@dataclasses.dataclass(frozen=True)
class DecayRow:
    """What is decayed of one leaf.

    ``strength`` (multiplier included) and ``per_step`` (learning rate and correction too) are numbers;
    None where a schedule or a traced value is in them. A leaf with ``per_step`` 0 does not decay.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    strength: float | None
    per_step: float | None
    rule: str


@dataclasses.dataclass(frozen=True)
class DecayDescription:
    """What :func:`describe_decay` returns: ``print`` it, give it to rich, or read ``rows``."""

    rows: tuple[DecayRow, ...]
    summary: str

    def __str__(self) -> str:
        return text_table(HEADERS, map(_cells, self.rows)) + "\n" + self.summary

    def __rich__(self) -> Any:
        try:
            from rich.box import SIMPLE_HEAD
            from rich.markup import escape
            from rich.table import Table
        except ImportError as error:
            raise ImportError("A rich table needs the extra 'tables': pip install jaxreg[tables]") from error
        table = Table(
            title="Weight decay", caption=escape(self.summary), box=SIMPLE_HEAD, collapse_padding=True
        )
        for position, header in enumerate(HEADERS):
            # Paths and numbers stay whole in 80 columns.
            side = "right" if position in (3, 4) else "left"
            table.add_column(header.replace(" ", "\n"), justify=side, no_wrap=position < 5)
        for row in self.rows:
            table.add_row(*map(escape, _cells(row)), style="dim" if row.per_step == 0 else "")
        return table


def describe_decay(
    strength: Any,
    params: PyTree,
    *,
    learning_rate: Any = None,
    mask: Any = None,
    multipliers: Any = None,
    max_learning_rate: Any = None,
    corrected: Any = None,
) -> DecayDescription:
    """Say which leaves :func:`jaxreg.weight_decay` would decay, by how much, and by which rule.

    Args:
        strength: as in :func:`jaxreg.weight_decay`.
        params: a pytree of arrays or of their shapes.
        learning_rate: as there.
        mask: as there.
        multipliers: as there.
        max_learning_rate: as there.
        corrected: as there.

    Returns:
        A description: ``print`` it for a table, ``rich.print`` for a coloured one (extra ``tables``);
        ``.rows``, one per leaf, hold the numbers. ``per step`` is the share of a weight that goes in a
        step. The last lines count what decays, and say so if that is no weight at all.

    Raises:
        TypeError, ValueError: for bad arguments, a mask that selects nothing, and a table of multipliers
            that leaves out a leaf or has a pattern for none.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"embed": jnp.ones((5, 2)), "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> multipliers = {"embed": 0.5, "**/kernel": 1.0}
        >>> print(jaxreg.describe_decay(
        ...     0.1, params, learning_rate=0.01, mask=~jaxreg.masks.biases, multipliers=multipliers))
        leaf          shape   dtype    strength  per step  rule
        ------------  ------  -------  --------  --------  -----------------------------
        dense/bias    (3,)    float32         -         -  role biases: leaf name 'bias'
        dense/kernel  (2, 3)  float32       0.1     0.001  '**/kernel': times 1
        embed         (5, 2)  float32      0.05    0.0005  'embed': times 0.5
        2 of 3 floating-point leaves decay, 16 of 19 elements
    """
    rule = checked_rule(
        "describe_decay",
        strength,
        learning_rate=learning_rate,
        mask=mask,
        multipliers=multipliers,
        max_learning_rate=max_learning_rate,
        corrected=corrected,
    )
    flat = flatten(params)
    if flat.has_floating:
        rule.check_fit(flat)
    parts = rule.parts(flat, rule.mask.indices(flat))
    described = masks.describe(rule.mask, params).rows
    rows = []
    for index, row in enumerate(described):
        part = parts.get(index)
        numbers = (0.0, 0.0) if part is None else _numbers(part, rule)
        reason = row.rule if part is None else _reason(part, row.rule)
        rows.append(DecayRow(row.path, row.shape, row.dtype, *numbers, reason))
    return DecayDescription(tuple(rows), _summary(rows, View(flat)))


def _numbers(part: Part, rule: DecayRule) -> tuple[float | None, float | None]:
    """The strength of a leaf and its share per step, None where they are not known yet."""
    strength = _product(part.strength, 1.0 if part.multiplier is None else part.multiplier)
    rate = rule.learning_rate
    if rate is None:
        return strength, strength
    correction = _product(rate, 1 / rule.max_learning_rate) if part.corrected else 1.0
    return strength, _product(strength, rate, correction)


def _product(*factors: Any) -> float | None:
    known = [
        float(factor)
        for factor in factors
        if not (factor is None or callable(factor) or isinstance(factor, Tracer))
    ]
    if 0.0 in known:  # times whatever a schedule gives
        return 0.0
    return math.prod(known) if len(known) == len(factors) else None


def _reason(part: Part, of_mask: str) -> str:
    if part.pattern is None:
        reason = of_mask
    else:
        times = "a traced number" if isinstance(part.multiplier, Tracer) else f"{part.multiplier:g}"
        reason = f"{part.pattern!r}: times {times}"
    return reason + ("; corrected" if part.corrected else "")


def _cells(row: DecayRow) -> Sequence[str]:
    numbers = ("schedule" if x is None else f"{x:g}" if x else "-" for x in (row.strength, row.per_step))
    return (row.path, str(row.shape), row.dtype, *numbers, row.rule)


def _summary(rows: Sequence[DecayRow], view: View) -> str:
    floating = [row for row, counts in zip(rows, view.floating, strict=True) if counts]
    decayed = [row for row in floating if row.per_step != 0]
    sizes = [sum(math.prod(row.shape) for row in group) for group in (decayed, floating)]
    summary = (
        f"{len(decayed)} of {len(floating)} floating-point leaves decay, "
        f"{sizes[0]:,} of {sizes[1]:,} elements"
    )
    is_weight = [ok and hit for ok, (hit, _) in zip(view.floating, masks.weights.judge(view), strict=True)]
    if not decayed:
        return f"{summary}\n{NOTHING}"
    hit = any(row.per_step != 0 and weight for row, weight in zip(rows, is_weight, strict=True))
    return summary if hit or not any(is_weight) else f"{summary}\n{INVERTED}"

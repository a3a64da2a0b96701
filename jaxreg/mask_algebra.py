"""What every mask is: a choice of leaves that combines with ``&``, ``|`` and ``~``."""

import abc
import dataclasses
import functools

import optax

from jaxreg import patterns, roles, tree
from jaxreg.arguments import refuse_step_count
from jaxreg.tree import FlatTree, PyTree, is_absent, is_inexact

# Whether a leaf is in, and which rule said so.
Verdict = tuple[bool, str]


class Mask(abc.ABC):
    """A choice of leaves, made from a tree's structure, shapes and dtypes alone."""

    def __call__(self, params: PyTree) -> PyTree:
        """Mark the chosen leaves.

        Args:
            params: a pytree of arrays or of their shapes; ``None``, masked-out nodes and
                leaves that are not floating-point are allowed and never chosen.

        Returns:
            A pytree of Python bools with the structure of ``params``.

        Raises:
            ValueError: if a pattern matches no leaf, or the mask chooses none.
            TypeError: if called with a step count instead of parameters.
        """
        refuse_step_count(params, f"The mask {self}")
        flat = tree.flatten(params)
        chosen = self.select(flat)
        return flat.rebuild(
            [leaf if is_absent(leaf) else hit for leaf, hit in zip(flat.leaves, chosen, strict=True)]
        )

    def select(self, flat: FlatTree) -> list[bool]:
        """One bool per leaf of ``flat``, absent leaves included."""
        view = View(flat)
        chosen = [ok and hit for ok, (hit, _) in zip(view.floating, self.judge(view), strict=True)]
        if not any(chosen) and view.must_choose:
            raise ValueError(
                f"The mask {self} selects no leaf of the parameters. "
                f"Their paths are: {patterns.abridged(flat.paths)}."
            )
        return chosen

    def indices(self, flat: FlatTree) -> list[int]:
        """Where :meth:`select` is true."""
        return [index for index, chosen in enumerate(self.select(flat)) if chosen]

    @abc.abstractmethod
    def judge(self, view: "View") -> list[Verdict]:
        """One verdict per leaf; those on leaves that cannot be chosen are ignored."""

    @abc.abstractmethod
    def __repr__(self) -> str: ...

    def __and__(self, other: "Mask") -> "Mask":
        return AllOf(_parts(AllOf, self, other)) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: "Mask") -> "Mask":
        return AnyOf(_parts(AnyOf, self, other)) if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> "Mask":
        return Not(self)

    def __bool__(self) -> bool:
        # `a and not b` would silently be one of the two masks.
        raise TypeError("A mask is neither true nor false: combine masks with &, | and ~.")


@dataclasses.dataclass(frozen=True)
class View:
    """A flattened tree with what masks ask about it, worked out once."""

    flat: FlatTree

    @functools.cached_property
    def floating(self) -> list[bool]:
        return [not is_absent(leaf) and is_inexact(leaf) for leaf in self.flat.leaves]

    @functools.cached_property
    def names(self) -> list[str]:
        return [path.rpartition(tree.SEPARATOR)[2] for path in self.flat.paths]

    @functools.cached_property
    def roles(self) -> list[tuple[str, str]]:
        return roles.classify(self.flat)

    @functools.cached_property
    def hidden(self) -> list[str]:
        """Paths of what optax has masked out: leaves, or subtrees as a whole."""
        pairs = zip(self.flat.paths, self.flat.leaves, strict=True)
        return [path for path, leaf in pairs if isinstance(leaf, optax.MaskedNode)]

    @property
    def must_choose(self) -> bool:
        # Under optax.partition the leaves a mask is about may be in another's part.
        return any(self.floating) and not self.hidden


@dataclasses.dataclass(frozen=True, repr=False)
class AllOf(Mask):
    """Leaves that every part chooses."""

    parts: tuple[Mask, ...]

    def judge(self, view: View) -> list[Verdict]:
        return [
            _conjunction(verdicts)
            for verdicts in zip(*(part.judge(view) for part in self.parts), strict=True)
        ]

    def __repr__(self) -> str:
        return " & ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)


@dataclasses.dataclass(frozen=True, repr=False)
class AnyOf(Mask):
    """Leaves that some part chooses."""

    parts: tuple[Mask, ...]

    def judge(self, view: View) -> list[Verdict]:
        return [
            _disjunction(verdicts)
            for verdicts in zip(*(part.judge(view) for part in self.parts), strict=True)
        ]

    def __repr__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclasses.dataclass(frozen=True, repr=False)
class Not(Mask):
    """Leaves that the inner mask does not choose."""

    inner: Mask

    def judge(self, view: View) -> list[Verdict]:
        return [(not hit, rule) for hit, rule in self.inner.judge(view)]

    def __invert__(self) -> Mask:
        return self.inner

    def __repr__(self) -> str:
        return f"~({self.inner})" if isinstance(self.inner, AllOf | AnyOf) else f"~{self.inner}"


def _parts(kind: "type[AllOf | AnyOf]", *masks: Mask) -> tuple[Mask, ...]:
    # Flattened, so that (a & b) & c and a & (b & c) are equal.
    out: list[Mask] = []
    for mask in masks:
        out.extend(mask.parts if isinstance(mask, kind) else (mask,))
    return tuple(out)


def _conjunction(verdicts: tuple[Verdict, ...]) -> Verdict:
    refusal = next((verdict for verdict in verdicts if not verdict[0]), None)
    return refusal or (True, "; ".join(rule for _, rule in verdicts))


def _disjunction(verdicts: tuple[Verdict, ...]) -> Verdict:
    approval = next((verdict for verdict in verdicts if verdict[0]), None)
    return approval or (False, "; ".join(rule for _, rule in verdicts))

"""Glob patterns over leaf paths, where a pattern that matches nothing is an error."""

import difflib
import functools
import re
from collections.abc import Sequence

from jaxreg.tree import SEPARATOR

_SHOWN = 5


def check(owner: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """The patterns as a tuple, refused when there is none or one is malformed."""
    if not patterns:
        raise ValueError(f"{owner} takes at least one pattern. Got none.")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"The patterns of {owner} must be strings. Got {pattern!r}.")
        compiled(pattern)
    return tuple(patterns)


def matches(pattern: str, paths: Sequence[str], owner: str, hidden: Sequence[str] = ()) -> list[int]:
    """Indices of the paths that the whole pattern matches.

    Args:
        pattern: a glob: ``*``, ``?`` and ``[...]`` within a segment, ``**`` for any
            number of segments.
        paths: the paths of a tree's leaves, absent ones included.
        owner: who asks, for the error message.
        hidden: paths of masked-out nodes; one may stand for a whole subtree, as
            optax.partition makes it, so what could match below it is not missed.

    Returns:
        The indices, in order; empty only where a match may be hidden.

    Raises:
        ValueError: if there is no such path. The nearest paths are named.

    Examples:
        >>> from jaxreg import patterns
        >>> patterns.matches("**/kernel", ["kernel", "dense/bias", "dense/kernel"], "this test")
        [0, 2]
    """
    fullmatch = compiled(pattern).fullmatch
    found = [index for index, path in enumerate(paths) if fullmatch(path)]
    if not found and not any(_may_match_below(pattern, path) for path in hidden):
        raise ValueError(
            f"The pattern {pattern!r} of {owner} matches no leaf. "
            f"The nearest are: {_nearest(pattern, paths)}."
        )
    return found


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression for ``fullmatch``."""
    segments = []
    for segment in pattern.split(SEPARATOR):
        if segment != "**" or segments[-1:] != ["**"]:
            segments.append(segment)
    expression = ""
    for position, segment in enumerate(segments):
        is_last = position == len(segments) - 1
        if segment != "**":
            expression += _segment(segment) + (
                "" if is_last or segments[position + 1 :] == ["**"] else SEPARATOR
            )
        elif not is_last:
            expression += f"(?:[^{SEPARATOR}]*{SEPARATOR})*"
        else:
            # `head/**` is also `head` itself, where that is an array.
            expression += f"(?:{SEPARATOR}.*)?" if position else ".*"
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as error:
        raise ValueError(f"The pattern {pattern!r} is malformed: {error}.") from error


def abridged(paths: Sequence[str], shown: int = 10) -> str:
    """The first few paths, and how many are left."""
    rest = f" and {len(paths) - shown} more" if len(paths) > shown else ""
    return ", ".join(repr(path) for path in paths[:shown]) + rest


def _may_match_below(pattern: str, path: str) -> bool:
    segments = pattern.split(SEPARATOR)
    return any(compiled(SEPARATOR.join(segments[:end])).fullmatch(path) for end in range(1, len(segments)))


def _segment(segment: str) -> str:
    inside = f"[^{SEPARATOR}]"
    out = ""
    position = 0
    while position < len(segment):
        character = segment[position]
        closing = segment.find("]", position + 2) if character == "[" else -1
        if closing > 0:
            out += _character_class(segment[position + 1 : closing])
            position = closing
        else:
            out += {"*": inside + "*", "?": inside}.get(character, re.escape(character))
        position += 1
    return out


def _character_class(body: str) -> str:
    negated = body.startswith("!")
    # Hyphens keep their meaning, everything else that re would read is escaped.
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", body[negated:])
    return f"(?!{SEPARATOR})[{'^' if negated else ''}{escaped}]"


def _nearest(pattern: str, paths: Sequence[str]) -> str:
    candidates = list(dict.fromkeys(paths))
    if not candidates:
        return "none, the tree has no leaves"
    plain = re.sub(r"[*?\[\]]", "", pattern).strip(SEPARATOR)
    close = difflib.get_close_matches(plain, candidates, n=_SHOWN, cutoff=0.5)
    return ", ".join(map(repr, close)) if close else abridged(candidates, _SHOWN)

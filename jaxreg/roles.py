"""Tell weights, biases, norm parameters and embeddings apart, in every framework's models."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreg.tree import SEPARATOR, FlatTree, is_absent, is_variable_box

WEIGHTS = "weights"
BIASES = "biases"
NORMS = "norms"
EMBEDDINGS = "embeddings"
STATISTICS = "statistics"
OTHER = "other"

_DENSE_CLASS = re.compile(r"(Linear|Dense|Conv|Convolution|Einsum|Cell|Attention|LoRA|Lora)(?![a-z])")
_NORM_CLASS = re.compile(r"Norm(?![a-z])|Normali[sz]ation")
_EMBED_CLASS = re.compile(r"Embed(s|dings?|der)?(?![a-z])")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_STATISTICS_PAIRS = (
    ("mean", "var"),
    ("running_mean", "running_var"),
    ("moving_mean", "moving_variance"),
    ("u", "sigma"),  # Linen's SpectralNorm
)
_PARTNERS = {name: pair for pair in _STATISTICS_PAIRS for name in pair}


def classify(flat: FlatTree) -> list[tuple[str, str]]:
    """The role of each leaf and what decided it, in the order of ``flat.leaves``.

    The evidence, strongest first: the class of the module object that holds the
    leaf (where the tree has such objects), the leaf's name, the names and shapes
    beside it, its parent's name, its number of axes. Values are never looked at,
    because optax calls masks on updates as well as on parameters.

    Args:
        flat: a tree of arrays of any kind, absent leaves included: the name of an
            absent leaf is still evidence about its siblings.

    Returns:
        A role and a reason per leaf, such as ``("norms", "beside 'scale'")``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxreg import roles, tree
        >>> flat = tree.flatten({"ln": {"bias": jnp.zeros(3), "scale": jnp.ones(3)}})
        >>> roles.classify(flat)
        [('norms', "beside 'scale'"), ('norms', "leaf name 'scale'")]
    """
    places = [path.rpartition(SEPARATOR) for path in flat.paths]
    found: dict[str, dict[str, Any]] = {}
    for (parent, _, name), leaf in zip(places, flat.leaves, strict=True):
        found.setdefault(parent, {})[name] = leaf
    surroundings = {parent: _surroundings(parent, leaves) for parent, leaves in found.items()}
    modules = _enclosing_modules(flat.treedef)
    return [
        _role(name, leaf, module, surroundings[parent])
        for (parent, _, name), leaf, module in zip(places, flat.leaves, modules, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class _Surroundings:
    """What the leaves of one module say about each other."""

    parent: str
    names: frozenset[str]
    gain: str | None  # the name of a scale among them
    has_bias: bool
    has_matrix: bool  # a kernel, or a weight with more axes than its bias
    is_affine: bool  # a weight of its bias's shape: they act element by element


@dataclasses.dataclass(frozen=True)
class _Module:
    name: str
    kind: str


def _role(name: str, leaf: Any, module: _Module | None, near: _Surroundings) -> tuple[str, str]:
    kind = module.kind if module else None
    says = _name_kind(name)
    named = f"leaf name '{name}'"
    if kind == STATISTICS or (name in _PARTNERS and near.names.issuperset(_PARTNERS[name])):
        return STATISTICS, "running statistics"
    if says == "embedding":
        return EMBEDDINGS, named
    if says == "kernel":
        return WEIGHTS, named
    if _is_norm_name(name):
        return NORMS, named
    if module and kind == NORMS:
        return NORMS, f"module {module.name}"
    if module and kind == EMBEDDINGS and says in ("weight", None):
        return EMBEDDINGS, f"module {module.name}"
    if says == "scale":
        return NORMS, named
    plain = {"weight": WEIGHTS, "bias": BIASES, "shift": BIASES}
    if says in plain and (kind == WEIGHTS or near.has_matrix):
        return plain[says], named
    return _role_from_surroundings(name, says, leaf, near) or (
        (plain[says], named) if says in plain else _role_from_axes(leaf)
    )


def _role_from_surroundings(
    name: str, says: str | None, leaf: Any, near: _Surroundings
) -> tuple[str, str] | None:
    if says in ("bias", "shift"):
        if near.gain:
            return NORMS, f"beside '{near.gain}'"
        if near.names.issuperset(("mean", "var")):
            return NORMS, "beside 'mean' and 'var'"
    # A matrix below a name like `norm_mlp` or `prenorm` is no scale, unless it is called like one.
    matrix = name != "weight" and says in ("weight", None) and len(_shape(leaf) or ()) >= 2
    if _is_norm_name(near.parent) and not matrix:
        return NORMS, f"parent name '{near.parent}'"
    if near.is_affine and name in ("weight", "bias"):
        return NORMS, "'weight' and 'bias' of one shape"
    # An embedding has no bias; a convolution that is called `patch_embed` has one.
    if name == "weight" and not near.has_bias and _is_embedding_name(near.parent):
        return EMBEDDINGS, f"parent name '{near.parent}'"
    return None


def _role_from_axes(leaf: Any) -> tuple[str, str]:
    axes = len(_shape(leaf) or ())
    return (WEIGHTS if axes >= 2 else OTHER), f"{axes} {'axis' if axes == 1 else 'axes'}"


def _surroundings(parent: str, leaves: Mapping[str, Any]) -> _Surroundings:
    kinds = {name: _name_kind(name) for name in leaves}
    biases = [len(_shape(leaves[n]) or ()) for n, kind in kinds.items() if kind in ("bias", "shift")]
    weights = [len(_shape(leaves[n]) or ()) for n, kind in kinds.items() if kind == "weight"]
    weight, bias = _shape(leaves.get("weight")), _shape(leaves.get("bias"))
    return _Surroundings(
        parent=_own_name(parent),
        names=frozenset(leaves),
        gain=next((name for name, kind in kinds.items() if kind == "scale"), None),
        has_bias=bool(biases),
        has_matrix="kernel" in kinds.values() or bool(biases and weights and max(weights) > max(biases)),
        # One feature in and one out gives equal shapes as well, so (1,) says nothing.
        is_affine=weight is not None and weight == bias and any(size > 1 for size in weight),
    )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return None if is_absent(leaf) else getattr(leaf, "shape", ())


def _own_name(path: str) -> str:
    """The last step of a path that is a name, not an index or haiku's ``~``."""
    steps = (step for step in reversed(path.split(SEPARATOR)) if not step.isdigit() and step != "~")
    return next(steps, "")


@functools.lru_cache(maxsize=4096)
def _name_kind(name: str) -> str | None:
    words = _words(name)
    if not words:
        return None
    first, last = words[0], words[-1]
    if last in ("bias", "biases") or first in ("bias", "biases", "b"):
        return "bias"
    if "kernel" in (first, last) or first == "lora":
        return "kernel"
    if _is_embedding_name(name) or last in ("token", "tokens") or name == "cls":
        return "embedding"
    if first in ("w", "weight", "weights") or last in ("weight", "weights"):
        return "weight"
    if words in (["scale"], ["gamma"], ["gain"]):
        return "scale"
    return "shift" if words in (["offset"], ["beta"], ["shift"]) else None


@functools.lru_cache(maxsize=4096)
def _is_norm_name(name: str) -> bool:
    return any(
        word in ("ln", "bn", "gn") or word.endswith(("norm", "norms", "normalization", "normalisation"))
        for word in _words(name)
    )


@functools.lru_cache(maxsize=4096)
def _is_embedding_name(name: str) -> bool:
    return any(
        word.startswith("embed") or word in ("emb", "posemb", "pos", "position", "positional", "wte", "wpe")
        for word in _words(name)
    )


def _words(name: str) -> list[str]:
    """``"LayerNorm_0"`` as ``["layer", "norm"]``."""
    return [word.lower() for word in _WORD.findall(name)]


def _enclosing_modules(treedef: Any) -> list[_Module | None]:
    """For each leaf, the nearest object around it that is more than a container.

    It is read from the tree's structure and by class name, so that no framework
    need be imported.
    """
    known: dict[type, _Module | None] = {}
    found: list[_Module | None] = []

    def visit(node: Any, around: _Module | None) -> None:
        data = node.node_data()
        if data is None:
            found.extend([around] * node.num_leaves)
            return
        cls = data[0]
        if cls not in known:
            known[cls] = None if _is_plain_container(cls) else _module(cls)
        for child in node.children():
            visit(child, known[cls] or around)

    visit(treedef, None)
    return found


def _module(cls: type) -> _Module:
    kinds = ((_DENSE_CLASS, WEIGHTS), (_NORM_CLASS, NORMS), (_EMBED_CLASS, EMBEDDINGS))
    for base in cls.__mro__:
        if base.__name__ == "StateIndex":  # where equinox keeps the averages of its BatchNorm
            return _Module(cls.__name__, STATISTICS)
        for pattern, kind in kinds:
            if pattern.search(base.__name__):
                return _Module(cls.__name__, kind)
    return _Module(cls.__name__, OTHER)


def _is_plain_container(cls: type) -> bool:
    is_record = dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")
    is_collection = issubclass(cls, Mapping | Sequence) and not is_record
    return is_collection or is_variable_box(cls) or cls is type(None)

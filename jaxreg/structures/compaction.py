"""Remove dead units: physically smaller parameters, and the proof that the function is the same."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxreg.arguments import check_flag, check_number, check_whole_number
from jaxreg.structures.accounts import CompactReport, account
from jaxreg.structures.dimensions import Dimension
from jaxreg.structures.evidence import Evidence
from jaxreg.structures.graph import Graph, Group
from jaxreg.structures.in_place import nnx_update
from jaxreg.structures.owners import Parameters
from jaxreg.structures.refusals import Refusal, refused
from jaxreg.structures.removal import Removal
from jaxreg.structures.rounds import removed
from jaxreg.structures.slicing import slice_like
from jaxreg.structures.smaller import Smaller
from jaxreg.structures.tracing import Trace, find_groups, retrace
from jaxreg.tree import PyTree


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Compacted:
    """A smaller model that computes what the larger one did; what :func:`compact` returns.

    Attributes:
        params: the smaller parameters, a pytree like the one given.
        state: what was given as ``state``, sliced like the parameters; None otherwise.
        opt_state: the optimizer state, sliced like the parameters; None if none was given.
        sizes: the shape of every leaf of ``params`` by path, to build a module of these sizes.
        kept: for each group of the graph the units that are left.
        refused: dead units that stay because the function would change; also those that are a constant,
            whatever the inputs are, with no bias that could take it up.
        report: parameters, bytes and floating-point operations by layer, before and after; ``print`` it.
        apply: a function of ``(params, *inputs)`` that runs the recorded computation on the smaller arrays.
            It may be jitted, differentiated and mapped, and takes inputs of any structure and shape that the
            large model takes, traced once for each.
    """

    params: PyTree
    state: PyTree
    opt_state: PyTree
    sizes: Mapping[str, tuple[int, ...]]
    kept: tuple[np.ndarray, ...]
    refused: tuple[Refusal, ...]
    report: CompactReport
    apply: Smaller

    def __repr__(self) -> str:
        before, after = self.report.before.parameters, self.report.after.parameters
        return f"Compacted({before:,} to {after:,} parameters, {len(self.refused)} refusals)"

    def module_difference(self, apply_fn: Callable[..., Any] | None = None) -> str | None:
        """Why a function must not be run on the smaller parameters in place of :attr:`apply`; None if it may.

        A module that is rebuilt at the new sizes, or that reads them off its parameters, computes what
        :attr:`apply` does only if no length is written into it: the 1/N of a LayerNorm, the square root of
        a head's width, a hard-coded number of heads would silently change the result. Both computations
        are traced and compared, operation by operation, with the programs inside of operations, gradient
        rules and the containers of the output. What cannot be compared, such as two callbacks, differs.

        Args:
            apply_fn: a function of ``(params, *inputs)``, such as the ``apply`` of a rebuilt module.
                Default: the one that was traced.

        Returns:
            The first difference, in words, or None if there is none.
        """
        return self.apply.difference(self.params, apply_fn)

    def update_nnx(self, module: Any) -> None:
        """Put the smaller arrays into an NNX module, in place.

        The module is the one whose function was traced, or is equal to it but for its numbers. Its variables
        have the paths of the parameters; paths of parameters may begin with more steps, as many for all.

        Raises:
            ValueError: if the traced function on the smaller arrays would not compute what :attr:`apply`
                does; if a call of the module would not and the traced function holds the definition of
                another one; if it has no such variable. A module that is used in another way than by a call,
                in a function that does not hold its definition, is not looked at.
        """
        nnx_update(self, module)

    @property
    def same_module(self) -> bool:
        """Whether the traced function may be run on the smaller parameters; see :meth:`module_difference`."""
        return self.module_difference() is None


def compact(
    graph: Graph,
    params: PyTree,
    *,
    state: PyTree = None,
    opt_state: PyTree = None,
    round_to: int | None = None,
    inputs: Sequence[Any] | None = None,
    verify: bool = True,
    tolerance: float = 1e-5,
) -> Compacted:
    r"""Remove the units of a graph that do nothing, from all leaves at once.

    A unit may go where everything that sums over it meets zeros: because all that makes it is zero and
    nothing on the way (an activation with f(0) != 0, a LayerNorm, a softmax) makes something of that
    zero, or because all that reads it is. The constants that dead slices hold are followed through the
    program with the real primitives. A constant other than zero is folded into the next layer's bias
    where there is one; else the unit stays, and ``refused`` says why. Removal is repeated until nothing more
    dies; one unit of each group always stays.

    Args:
        graph: of :func:`jaxreg.structures.trace`, for these parameters.
        params: the parameters, concrete arrays. Zeros are exact zeros.
        state: another pytree with leaves like those of ``params``, such as an average of them: it is
            sliced alike. Whether its units are dead too is not looked at.
        opt_state: the state of an optax optimizer for ``params`` or a part of it, or several of them, best
            under the names of the parts: moments are sliced like their parameters, counts are kept. An array
            of a parameter's path and shape is taken for a copy of it, element by element.
        round_to: keep some dead units so that each group's size is a multiple of this, where
            hardware wants it. Units that feed those, or that those feed, may have to stay with them.
            Default: remove all of them.
        inputs: the concrete inputs of one call, such as ``(x,)``, to compare the two models on.
        verify: compare the outputs of both models on ``inputs``, where they are given.
        tolerance: largest allowed difference, relative to the largest output where that is above 1.

    Returns:
        A :class:`Compacted`.

    Raises:
        TypeError: for a bad argument, or parameters that are traced.
        ValueError: for parameters of other shapes than the graph's, or outputs that differ; for arrays of
            ``state`` or ``opt_state`` that cannot be sliced like a parameter, or would undo a constant that
            was folded into a bias.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxreg
        >>> def apply(params, x):
        ...     return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 8)), "b1": jnp.ones(8), "w2": jnp.ones((8, 2))}
        >>> graph = jaxreg.structures.trace(apply, params, jnp.ones((1, 3)))
        >>> params = jax.tree.map(lambda x: x, params) | {
        ...     "w1": params["w1"].at[:, 2:].set(0.0), "b1": params["b1"].at[2:].set(0.0)}
        >>> small = jaxreg.compact(graph, params, inputs=[jnp.ones((1, 3))])
        >>> small.sizes
        {'b1': (2,), 'w1': (3, 2), 'w2': (2, 2)}
        >>> print(small.apply(small.params, jnp.ones((4, 3))).shape)
        (4, 2)

    Notes:
        Exact means exact in real arithmetic, of finite numbers: sums of fewer terms may round
        differently. The computation is the recorded one: numbers that the large model's lengths had
        become, such as the 1/N of a mean, stay. What is proven is the function's value: a gradient rule
        of the user's own (``jax.custom_vjp``) that divides by a norm over units may give another gradient.
        A constant counts as known where it is made of what goes with the unit and of numbers that are no
        parameters: one that depends on parameters that stay would change with them in training.
        Gradient rules made of functions with rules of their own are read four deep, and a rule that
        repeats itself that far is taken to go on so: a derivative that asks for a deeper one, or for one
        that raises, raises ``NotImplementedError``.
        For inputs of another shape the function is traced and judged anew, and what would not have
        been exact for them is an error.
    """
    owner = "compact"
    if not isinstance(graph, Graph):
        raise TypeError(f"The 'graph' parameter of {owner} must come from structures.trace. Got {graph!r}.")
    check_flag(verify, "verify", owner)
    check_number(tolerance, "tolerance", owner)
    if round_to is not None and check_whole_number(round_to, "round_to", owner) < 1:
        raise ValueError(f"The 'round_to' parameter of {owner} must be at least 1. Got {round_to}.")
    if inputs is not None and not isinstance(inputs, tuple | list):
        raise TypeError(
            f"The 'inputs' parameter of {owner} must be a sequence of the inputs, such as (x,). "
            f"Got {type(inputs).__name__}."
        )
    trace = retrace(graph.recipe, params)
    units = _units(graph, trace)
    arrays = _concrete([trace.flat.leaves[index] for index in trace.traced])
    result = removed(graph, trace, units, arrays, round_to)
    removal = Removal(result.left)
    changed = {n: new for n, new in enumerate(result.arrays) if new is not arrays[n]}
    leaves = list(trace.flat.leaves)
    for place, index in enumerate(trace.traced):
        value = trace.program.inputs[place]
        whole = leaves[index] if place not in changed else jnp.asarray(changed[place])
        leaves[index] = removal.take(value, whole)
    smaller = trace.flat.rebuild(leaves)
    values = {trace.flat.paths[index]: trace.parameter(index) for index in trace.traced}
    parameters = Parameters({**dict.fromkeys(trace.flat.paths), **values})
    folded = frozenset(trace.flat.paths[trace.traced[place]] for place in changed)
    evidence = Evidence(tuple(group for _, group in units), result.rounds, graph.state)
    apply = Smaller(graph, trace, removal, params, evidence)
    small = Compacted(
        params=smaller,
        state=None if state is None else slice_like(state, parameters, removal, "state", folded),
        opt_state=None
        if opt_state is None
        else slice_like(opt_state, parameters, removal, "opt_state", folded),
        sizes={path: removal.shape(value) for path, value in values.items()},
        kept=tuple(removal.kept(unit) for unit, _ in units),
        refused=tuple(refused(units, result, trace, graph.state)),
        report=account(trace, removal),
        apply=apply,
    )
    if verify and inputs is not None:
        apply.verify(params, smaller, tuple(inputs), tolerance)
    return small


def _units(graph: Graph, trace: Trace) -> list[tuple[Dimension, Group]]:
    found = {group: unit for unit, group in find_groups(trace)[0]}
    missing = [group for group in graph.groups if group not in found]
    if missing:
        raise ValueError(
            f"The graph has a group of {missing[0].size} units of '{missing[0].members[0].path}', which "
            "these parameters do not have. Trace it again for them."
        )
    return [(found[group], group) for group in graph.groups]


def _concrete(leaves: Sequence[Any]) -> list[np.ndarray]:
    if any(isinstance(leaf, Tracer | jax.ShapeDtypeStruct) for leaf in leaves):
        raise TypeError(
            "The 'params' parameter of compact must hold concrete arrays: shapes depend on zeros."
        )
    return [_seen(leaf, jnp.result_type(leaf)) for leaf in leaves]


def _seen(leaf: Any, dtype: Any) -> np.ndarray:
    """The values that the function gets to see: JAX may round the caller's own."""
    return np.asarray(leaf, dtype) if isinstance(dtype, np.dtype) else np.zeros(leaf.shape)

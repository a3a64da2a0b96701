"""The lasso by full-batch training: 1,000 samples, 3,000 features, 50 of them at work, float64.

Solved until no coefficient is further than 1e-8 from its optimality condition (the largest gradient at zero
is about 2.3). The programs in JAX minimise one and the same loss, as a user writes it, with gradients from
`jax.value_and_grad`; scikit-learn and skglm are coordinate solvers made for this problem. A tolerance means
something else to each: all get the loosest power of ten that reaches 1e-8.

`jaxopt` stands for its defaults: acceleration, and a line search from a step size of 1. `fista` with
backtracking starts from 1 as well. 1 / L is the constant step size of the textbook. `traces` counts how often
JAX traced a program that solved with one strength and then with another.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxreg
from benchmarks import environment
from benchmarks.runner import Comparison, Program, Repeated, Sample

TOLERANCE = 1e-8
MOMENTUM = 0.5
STEP = 2.0  # over the Lipschitz constant of the gradient; heavy ball may go up to 2 (1 + MOMENTUM)
MOST_STEPS = 20_000
SPEED = 2.5  # of fista over jaxopt's defaults

Data = tuple[jax.Array, jax.Array]


class Problem:
    """``||y - X w||^2 / (2 n) + strength ||w||_1``."""

    def __init__(self, n: int, p: int, support: int):
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((n, p))
        truth = np.zeros(p)
        truth[rng.choice(p, support, replace=False)] = rng.standard_normal(support)
        self.y = self.x @ truth + 0.1 * rng.standard_normal(n)
        self.strength = 0.05 * np.abs(self.x.T @ self.y).max() / n
        self.lipschitz = np.linalg.norm(self.x, 2) ** 2 / n

    def violation(self, w: np.ndarray) -> float:
        """Written out in numpy, so that all solvers are judged by the same few lines."""
        gradient = self.x.T @ (self.x @ w - self.y) / len(self.y)
        at_zero = np.maximum(np.abs(gradient) - self.strength, 0)
        return float(np.where(w == 0, at_zero, np.abs(gradient + self.strength * np.sign(w))).max())


@dataclasses.dataclass(frozen=True)
class Solver:
    """A program, ready to run.

    Args:
        solve: from a strength to coefficients and, where it is known, the number of iterations.
        traces: how often JAX has traced it until now.
    """

    solve: Callable[[float], tuple[np.ndarray, int | None]]
    traces: Callable[[], int] | None = None


def loss(w: jax.Array, data: Data) -> jax.Array:
    x, y = data
    return 0.5 * jnp.mean((x @ w - y) ** 2)


def build(*, quick: bool) -> Iterator[Comparison]:
    n, p, support = (100, 300, 5) if quick else (1000, 3000, 50)
    problem = Problem(n, p, support)
    title = f"Lasso, {n} x {p}, to {TOLERANCE:g}"
    ours: dict[str, Callable[[Problem, float], Solver]] = {
        "jaxreg.fista, backtracking": backtracking,
        "jaxreg.fista, 1 / L": constant_steps,
        "jaxreg.prox_sgd": prox_sgd,
    }
    theirs: dict[str, Callable[[Problem, float], Solver]] = {
        f"scikit-learn {environment.version('scikit-learn')}": coordinate_descent
    }
    if environment.version("skglm"):
        theirs[f"skglm {environment.version('skglm')}"] = working_sets
    note = f"prox_sgd: step size {STEP:g} / L, momentum {MOMENTUM:g}. All compiled before the clock starts."
    if environment.version("jaxopt"):
        name = f"jaxopt {environment.version('jaxopt')}"
        gradient = {
            name: jaxopt_solver(),
            f"{name}, 1 / L": jaxopt_solver(constant=True),
            f"{name}, no acceleration": jaxopt_solver(acceleration=False),
        }
        limits = {"jaxreg.fista, backtracking": 1 / SPEED}
        yield Comparison(
            f"{title}, proximal gradients", list(programs(problem, gradient | ours, limits)), 21, note
        )
    yield Comparison(f"{title}, solvers", list(programs(problem, theirs | ours, {})), 21, note)


def programs(
    problem: Problem, solvers: Mapping[str, Callable[[Problem, float], Solver]], limits: Mapping[str, float]
) -> Iterator[Program]:
    for name, make in solvers.items():
        solver, tolerance = loosest(problem, make)
        with double_precision():
            w, iterations = solver.solve(problem.strength)
            solver.solve(2 * problem.strength)
        facts = {
            "iterations": "" if iterations is None else f"{iterations:,}",
            "tolerance": f"{tolerance:g}",
            "violation": f"{problem.violation(w):.1e}",
            "non-zeros": str(np.count_nonzero(w)),
            "traces": "" if solver.traces is None else str(solver.traces()),
        }
        yield Program(name, Timed(solver, problem.strength), facts, limits.get(name))


class Timed:
    def __init__(self, solver: Solver, strength: float):
        self.repeated = Repeated(lambda: solver.solve(strength)[0])

    def __call__(self) -> Sample:
        with double_precision():
            return self.repeated()


def loosest(problem: Problem, make: Callable[[Problem, float], Solver]) -> tuple[Solver, float]:
    for exponent in range(6, 16):
        solver = make(problem, 10.0**-exponent)
        with double_precision(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tolerances that are too loose or too tight
            w, _ = solver.solve(problem.strength)
        if problem.violation(w) <= TOLERANCE:
            return solver, 10.0**-exponent
    raise RuntimeError(f"{make.__name__} does not reach {TOLERANCE:g}.")


def backtracking(problem: Problem, tolerance: float) -> Solver:
    return training_loop(problem, tolerance, lambda penalty: jaxreg.fista(1.0, penalty, backtracking=True))


def constant_steps(problem: Problem, tolerance: float) -> Solver:
    return training_loop(problem, tolerance, lambda penalty: jaxreg.fista(1 / problem.lipschitz, penalty))


def prox_sgd(problem: Problem, tolerance: float) -> Solver:
    rate = STEP / problem.lipschitz
    return training_loop(
        problem, tolerance, lambda penalty: jaxreg.prox_sgd(rate, penalty, momentum=MOMENTUM)
    )


def training_loop(
    problem: Problem, tolerance: float, make: Callable[[jaxreg.Penalty], optax.GradientTransformation]
) -> Solver:
    """A loop that stops by the gradient that the next step would need anyway."""
    grad = jax.value_and_grad(loss)

    def train(w: jax.Array, strength: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
        penalty = jaxreg.l1(strength)
        optimizer = make(penalty)

        def unsolved(carry: Any) -> Any:
            count, w, _, _, grads = carry
            return (count < MOST_STEPS) & (penalty.optimality(w, grads).max() > tolerance)

        def advance(carry: Any) -> Any:
            count, w, state, value, grads = carry
            w, state = jaxreg.step(optimizer, grads, state, w, value=value, value_fn=loss, data=data)
            return count + 1, w, state, *grad(w, data)

        start = (0, w, optimizer.init(w), *grad(w, data))
        count, w, *_ = jax.lax.while_loop(unsolved, advance, start)
        return w, count

    run, traces = counted(train)
    with double_precision():
        data = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def solve(strength: float) -> tuple[np.ndarray, int | None]:
        w, count = run(jnp.zeros(problem.x.shape[1]), strength, data)
        return np.asarray(w), int(count)

    return Solver(solve, traces)


def jaxopt_solver(*, constant: bool = False, **options: Any) -> Callable[[Problem, float], Solver]:
    def proximal_gradient(problem: Problem, tolerance: float) -> Solver:
        import jaxopt

        stepsize = 1 / problem.lipschitz if constant else 0.0  # 0 asks for the line search
        solver = jaxopt.ProximalGradient(
            loss, jaxopt.prox.prox_lasso, stepsize=stepsize, maxiter=MOST_STEPS, tol=tolerance, **options
        )

        def train(w: jax.Array, strength: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
            found = solver.run(w, hyperparams_prox=strength, data=data)
            return found.params, found.state.iter_num

        run, traces = counted(train)
        with double_precision():
            data = jnp.asarray(problem.x), jnp.asarray(problem.y)

        def solve(strength: float) -> tuple[np.ndarray, int | None]:
            w, count = run(jnp.zeros(problem.x.shape[1]), strength, data)
            return np.asarray(w), int(count)

        return Solver(solve, traces)

    return proximal_gradient


def coordinate_descent(problem: Problem, tolerance: float) -> Solver:
    from sklearn.linear_model import Lasso

    x = np.asfortranarray(problem.x)

    def solve(strength: float) -> tuple[np.ndarray, int | None]:
        lasso = Lasso(strength, fit_intercept=False, tol=tolerance, max_iter=100_000)
        lasso.fit(x, problem.y)
        return lasso.coef_, lasso.n_iter_

    return Solver(solve)


def working_sets(problem: Problem, tolerance: float) -> Solver:
    from skglm import Lasso

    x = np.asfortranarray(problem.x)

    def solve(strength: float) -> tuple[np.ndarray, int | None]:
        lasso = Lasso(strength, fit_intercept=False, tol=tolerance, max_iter=1000)
        lasso.fit(x, problem.y)
        return lasso.coef_, None  # it counts working sets, not passes

    return Solver(solve)


def counted(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[[], int]]:
    """The function compiled, and the number of times that it has been traced."""
    traces = []

    def traced(*arguments: Any) -> Any:
        traces.append(None)
        return function(*arguments)

    return jax.jit(traced), lambda: len(traces)


def double_precision() -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # until jax 0.7

    return enable_x64()

"""The lasso by full-batch training: 1,000 samples, 3,000 features, 50 of them at work, float64.

Solved until no coefficient is further than 1e-8 from its optimality condition (the largest gradient at zero
is about 2.3). `prox_sgd` runs a jitted training loop with one constant step size; the others are solvers made
for this problem. A tolerance means something else to each: all get the loosest power of ten that reaches
1e-8.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreg
from benchmarks import environment
from benchmarks.runner import Comparison, Program, Repeated, Sample

TOLERANCE = 1e-8
MOMENTUM = 0.5
STEP = 2.0  # over the Lipschitz constant of the gradient; heavy ball may go up to 2 (1 + MOMENTUM)
MOST_STEPS = 20_000


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


Solver = Callable[[], tuple[np.ndarray, int | None]]
"""Coefficients, and the number of iterations where it is known."""


def build(*, quick: bool) -> Iterator[Comparison]:
    n, p, support = (100, 300, 5) if quick else (1000, 3000, 50)
    problem = Problem(n, p, support)
    yield Comparison(
        f"Lasso, {n} x {p}, to {TOLERANCE:g}",
        list(programs(problem)),
        rounds=21,
        note=f"prox_sgd: step size {STEP:g} / L, momentum {MOMENTUM:g}; compiled before the clock starts.",
    )


def programs(problem: Problem) -> Iterator[Program]:
    solvers: dict[str, Callable[[Problem, float], Solver]] = {"scikit-learn": coordinate_descent}
    if environment.version("skglm"):
        solvers["skglm"] = working_sets
    solvers["jaxreg.prox_sgd"] = prox_sgd
    if environment.version("jaxopt"):
        solvers["jaxopt"] = proximal_gradient
    for package, make in solvers.items():
        solve, tolerance = loosest(problem, make)
        w, iterations = solve()
        facts = {
            "iterations": "" if iterations is None else f"{iterations:,}",
            "tolerance": f"{tolerance:g}",
            "violation": f"{problem.violation(w):.1e}",
            "non-zeros": str(np.count_nonzero(w)),
        }
        name = package if package.startswith("jaxreg") else f"{package} {environment.version(package)}"
        yield Program(name, Timed(solve), facts)


class Timed:
    def __init__(self, solve: Solver):
        self.repeated = Repeated(lambda: solve()[0])

    def __call__(self) -> Sample:
        with double_precision():
            return self.repeated()


def loosest(problem: Problem, make: Callable[[Problem, float], Solver]) -> tuple[Solver, float]:
    for exponent in range(6, 16):
        solve = make(problem, 10.0**-exponent)
        with double_precision(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tolerances that are too loose or too tight
            w, _ = solve()
        if problem.violation(w) <= TOLERANCE:
            return solve, 10.0**-exponent
    raise RuntimeError(f"{make.__name__} does not reach {TOLERANCE:g}.")


def prox_sgd(problem: Problem, tolerance: float) -> Solver:
    with double_precision():
        x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    penalty = jaxreg.l1(problem.strength)
    optimizer = jaxreg.prox_sgd(STEP / problem.lipschitz, penalty, momentum=MOMENTUM)

    def unsolved(carry: Any) -> Any:
        count, _, _, violation = carry
        return (count < MOST_STEPS) & (violation > tolerance)

    @jax.jit
    def train(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        def advance(carry: Any) -> Any:
            count, w, state, _ = carry
            grads = x.T @ (x @ w - y) / y.size
            violation = penalty.optimality(w, grads).max()
            new, state = jaxreg.step(optimizer, grads, state, w)
            # What was found good enough is what is returned, not the step after it.
            return count + 1, jnp.where(violation > tolerance, new, w), state, violation

        w = jnp.zeros(x.shape[1])
        count, w, _, _ = jax.lax.while_loop(unsolved, advance, (0, w, optimizer.init(w), jnp.inf))
        return w, count

    def solve() -> tuple[np.ndarray, int | None]:
        with double_precision():
            w, count = train(x, y)
        return np.asarray(w), int(count)

    return solve


def coordinate_descent(problem: Problem, tolerance: float) -> Solver:
    from sklearn.linear_model import Lasso

    x = np.asfortranarray(problem.x)
    lasso = Lasso(problem.strength, fit_intercept=False, tol=tolerance, max_iter=100_000)

    def solve() -> tuple[np.ndarray, int | None]:
        lasso.fit(x, problem.y)
        return lasso.coef_, lasso.n_iter_

    return solve


def working_sets(problem: Problem, tolerance: float) -> Solver:
    from skglm import Lasso

    x = np.asfortranarray(problem.x)
    lasso = Lasso(problem.strength, fit_intercept=False, tol=tolerance, max_iter=1000)

    def solve() -> tuple[np.ndarray, int | None]:
        lasso.fit(x, problem.y)
        return lasso.coef_, None  # it counts working sets, not passes

    return solve


def proximal_gradient(problem: Problem, tolerance: float) -> Solver:
    import jaxopt

    with double_precision():
        x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def loss(w: jax.Array, data: tuple[jax.Array, jax.Array]) -> jax.Array:
        residual = data[0] @ w - data[1]
        return 0.5 * jnp.mean(residual**2)

    solver = jaxopt.ProximalGradient(loss, jaxopt.prox.prox_lasso, maxiter=MOST_STEPS, tol=tolerance)
    train = jax.jit(lambda w, strength, data: solver.run(w, hyperparams_prox=strength, data=data))

    def solve() -> tuple[np.ndarray, int | None]:
        with double_precision():
            found = train(jnp.zeros(x.shape[1]), problem.strength, (x, y))
        return np.asarray(found.params), int(found.state.iter_num)

    return solve


def double_precision() -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # until jax 0.7

    return enable_x64()

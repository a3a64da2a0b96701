"""What the fields of optimizer states hold, by the names that optax and this package give them."""

MOMENTS = frozenset(
    """
    mu nu nu_max trace momentum velocity sum_of_squares e_g e_x m v n g m1 m2 step_sizes prev_updates
    previous_gradient exp_avg exp_avg_sq grad_sum grad_sum_sq grad acc_grads v_row v_col found_nan squares
    remainders
    """.split()
)
"""Made of derivatives or of updates, so that adding a constant to a parameter changes nothing about them."""

FACTORED = frozenset(["v_row", "v_col"])
"""Means over an axis of the parameter."""

PROJECTED = "projector"
"""Of GaLore: moments beside it are those of a projection, whatever their shape."""

FIELDS = MOMENTS | frozenset(
    """
    x0 params0 init_params init_particles z s r dual solution ema cache cumulative_gradients subgradients
    reward
    """.split()
)
"""Fields that hold a copy of the parameters' tree; where they stand they name no part of the parameters."""

OWN_ARRAYS = frozenset(["ns_coeffs", "hyperparams", "hyperparams_states"])
"""Fields whose arrays are as they are, whatever the parameters: coefficients and hyperparameters."""

PER_RATE = frozenset(["r", "m", "v", "s"])
"""Of ``optax.contrib.mechanize``, with an entry for each of its rates; elsewhere these are moments."""

BESIDE_RATES = "x0"
"""What mechanize has, and the others have not."""

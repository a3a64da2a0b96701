"""Set-up that must come before JAX starts, and switches that tests ask for."""

from collections.abc import Iterator

import hypothesis
import jax
import pytest

# Eight devices on one CPU, for the tests of sharding.
jax.config.update("jax_num_cpu_devices", 8)

hypothesis.settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)

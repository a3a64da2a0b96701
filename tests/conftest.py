"""Set-up that must come before JAX starts, and switches that tests ask for."""

import pathlib
from collections.abc import Iterator

import hypothesis
import jax
import pytest

# Eight devices on one CPU, for the tests of sharding.
jax.config.update("jax_num_cpu_devices", 8)

# Two thirds of the time goes into compiling: what one worker or one run has compiled the next one reads.
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

hypothesis.settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True, scope="module")
def _without_the_programs_of_other_files() -> Iterator[None]:
    """What is compiled stays in memory, gigabytes of it by the end of the suite."""
    yield
    jax.clear_caches()

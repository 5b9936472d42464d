"""Eight CPU devices for every test; must run before anything imports jax.

Most of the tests' time is compiling small programs, which need no optimisation. What was
compiled is kept for the other processes, pytest's own workers and those that tests start.
"""

import os
import tempfile

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1 "
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Its workers find it in their environment; it goes with the process that made it.
    _compiled = tempfile.TemporaryDirectory(prefix="ecgssl-jax-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest
from absl import logging


@pytest.fixture(autouse=True)
def verbosity():
    """Programs choose theirs for the process; the next test hears all warnings."""
    yield
    logging.set_verbosity(logging.WARNING)

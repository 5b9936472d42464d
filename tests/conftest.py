"""Eight CPU devices for every test; must run before anything imports jax.

Most of the tests' time is compiling small programs, which need no optimisation.
"""

import os

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1 "
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from absl import logging


@pytest.fixture(autouse=True)
def verbosity():
    """Programs choose theirs for the process; the next test hears all warnings."""
    yield
    logging.set_verbosity(logging.WARNING)

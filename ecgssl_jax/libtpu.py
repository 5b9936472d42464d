"""The TPUs' compiler on machines without a TPU."""

import os
from pathlib import Path

# The files by which chips are reached, in the order of their generations.
_CHIPS = ("accel[0-9]*", "vfio/[0-9]*")
# What it would ask the network, or complain that nobody told it.
_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Of a chip, only one process may be the user.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def keep_quiet(devices: Path = Path("/dev")) -> None:
    """Where it is installed without a TPU, as for plans, JAX starts it in vain.

    To be called before JAX looks for devices.
    """
    if not any(any(devices.glob(pattern)) for pattern in _CHIPS):
        for variable, value in _SETTINGS.items():
            os.environ.setdefault(variable, value)

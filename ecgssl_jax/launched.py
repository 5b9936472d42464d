"""What launchers tell the processes that they start, by variables of the environment."""

import os
import threading
import time

from ecgssl_jax.errors import UserError
from ecgssl_jax.watchdog import TRY_AGAIN

# The number of the launcher, of one on this machine.
LAUNCHER = "ECGSSL_JAX_LAUNCHER"
# 'gpu' or 'tpu', where the job asked for them.
PLATFORM = "ECGSSL_JAX_PLATFORM"

_LOOK = 1.0  # seconds between two looks at the launcher


class DevicesError(UserError):
    """Devices that a job asked for, and a process does not have."""


def end_with_launcher() -> None:
    """Has this process end, with code 75, when the launcher that started it was killed."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or os.getppid() != int(launcher):
        return

    def watch():
        while os.getppid() == int(launcher):
            time.sleep(_LOOK)
        # Nobody reads what it says any more.
        os._exit(TRY_AGAIN)

    threading.Thread(target=watch, daemon=True).start()


def check_platform(found: str) -> None:
    """Raises DevicesError if the job asked for other devices than JAX has found.

    Where it cannot use a GPU, it takes the CPU, with a warning at most.
    """
    wanted = os.environ.get(PLATFORM, found)
    if found != wanted:
        raise DevicesError(
            f"the job asked for {wanted.upper()}s, but JAX finds none on this machine, "
            f"only a {found.upper()}; look at its driver (nvidia-smi) and at whether jax "
            f"was installed for it, or start the job without {wanted.upper()}s"
        )

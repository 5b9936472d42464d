"""The main job, in one process of which something happens at a named call.

    python -m tests.launch.fault PROCESS WHERE WHAT ...

WHERE is a method of `Checkpointer` or of the evaluator `Probe`, WHAT is 'kill' or 'hang';
the rest is for the job.
"""

import os
import signal
import sys
import time

import jax

from ecgssl_jax import main
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.evaluation.online import Probe


def happen(process: int, where: str, what: str) -> None:
    """Once that method is called in that process."""
    owner = Checkpointer if hasattr(Checkpointer, where) else Probe
    original = getattr(owner, where)

    def instead(*args, **kwargs):
        if jax.process_index() == process:
            if what == "hang":
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, where, instead)


if __name__ == "__main__":
    number, where, what, *rest = sys.argv[1:]
    happen(int(number), where, what)
    main.main(rest)

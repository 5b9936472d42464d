"""Which platform a program is made for: this machine's, or one that is planned for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLANNED: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "planned platform", default=None
)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu'."""
    return _PLANNED.get() or jax.default_backend()


@contextlib.contextmanager
def planned_for(name: str) -> Iterator[None]:
    """Within, methods are built and programs are traced as on the platform `name`."""
    token = _PLANNED.set(name)
    try:
        yield
    finally:
        _PLANNED.reset(token)

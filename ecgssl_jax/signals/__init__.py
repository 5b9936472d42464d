"""Pure JAX functions of signals, run on the device inside the step."""

from ecgssl_jax.signals.preparation import Statistics, prepare, prepare_views

__all__ = ["Statistics", "prepare", "prepare_views"]

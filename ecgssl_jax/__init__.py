"""Self-supervised pre-training of ECG encoders in JAX."""

from ecgssl_jax import libtpu

__version__ = "0.1.0"

libtpu.keep_quiet()


def load(path, *, which="best", statistics=None, tokens=True):
    """The encoder of a run as a library call; see `ecgssl_jax.encoder.load`."""
    # Here, so that importing the package costs nothing.
    from ecgssl_jax import encoder

    return encoder.load(path, which=which, statistics=statistics, tokens=tokens)

"""Self-supervised pre-training of ECG encoders in JAX."""

__version__ = "0.1.0"

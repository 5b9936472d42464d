"""ECGs and texts in the space in which a method that learns from reports compares them."""

from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np

from ecgssl_jax.data.text import PAD
from ecgssl_jax.methods.base import TextMethod
from ecgssl_jax.runs import FrozenEncoder
from ecgssl_jax.settings import ConfigError

_ROWS = 256  # at a time, padded: one shape, so that one program does

# [n, ...] -> [n, D] float32, each row by itself.
Embedding = Callable[[np.ndarray], np.ndarray]


def ecg_embedding(encoder: FrozenEncoder) -> Embedding:
    """Of pooled features, [n, D'] float32; `encoder.method` must learn from reports."""
    method = cast(TextMethod, encoder.method)
    return _in_parts(jax.jit(method.embed_ecg), *encoder.parameters)


def text_embedding(encoder: FrozenEncoder) -> Embedding:
    """Of texts of S tokens, [n, S] int32; `encoder.method` must learn from reports."""
    method = cast(TextMethod, encoder.method)
    params, _ = encoder.parameters

    @jax.jit
    def embed(params, text):
        return method.embed_text(params, {"text": text, "text_valid": text != PAD})

    return _in_parts(embed, params)


def _in_parts(function: Callable[..., jax.Array], *parameters: Any) -> Embedding:
    def embed(rows: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            padded = np.pad(part, ((0, _ROWS - len(part)), (0, 0)))
            found.append(np.asarray(function(*parameters, padded))[: len(part)])
        return np.concatenate(found)

    return embed


def unit(vectors: np.ndarray) -> np.ndarray:
    """[n, D] of length 1, float64; zeros stay as they are.

    Raises:
      ConfigError: one that is not finite, which would be as near to all others.
    """
    if not np.isfinite(vectors).all():
        raise ConfigError(
            "not all embeddings are finite, found NaN or infinity; the checkpoint has "
            "diverged, or its vocabulary is not the one of the texts"
        )
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

"""ECGs and texts in the common space: row by row, whatever the number of rows."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.evaluation.joint_embedding import ecg_embedding, text_embedding, unit
from ecgssl_jax.settings import ConfigError


class Method:
    """Texts are the mean of their tokens' vectors, ECGs a linear map."""

    def embed_ecg(self, params, extra, pooled):
        return jnp.matmul(pooled, params["map"], precision="highest") + extra

    def embed_text(self, params, batch):
        valid = batch["text_valid"][..., None]
        return (params["table"][batch["text"]] * valid).sum(1) / valid.sum(1).clip(1)


def make_encoder():
    rng = np.random.default_rng(0)
    params = {"map": rng.normal(size=(3, 4)), "table": rng.normal(size=(9, 4))}
    return SimpleNamespace(method=Method(), parameters=(params, 0.5))


@pytest.mark.parametrize("rows", [1, 7, 256, 600])
def test_embeddings_are_those_of_the_method_for_any_number_of_rows(rows):
    encoder = make_encoder()
    params, extra = encoder.parameters
    rng = np.random.default_rng(1)
    pooled = rng.normal(size=(rows, 3)).astype(np.float32)
    expected = pooled @ params["map"] + extra
    np.testing.assert_allclose(ecg_embedding(encoder)(pooled), expected, rtol=1e-4)
    # Texts of 1 to 5 tokens; 0 is no token.
    length = 1 + np.arange(rows) % 5
    text = rng.integers(1, 9, (rows, 5)) * (np.arange(5) < length[:, None])
    found = text_embedding(encoder)(text.astype(np.int32))
    expected = [
        params["table"][own[:n]].mean(0) for own, n in zip(text, length, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_unit_vectors_have_length_one_and_zeros_stay():
    found = unit(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]])
    assert found.dtype == np.float64


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(value):
    with pytest.raises(ConfigError, match="not all embeddings are finite"):
        unit(np.array([[1, value]]))

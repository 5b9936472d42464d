import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.methods.embeddings import (
    cosines,
    interleave,
    separate,
    spread,
    unit,
)
from ecgssl_jax.settings import ConfigError


def test_unit_vectors_keep_their_direction():
    vectors = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit(vectors), expected, rtol=1e-6)
    np.testing.assert_allclose(unit(1e-8 * vectors), expected, rtol=1e-5)


def test_similarities_are_cosines_in_full_precision():
    one, other = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    np.testing.assert_allclose(
        cosines(unit(one), unit(other)), one @ other.T / lengths, 1e-5
    )
    # On accelerators the default is less than float32.
    program = str(jax.make_jaxpr(cosines)(one, other))
    assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in program


def test_zeros_stay_zeros_and_their_gradient_is_finite():
    vectors = jnp.zeros((2, 4)).at[1, 0].set(3.0)

    def loss(x):
        return (unit(x) * jnp.arange(4.0)).sum()

    assert not unit(vectors)[0].any()
    gradient = jax.grad(loss)(vectors)
    np.testing.assert_allclose(gradient[0], np.arange(4.0))
    assert np.isfinite(gradient).all()


def test_low_precision_is_computed_in_float32():
    assert unit(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("width", [8, 64])
def test_spread_is_one_of_even_directions_and_zero_of_one(width):
    even = np.random.default_rng(0).normal(size=(20_000, width))
    assert float(spread(even)) == pytest.approx(1, abs=0.02)
    assert float(spread(np.ones((10, width)))) == pytest.approx(0, abs=1e-6)


def test_views_of_a_record_are_side_by_side_and_come_apart_again():
    views = [{"x": np.full((3, 2), view) + [[0], [10], [20]]} for view in range(2)]
    joined = interleave(views)["x"]
    np.testing.assert_array_equal(joined[:, 0], [0, 1, 10, 11, 20, 21])
    for view, found in enumerate(separate(joined, 2)):
        np.testing.assert_array_equal(found, views[view]["x"])


def test_views_of_different_lengths_are_an_error():
    views = [{"ecg": np.zeros((2, samples, 3))} for samples in (50, 40)]
    with pytest.raises(ConfigError, match=r"one length; found .*50.*40"):
        interleave(views)

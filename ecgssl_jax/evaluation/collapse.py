"""Has the training collapsed? The effective number of the features' dimensions."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

_EPSILON = 1e-7  # added to each share, as in the paper


def rankme(features: ArrayLike) -> jax.Array:
    """RankMe: a smooth rank of the features, between 1 and min(N, D).

    The exponential of the entropy of the normalised singular values.
    Garrido et al., arXiv 2210.02885, equations 1 and 2. The features are not
    centred: a large common offset lowers RankMe, as in the paper.

    Args:
      features: [N, D]; N well above D, or N bounds the result.

    Returns:
      [] float32.
    """
    values = _singular_values(features)
    shares = values / jnp.maximum(values.sum(), jnp.finfo(values.dtype).tiny) + _EPSILON
    return jnp.exp(-jnp.sum(shares * jnp.log(shares)))


def _singular_values(features: ArrayLike) -> jax.Array:
    """[min(N, D)]. Not through the Gram matrix: squaring loses the small ones."""
    features = jnp.asarray(features, jnp.float32)
    if features.shape[0] > features.shape[1]:
        features = jnp.linalg.qr(features, mode="r")
    return jnp.linalg.svd(features, compute_uv=False)

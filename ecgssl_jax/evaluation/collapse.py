"""Has the training collapsed? Cheap figures about features and targets.

Pure functions of arrays, usable inside a jitted step or on features read back.
Spectra and spreads are computed in float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def rankme(features: ArrayLike, *, epsilon: float = 1e-7) -> jax.Array:
    """RankMe: a smooth rank of the features, between 1 and min(N, D).

    The exponential of the entropy of the normalised singular values.
    Garrido et al., arXiv 2210.02885, equations 1 and 2. The features are not
    centred: a large common offset lowers RankMe, as in the paper.

    Args:
      features: [N, D]; N well above D, or N bounds the result.
      epsilon: added to each share, as in the paper.

    Returns:
      [] float32.
    """
    values = _singular_values(features)
    shares = values / jnp.maximum(values.sum(), jnp.finfo(values.dtype).tiny) + epsilon
    return jnp.exp(-jnp.sum(shares * jnp.log(shares)))


def effective_rank(features: ArrayLike) -> jax.Array:
    """Effective number of dimensions that the variance is spread over.

    The exponential of the entropy of the covariance's normalised eigenvalues (Roy &
    Vetterli, "The effective rank", EUSIPCO 2007, applied to the covariance): 1 when
    all variance lies along one direction, D when it is the same along all. Blind to
    a common offset, and to the size of the variance: read it beside `feature_std`.

    Args:
      features: [N, D].

    Returns:
      [] float32; 0 where nothing varies at all.
    """
    features = jnp.asarray(features, jnp.float32)
    variances = _singular_values(features - features.mean(axis=0)) ** 2
    total = variances.sum()
    shares = variances / jnp.where(total > 0, total, 1)
    entropy = jax.scipy.special.entr(shares).sum()
    return jnp.where(total > 0, jnp.exp(entropy), 0.0)


def feature_std(
    features: ArrayLike, *, dead_below: float = 1e-3
) -> dict[str, jax.Array]:
    """Standard deviation over records of each feature, summed up.

    Args:
      features: [N, D].
      dead_below: a dimension is dead if its standard deviation is at most this share
        of the features' root mean square: relative, so that neither a scaling of
        the features nor a collapse onto one constant vector can hide it.

    Returns:
      `std_mean`, `std_min`, `dead_share`, each [] float32.
    """
    features = jnp.asarray(features, jnp.float32)
    std = features.std(axis=0)
    size = jnp.sqrt(jnp.mean(features**2))
    return {
        "std_mean": std.mean(),
        "std_min": std.min(),
        "dead_share": jnp.mean(std <= dead_below * size),
    }


def _absolute_error(predictions, targets, *, valid=None):
    error = jnp.abs(predictions - targets)
    if valid is None:
        return error.mean()
    weight = jnp.broadcast_to(valid[..., None], error.shape)
    return jnp.sum(error, where=weight) / jnp.maximum(weight.sum(), 1)


def mean_prediction_loss(
    targets: ArrayLike,
    *,
    loss: Callable[..., jax.Array] = _absolute_error,
    valid: ArrayLike | None = None,
) -> jax.Array:
    """The loss of always predicting the mean target.

    A predictor that has learned anything stays below it. A training loss that falls
    together with it falls because the targets collapse, not because they are
    predicted.

    Args:
      targets: [..., L, D], as the method's loss compares them (after their norm).
      loss: the method's own, called as `loss(predictions, targets, valid=valid)`;
        mean absolute error by default.
      valid: [..., L] bool.

    Returns:
      what `loss` returns for the mean over all valid tokens as the prediction.
    """
    targets = jnp.asarray(targets)
    if targets.dtype in (jnp.bfloat16, jnp.float16):
        targets = targets.astype(jnp.float32)
    weight = jnp.ones(targets.shape[:-1], bool)
    if valid is not None:
        weight = jnp.asarray(valid)
    axes = tuple(range(targets.ndim - 1))
    total = jnp.sum(targets, axis=axes, where=weight[..., None])
    mean = total / jnp.maximum(weight.sum(), 1)
    return loss(jnp.broadcast_to(mean, targets.shape), targets, valid=valid)


def _singular_values(features: ArrayLike) -> jax.Array:
    """[min(N, D)]. Not through the Gram matrix: squaring loses the small ones."""
    features = jnp.asarray(features, jnp.float32)
    if features.shape[0] > features.shape[1]:
        features = jnp.linalg.qr(features, mode="r")
    return jnp.linalg.svd(features, compute_uv=False)

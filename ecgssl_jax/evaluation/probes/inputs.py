"""What probes are fitted to: features and labels, checked and standardised."""

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def standardise(features, mean, scale) -> jax.Array:
    return (features.astype(jnp.float32) - mean) * scale


def standardisation(features, valid=None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / standard deviation over all (valid) axes but the last, [D] each."""
    mean, std = map(np.asarray, _moments(features, valid))
    # What varies less than this is rounding, not a feature.
    alive = std > 1e-6 * np.abs(mean)
    return mean, np.where(alive, 1 / np.where(alive, std, 1), 0).astype(np.float32)


@jax.jit
def _moments(features, valid) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(features.ndim - 1))
    if valid is None:
        valid = jnp.ones(features.shape[:-1], bool)
    share = (valid / valid.sum())[..., None]
    # About one of the values, so that a constant feature varies by exactly 0.
    origin = features[(0,) * len(axes)].astype(jnp.float32)
    shifted = features.astype(jnp.float32) - origin
    shift = jnp.sum(shifted * share, axis=axes)
    variance = jnp.sum((shifted - shift) ** 2 * share, axis=axes)
    return origin + shift, jnp.sqrt(variance)


def check_features(features, rank: int) -> None:
    """Raises ValueError unless they have so many axes, and finite values only."""
    if features.ndim != rank:
        expected = {2: "[N, D]", 3: "[N, L, D]"}[rank]
        raise ValueError(f"features {features.shape}: expected {expected}")
    finite = np.asarray(_finite_rows(features))
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} of {len(finite)} records have features that are not "
            f"finite, the first in row {np.argmin(finite)}"
        )


def checked_labels(labels, known, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, Y] float32 (0 where unknown), and which are known [N, Y] bool.

    Raises:
      ValueError: shapes that do not match, known labels that are not 0 or 1.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or len(labels) != records:
        raise ValueError(
            f"labels {labels.shape} for {records} records: expected [{records}, Y]"
        )
    known = np.ones((1, 1), bool) if known is None else np.asarray(known).astype(bool)
    if known.size > 1 and known.shape not in (labels.shape, (len(labels), 1)):
        raise ValueError(
            f"known is {known.shape} for labels {labels.shape}; give [N, Y] or [N, 1]"
        )
    known = np.broadcast_to(known, labels.shape)
    if not np.isin(labels[known], (0, 1)).all():
        raise ValueError("known labels must be 0 or 1; mask others in known")
    return np.where(known, labels, 0).astype(np.float32), known


@jax.jit
def _finite_rows(features) -> jax.Array:
    return jnp.isfinite(features).all(axis=tuple(range(1, features.ndim)))


def checked_tokens_valid(tokens, valid) -> np.ndarray:
    """[N, L] bool, with a valid token in every record."""
    valid = np.ones(tokens.shape[:2], bool) if valid is None else np.asarray(valid)
    if valid.shape != tokens.shape[:2]:
        raise ValueError(f"tokens_valid is {valid.shape} for tokens {tokens.shape}")
    empty = ~valid.astype(bool).any(axis=1)
    if empty.any():
        raise ValueError(
            f"{empty.sum()} records have no valid token, the first in row "
            f"{np.argmax(empty)}"
        )
    return valid.astype(bool)


def held_out_mask(held_out, records: int) -> np.ndarray:
    """[N] bool from row indices or a mask; some rows must be on either side."""
    mask = np.zeros(records, bool)
    held_out = np.asarray(held_out)
    if held_out.dtype == bool and held_out.shape != (records,):
        raise ValueError(f"held_out is {held_out.shape} for {records} training rows")
    mask[held_out] = True
    if not 0 < mask.sum() < records:
        raise ValueError(
            f"{mask.sum()} of {records} training rows are held out; some must be, "
            "and some not"
        )
    return mask


def check_width(features, width: int, *, rank: int = 2) -> None:
    """Raises ValueError unless these are features like those of the training."""
    if features.ndim != rank or features.shape[-1] != width:
        trained = {2: f"[N, {width}]", 3: f"[N, L, {width}]"}[rank]
        raise ValueError(
            f"features of shape {features.shape} for a probe trained on {trained}"
        )

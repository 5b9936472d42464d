"""Noise that arises at the electrodes, seen in the leads.

Right arm, left arm, left leg and V1-V6 each have noise of their own, and each lead is
a difference of them: so no two leads have the same, and yet III = II - I and the sums
of the augmented leads stay true.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.leads import LEADS_FROM_ELECTRODES

ELECTRODES = LEADS_FROM_ELECTRODES.shape[1]
# Noise of deviation 1 at every electrode, independent, has a root mean square of 1
# over the twelve leads: 1.14 in I, II, III, 0.99 in the augmented, 0.93 in V1-V6.
_LEADS = (
    LEADS_FROM_ELECTRODES / np.sqrt(np.square(LEADS_FROM_ELECTRODES).sum() / 12.0)
).astype(np.float32)


def to_leads(electrodes: jax.Array) -> jax.Array:
    """[..., 9] -> [..., 12], of the same root mean square."""
    return jnp.matmul(electrodes, _LEADS.T, precision=jax.lax.Precision.HIGHEST)


def waves(basis: np.ndarray, weight: jax.Array) -> jax.Array:
    """Sums of waves: [T, K] of them and [B, K, 9] their weights -> [B, T, 12]."""
    highest = jax.lax.Precision.HIGHEST
    basis = basis.astype(np.float32)
    return jnp.einsum("tk,bkc->btc", basis, to_leads(weight), precision=highest)


def cosines_and_sines(frequency: np.ndarray, samples: int, rate: float) -> np.ndarray:
    """[K] Hz -> [T, 2 K]."""
    turns = np.arange(samples)[:, None] / rate * np.asarray(frequency, np.float64)
    # In double precision and of less than one turn: exact for long signals as well.
    angle = 2.0 * np.pi * (turns % 1.0)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)

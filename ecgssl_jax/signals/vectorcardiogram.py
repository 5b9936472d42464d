"""The heart's vector turned, as 3KG does."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.leads import LEADS
from ecgssl_jax.signals import base

# Frank's X (to the left), Y (to the feet), Z (to the back), from the eight
# independent leads. J. A. Kors et al., Reconstruction of the Frank vectorcardiogram
# from standard electrocardiographic leads, European Heart Journal 11, 1990.
_KORS = {
    "I": (0.38, -0.07, 0.11),
    "II": (-0.07, 0.93, -0.23),
    "V1": (-0.13, 0.06, -0.43),
    "V2": (0.05, -0.02, -0.06),
    "V3": (-0.01, -0.05, -0.14),
    "V4": (0.14, 0.06, -0.20),
    "V5": (0.06, -0.17, -0.11),
    "V6": (0.54, 0.13, 0.31),
}
# And back. G. E. Dower, H. B. Machado, J. A. Osborne, On deriving the
# electrocardiogram from vectorcardiographic leads, Clinical Cardiology 3, 1980.
_DOWER = {
    "I": (0.632, -0.235, 0.059),
    "II": (0.235, 1.066, -0.132),
    "V1": (-0.515, 0.157, -0.917),
    "V2": (0.044, 0.164, -1.387),
    "V3": (0.882, 0.098, -1.277),
    "V4": (1.213, 0.127, -0.601),
    "V5": (1.125, 0.127, -0.086),
    "V6": (0.831, 0.076, 0.230),
}
_NEEDED = tuple(LEADS.index(lead) for lead in _KORS)


def vector_from_leads() -> np.ndarray:
    """[3, 12] float32: X, Y, Z of the twelve leads."""
    matrix = np.zeros((3, len(LEADS)), np.float32)
    for lead, column in _KORS.items():
        matrix[:, LEADS.index(lead)] = column
    return matrix


def leads_from_vector() -> np.ndarray:
    """[12, 3] float32: the twelve leads of X, Y, Z, the limb leads' sums kept."""
    rows = {lead: np.array(row) for lead, row in _DOWER.items()}
    one, two = rows["I"], rows["II"]
    rows |= {"III": two - one, "aVR": -(one + two) / 2.0}
    rows |= {"aVL": one - two / 2.0, "aVF": two - one / 2.0}
    return np.stack([rows[lead] for lead in LEADS]).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VcgRotation:
    """The vectorcardiogram turned about a random axis.

    x + D (R - I) K x, where K (Kors) leads to the vector and D (Dower) back, so that
    what the vector does not explain of the leads x stays as it is. After B. Gopal
    et al., 3KG, 2021, arXiv 2106.04452. A record that lacks any of I, II, V1-V6
    stays as it is.

    Attributes:
      degrees: largest angle; uniform from 0, about an axis of any direction.
    """

    degrees: float = 45.0

    def __post_init__(self) -> None:
        if not 0.0 < self.degrees <= 180.0:
            raise ValueError(f"degrees is {self.degrees}; give above 0, at most 180")

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        base.check_leads("vcg_rotation", ecg)
        for_axis, for_angle = jax.random.split(rng)
        axis = jax.random.normal(for_axis, (ecg.shape[0], 3))
        angle = jax.random.uniform(for_angle, ecg.shape[:1]) * math.radians(
            self.degrees
        )
        whole = base.present_leads(ecg)[:, np.array(_NEEDED)].all(axis=1)
        turn = rotation(axis, jnp.where(whole, angle, 0.0)) - jnp.eye(3)
        highest = jax.lax.Precision.HIGHEST
        change = jnp.einsum(
            "ci,bij,jd->bdc",
            leads_from_vector(),
            turn,
            vector_from_leads(),
            precision=highest,
        )
        return ecg + jnp.matmul(ecg, change, precision=highest), length


def rotation(axis: jax.Array, angle: jax.Array) -> jax.Array:
    """[B, 3] of any length and [B] radians -> [B, 3, 3] (Rodrigues' formula)."""
    x, y, z = jnp.moveaxis(axis / jnp.linalg.norm(axis, axis=-1, keepdims=True), -1, 0)
    nought = jnp.zeros_like(x)
    cross = jnp.stack([nought, -z, y, z, nought, -x, -y, x, nought], axis=-1)
    cross = cross.reshape(*x.shape, 3, 3)
    sine, cosine = jnp.sin(angle)[:, None, None], jnp.cos(angle)[:, None, None]
    squared = jnp.einsum("bij,bjk->bik", cross, cross, precision="highest")
    return jnp.eye(3) + sine * cross + (1.0 - cosine) * squared

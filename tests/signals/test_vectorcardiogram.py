"""Rotation of the vectorcardiogram, against geometry and Einthoven."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ecgssl_jax.leads import LEADS
from ecgssl_jax.signals.vectorcardiogram import (
    VcgRotation,
    leads_from_vector,
    rotation,
    vector_from_leads,
)

KEY = jax.random.key(0)


def _hearts(batch=50, samples=40):
    """ECGs of a dipole alone."""
    dipole = jax.random.normal(KEY, (batch, samples, 3))
    return dipole @ leads_from_vector().T, dipole


def test_rotations_agree_with_scipy():
    rng = np.random.default_rng(0)
    axis, angle = rng.normal(size=(20, 3)), rng.uniform(0, np.pi, 20)
    unit = axis / np.linalg.norm(axis, axis=1, keepdims=True)
    expected = Rotation.from_rotvec(unit * angle[:, None]).as_matrix()
    found = rotation(jnp.asarray(axis, jnp.float32), jnp.asarray(angle, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_kors_and_dower_are_nearly_inverse():
    product = vector_from_leads() @ leads_from_vector()
    np.testing.assert_allclose(np.diag(product), 1.0, atol=0.12)
    # The largest disagreement of the two published matrices: the depth of Y.
    assert np.abs(product - np.eye(3)).max() < 0.4


def test_the_vector_keeps_its_length_nearly_and_turns_by_the_angle():
    ecg, dipole = _hearts()
    turned, _ = VcgRotation(degrees=40.0)(KEY, ecg, rate=100.0)
    # Back to the vector by least squares: exact, where it began as one.
    back = np.asarray(turned) @ np.linalg.pinv(leads_from_vector()).T
    ratio = np.linalg.norm(back, axis=2) / np.linalg.norm(dipole, axis=2)
    assert abs(np.median(ratio) - 1) < 0.05
    fit = [Rotation.align_vectors(b, d)[0] for b, d in zip(back, dipole, strict=True)]
    degrees = np.degrees([r.magnitude() for r in fit])
    assert 30 < degrees.max() < 46 and degrees.min() < 10


def test_limb_leads_stay_consistent():
    ecg, _ = _hearts()
    turned = np.asarray(VcgRotation()(KEY, ecg, rate=100.0)[0])
    lead = dict(zip(LEADS, np.moveaxis(turned, -1, 0), strict=True))
    np.testing.assert_allclose(lead["III"], lead["II"] - lead["I"], atol=1e-5)
    total = lead["aVR"] + lead["aVL"] + lead["aVF"]
    np.testing.assert_allclose(total, 0.0, atol=1e-5)
    np.testing.assert_allclose(lead["aVF"], (lead["II"] + lead["III"]) / 2, atol=1e-5)
    assert np.abs(turned - ecg).max() > 0.1


def test_what_the_vector_does_not_explain_stays():
    ecg, _ = _hearts()
    # The vector does not see these leads: the limb leads but I and II.
    extra = jnp.zeros_like(ecg).at[:, :, 2:6].set(1.0)
    turn = VcgRotation()
    with_extra, without = (turn(KEY, x, rate=100.0)[0] for x in (ecg + extra, ecg))
    np.testing.assert_allclose(with_extra - without, extra, atol=1e-5)


def test_records_that_lack_a_lead_it_needs_stay_as_they_are():
    ecg, _ = _hearts(4)
    ecg = ecg.at[1, :, LEADS.index("V4")].set(0.0)
    ecg = ecg.at[2, :, LEADS.index("aVR")].set(0.0)
    turned = np.asarray(VcgRotation()(jax.random.key(2), ecg, rate=100.0)[0])
    np.testing.assert_array_equal(turned[1], ecg[1])
    assert np.abs(turned - ecg)[[0, 2, 3], :, 0].max(axis=1).min() > 1e-3


def test_fewer_leads_are_refused():
    with pytest.raises(ValueError, match="vcg_rotation needs the 12 leads"):
        VcgRotation()(KEY, jnp.ones((2, 10, 8)), rate=100.0)

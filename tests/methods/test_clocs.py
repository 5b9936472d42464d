"""The loss against loops over pairs, and which parts of a record are contrasted."""

import jax
import numpy as np
import pytest

from ecgssl_jax.leads import LEADS
from ecgssl_jax.methods import clocs
from ecgssl_jax.methods.clocs import clocs_loss, contrasted
from ecgssl_jax.models.resnet import ResNet
from ecgssl_jax.settings import ConfigError

SMALL = dict(blocks=(1,), bottleneck=False, features=4)


def reference(z1, z2, patients, temperature, valid):
    """Pair by pair, of the rows that are valid."""
    z1, z2, patients = z1[valid], z2[valid], patients[valid]
    z1, z2 = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2))
    rows = range(len(z1))

    def direction(similarity):
        return np.mean(
            [
                np.log(np.exp(similarity[i]).sum()) - similarity[i, j]
                for i in rows
                for j in rows
                if patients[i] == patients[j]
            ]
        )

    similarity = z1 @ z2.T / temperature
    return (direction(similarity) + direction(similarity.T)) / 2


@pytest.mark.parametrize(
    ("patients", "valid"),
    [
        ([0, 1, 2, 3, 4], [1, 1, 1, 1, 1]),
        ([0, 1, 0, 2, 0], [1, 1, 1, 1, 1]),
        ([0, 1, 0, 2, 0], [1, 0, 1, 1, 0]),
    ],
    ids=["one record each", "repeated patients", "some left out"],
)
def test_loss_is_that_of_a_loop_over_pairs(patients, valid):
    z1, z2 = np.random.default_rng(0).normal(size=(2, 5, 4))
    patients, valid = np.array(patients), np.array(valid, bool)
    with jax.enable_x64(True):
        found = clocs_loss(z1, z2, patients, temperature=0.2, valid=valid)
    expected = reference(z1, z2, patients, 0.2, valid)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_nothing_valid_is_no_loss_and_a_finite_gradient():
    z1, z2 = np.random.default_rng(0).normal(size=(2, 3, 4))

    def loss(z1):
        none = np.zeros(3, bool)
        return clocs_loss(z1, z2, np.arange(3), temperature=0.1, valid=none)

    value, gradient = jax.value_and_grad(loss)(z1)
    assert value == 0 and not np.asarray(gradient).any()


def batch(**more):
    ecg = np.random.default_rng(0).normal(size=(4, 20, 12)).astype(np.float32)
    return {"ecg": ecg, "lead_valid": np.ones((4, 12), bool), **more}


def test_segments_are_the_two_halves():
    inputs = batch()
    first, second = contrasted(inputs, "cmsc", ())
    np.testing.assert_array_equal(first.ecg, inputs["ecg"][:, :10])
    np.testing.assert_array_equal(second.ecg, inputs["ecg"][:, 10:])
    assert first.valid is second.valid is None


def test_a_short_record_without_a_second_half_is_left_out():
    lengths = np.array([20, 13, 10, 4], np.int32)
    first, second = contrasted(batch(length=lengths), "cmsc", ())
    np.testing.assert_array_equal(first.length, [10, 10, 10, 4])
    np.testing.assert_array_equal(second.length, [10, 3, 0, 0])
    np.testing.assert_array_equal(second.valid, [True, True, False, False])


def test_a_lead_is_shown_alone_and_only_where_it_is():
    inputs = batch()
    inputs["lead_valid"][2, LEADS.index("V2")] = False
    views = contrasted(inputs, "cmlc", ("II", "V2"))
    for view, lead in zip(views, ("II", "V2"), strict=True):
        place = LEADS.index(lead)
        np.testing.assert_array_equal(view.ecg[..., place], inputs["ecg"][..., place])
        assert not np.delete(np.asarray(view.ecg), place, axis=-1).any()
    assert np.asarray(views[0].valid).all()
    np.testing.assert_array_equal(views[1].valid, [True, True, False, True])


def test_features_are_the_mean_over_the_leads_that_a_record_has():
    settings = clocs.Settings(mode="cmlc", leads=("II", "V2"))
    method = clocs.build(settings, ResNet(**SMALL), steps=1, masks=None)
    inputs = batch()
    inputs["lead_valid"][2, LEADS.index("V2")] = False
    parameters = method.init(jax.random.key(0), inputs)
    found = method.features(*parameters, inputs)
    alone = []
    for lead in ("II", "V2"):
        shown = np.where(np.arange(12) == LEADS.index(lead), inputs["ecg"], 0)
        encoder = [tree["encoder"] for tree in parameters]
        alone.append(method.encoder.features(*encoder, shown)["pooled"])
    expected = np.mean(alone, axis=0)
    expected[2] = alone[0][2]
    np.testing.assert_allclose(found["pooled"], expected, atol=1e-6)
    assert found["tokens_valid"].sum(axis=1).tolist() == [10, 10, 5, 10]
    by_lead = np.stack(alone, axis=1)
    by_lead[2, 1] = 0
    np.testing.assert_allclose(found["by_lead"], by_lead, atol=1e-6)


def test_features_of_a_lead_are_the_mean_over_the_halves():
    settings = clocs.Settings(mode="cmsmlc", leads=("II", "V2"))
    method = clocs.build(settings, ResNet(**SMALL), steps=1, masks=None)
    inputs = batch()
    parameters = method.init(jax.random.key(0), inputs)
    found = method.features(*parameters, inputs)["by_lead"]
    for place, lead in enumerate(("II", "V2")):
        shown = np.where(np.arange(12) == LEADS.index(lead), inputs["ecg"], 0)
        encoder = [tree["encoder"] for tree in parameters]
        halves = [
            method.encoder.features(*encoder, half)["pooled"]
            for half in np.split(shown, 2, axis=1)
        ]
        np.testing.assert_allclose(found[:, place], np.mean(halves, axis=0), atol=1e-6)


def test_a_lead_that_a_record_lacks_is_not_in_the_batch_statistics():
    settings = clocs.Settings(mode="cmlc", leads=("II", "V2"))
    method = clocs.build(settings, ResNet(**SMALL), steps=1, masks=None)
    inputs = batch(patient=np.arange(4))
    parameters = method.init(jax.random.key(0), inputs)

    def statistics(rows, absent):
        shown = {name: x[rows] for name, x in inputs.items()}
        shown["lead_valid"][np.isin(rows, absent)] = False
        return method.loss(*parameters, shown, jax.random.key(0))[1][0]

    with_absent = statistics(np.arange(4), absent=[1, 3])
    without = statistics(np.array([0, 2]), absent=[])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), with_absent, without
    )


def test_both_are_every_lead_of_every_half():
    views = contrasted(batch(), "cmsmlc", ("II", "V2", "aVL"))
    assert len(views) == 6 and {view.ecg.shape for view in views} == {(4, 10, 12)}


@pytest.mark.parametrize(
    ("leads", "message"),
    [
        (("II",), "expected two or more, each of them once"),
        (("II", "II"), "expected two or more, each of them once"),
        (("II", "avr"), "unknown lead 'avr'; did you mean 'aVR'"),
    ],
)
def test_leads_must_be_several_standard_ones(leads, message):
    with pytest.raises(ValueError, match=message):
        clocs.Settings(leads=leads)


@pytest.mark.parametrize("samples", [1, 19])
def test_a_crop_that_cannot_be_halved_is_an_error(samples):
    inputs = batch() | {"ecg": batch()["ecg"][:, :samples]}
    message = f"crop: {samples} samples cannot be cut into 2 equal parts"
    with pytest.raises(ConfigError, match=message):
        contrasted(inputs, "cmsc", ())


def test_pairs_of_a_patient_are_counted():
    method = clocs.build(clocs.Settings(), ResNet(**SMALL), steps=1, masks=None)
    inputs = batch(patient=np.array([7, 1, 7, 2]))
    parameters = method.init(jax.random.key(0), inputs)
    _, (_, metrics) = method.loss(*parameters, inputs, jax.random.key(0))
    assert metrics["positives"] == 6 / 4

"""Which view predicts which, and what the target network is made of."""

import functools

import jax
import numpy as np
import pytest

from ecgssl_jax.methods import byol
from ecgssl_jax.methods.byol import byol_loss
from ecgssl_jax.models.heads import Settings as HeadSettings
from ecgssl_jax.models.resnet import ResNet
from ecgssl_jax.models.vit import ViT

B, T, C = 8, 64, 3
ENCODER = ResNet(blocks=(1,), bottleneck=False, features=4)


def method(**settings):
    head = HeadSettings(hidden=(6,), out=4)
    sizes = dict(projector=head, predictor=head)
    return byol.build(
        byol.Settings(**(sizes | settings)), ENCODER, steps=10, masks=None
    )


def batch(seed=0):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, B, T, C)).astype(np.float32)
    return {"ecg": first, "views": ({"ecg": first}, {"ecg": second})}


@functools.cache
def state():
    """Parameters, and a target that is unlike the online network."""
    made = method()
    params, extra = made.init(jax.random.key(0), batch())
    other, _ = made.init(jax.random.key(1), batch())
    target = {name: other[name] for name in extra["target"]}
    return params, {**extra, "target": target}


def test_each_view_is_predicted_from_the_other():
    made, inputs = method(), batch()
    params, extra = state()
    loss, (changed, _) = made.loss(params, extra, inputs, jax.random.key(0))

    def project(networks, statistics, view):
        rng = jax.random.key(9)
        pooled, _ = made.encoder.train(
            networks["encoder"], statistics["encoder"], view["ecg"], None, rng
        )
        return made.projector.train(
            networks["projector"], statistics["projector"], pooled
        )[0]

    views = inputs["views"]
    online = [project(params, extra["statistics"], view) for view in views]
    q1, q2 = (
        made.predictor.train(params["predictor"], extra["statistics"]["predictor"], z)[
            0
        ]
        for z in online
    )
    z1, z2 = (
        project(extra["target"], extra["target_statistics"], view) for view in views
    )
    assert float(loss) == pytest.approx(float(byol_loss(q1, q2, z2, z1)), rel=1e-5)
    assert abs(float(byol_loss(q1, q2, z1, z2)) - float(loss)) > 1e-3
    assert jax.tree.structure(changed) == jax.tree.structure(extra)


def test_only_the_online_network_drops_paths():
    vit = ViT(width=8, depth=2, num_heads=2, patch_size=8, drop_path=0.5)
    head = HeadSettings(hidden=(6,), out=4, batch_norm=False)
    settings = byol.Settings(projector=head, predictor=head)
    made = byol.build(settings, vit, steps=10, masks=None)
    params, extra = made.init(jax.random.key(0), batch())

    def spreads(networks):
        """Of the targets, for two keys."""
        keys = (jax.random.key(1), jax.random.key(2))
        return [made.loss(params, networks, batch(), key)[1][1] for key in keys]

    first, second = spreads(extra)
    assert float(first["spread"]) == float(second["spread"])
    assert float(first["similarity"]) != float(second["similarity"])


def test_exchanging_the_views_changes_nothing():
    made, inputs = method(), batch()
    params, extra = state()
    swapped = {**inputs, "views": inputs["views"][::-1]}
    losses = [
        float(made.loss(params, extra, each, jax.random.key(0))[0])
        for each in (inputs, swapped)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_both_networks_keep_the_statistics_of_what_they_have_seen():
    made = method()
    params, extra = state()
    _, (changed, _) = made.loss(params, extra, batch(), jax.random.key(0))
    for name in ("statistics", "target_statistics"):
        before, after = extra[name]["encoder"], changed[name]["encoder"]
        for one, other in zip(
            jax.tree.leaves(before), jax.tree.leaves(after), strict=True
        ):
            assert np.abs(one - other).max() > 0
    unlike = zip(
        jax.tree.leaves(changed["statistics"]["encoder"]),
        jax.tree.leaves(changed["target_statistics"]["encoder"]),
        strict=True,
    )
    assert all(np.abs(one - other).max() > 0 for one, other in unlike)


@pytest.mark.parametrize("step", [0, 4, 10])
def test_the_target_moves_by_the_schedule(step):
    made = method(ema=(0.5, 1.0))
    params, extra = state()
    moved = made.after_update(params, extra, np.int32(step))["target"]
    momentum = 0.5 + 0.5 * step / 10
    online = {name: params[name] for name in moved}
    leaves = map(jax.tree.leaves, (moved, extra["target"], online))
    for found, before, now in zip(*leaves, strict=True):
        expected = momentum * before + (1 - momentum) * now
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_features_are_those_of_the_online_network():
    made = method()
    params, extra = state()
    features = functools.partial(made.features, batch=batch())
    found = features(params, extra)["pooled"]
    no_target = {**extra, "target": None, "target_statistics": None}
    np.testing.assert_array_equal(features(params, no_target)["pooled"], found)
    other, _ = made.init(jax.random.key(5), batch())
    assert np.abs(features(other, extra)["pooled"] - found).max() > 1e-3


def test_a_predictor_of_another_width_than_its_target_is_refused():
    with pytest.raises(ValueError, match=r"projector.out is 128, predictor.out 64"):
        byol.Settings(predictor=HeadSettings(out=64))


def test_equal_vectors_have_no_distance_and_a_finite_gradient():
    same = np.ones((3, 4), np.float32)

    def loss(q):
        return byol_loss(q, q, same, same, distance="euclidean")

    value, gradient = jax.value_and_grad(loss)(same)
    assert value == 0 and np.isfinite(gradient).all()


def test_unknown_distance_is_an_error():
    with pytest.raises(ValueError, match="'l2'; use 'cosine' or 'euclidean'"):
        byol_loss(*np.ones((4, 2, 3)), distance="l2")  # type: ignore[arg-type]

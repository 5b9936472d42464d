"""Chains of transforms: what the config may say, and what every chain must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ecgssl_jax.settings import ConfigError
from ecgssl_jax.signals.views import (
    TRANSFORMS,
    build_views,
    check_views,
    make_views,
)

KEY = jax.random.key(0)
PARAMETERS = {
    "lead_dropout": dict(probability=0.6),
    "random_crop": dict(seconds=3.0),
    "powerline_noise": dict(frequencies=(40.0, 45.0)),
}
RECIPE = [
    ("random_crop", 1.0, dict(seconds=4.0)),
    ("random_resized_crop", 0.8),
    ("time_out", 0.5),
    ("emg_noise", 0.5),
    ("baseline_wander", 0.5),
    ("gaussian_noise", 0.5),
    ("vcg_rotation", 0.5),
]


def _batch(batch=8, samples=500):
    """ECGs with a heartbeat each second, some short, some without all leads."""
    time = np.arange(samples) / 100.0
    beat = np.exp(-0.5 * ((time % 1.0 - 0.5) / 0.03) ** 2) + 0.05
    size = np.random.default_rng(0).uniform(0.2, 1.5, (batch, 1, 12))
    ecg = jnp.asarray(beat[:, None] * size, jnp.float32)
    lead_valid = np.ones((batch, 12), bool)
    lead_valid[1::4, 2:6] = False
    lead_valid[3::4, 7] = False
    length = np.full(batch, samples)
    length[::3] = samples // 2
    return ecg, jnp.asarray(lead_valid), jnp.asarray(length, jnp.int32)


def _one(name, probability=1.0, **parameters):
    return build_views([[(name, probability, PARAMETERS.get(name, {}) | parameters)]])


@pytest.mark.parametrize(
    ("name", "short"),
    [(name, True) for name in TRANSFORMS]
    + [(name, False) for name in ("random_crop", "reversal", "normalisation")],
)
def test_missing_leads_and_padding_stay_zero_and_the_rest_is_changed(name, short):
    ecg, lead_valid, length = _batch()
    length = length if short else None
    ((found, after),) = jax.jit(lambda *x: make_views(_one(name), *x, rate=100.0))(
        KEY, ecg, lead_valid, length
    )
    assert found.dtype == jnp.float32 and np.all(np.isfinite(found))
    samples = 300 if name == "random_crop" else 500
    assert found.shape == (8, samples, 12)
    if short:
        np.testing.assert_array_equal(after, np.minimum(length, samples))
    else:
        assert after is None
    size = np.full(8, samples) if after is None else np.asarray(after)
    valid = (np.arange(samples) < size[:, None])[:, :, None] & lead_valid[:, None]
    assert np.all(np.asarray(found)[~valid] == 0)
    if name != "random_crop":
        changed = np.any(np.where(valid, found != ecg, False), axis=(1, 2))
        # A rotation needs leads that every other record lacks some of.
        assert changed.sum() == (6 if name == "vcg_rotation" else 8)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_are_finite_even_of_missing_leads_and_padding(name):
    ecg, lead_valid, length = _batch()

    def total(ecg):
        ((found, _),) = make_views(_one(name), KEY, ecg, lead_valid, length, rate=100.0)
        return jnp.sum(jnp.sin(found))

    gradient = np.asarray(jax.jit(jax.grad(total))(ecg))
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0
    assert np.all(gradient[1, :, 2:6] == 0) and np.all(gradient[0, 250:] == 0)


def test_a_step_changes_its_share_of_the_records_and_each_one_wholly():
    ecg = jnp.ones((4000, 10, 12))
    ((found, _),) = make_views(
        _one("inversion", 0.3), KEY, ecg, jnp.ones((4000, 12), bool), rate=100.0
    )
    inverted = np.asarray(found) == -1
    assert np.all(inverted == inverted[:, :1, :1])
    # Three deviations of 4,000 draws.
    assert abs(inverted.mean() - 0.3) < 0.022


def test_steps_are_applied_in_their_order_and_drawn_independently():
    ecg, lead_valid = jnp.ones((4000, 10, 12)), jnp.ones((4000, 12), bool)
    views = build_views([[("inversion", 0.5), ("amplitude_scaling", 0.5)]])
    ((found, _),) = make_views(views, KEY, ecg, lead_valid, rate=100.0)
    inverted, scaled = found[:, 0, 0] < 0, np.abs(found[:, 0, 0]) != 1
    counts = np.array(
        [[np.sum((inverted == i) & (scaled == s)) for i in (0, 1)] for s in (0, 1)]
    )
    assert abs(counts - 1000).max() < 120
    order = [("time_out", 1.0), ("normalisation", 1.0)]
    first, last = (
        make_views(build_views([steps]), KEY, *_batch()[:2], rate=100.0)[0][0]
        for steps in (order, order[::-1])
    )
    assert abs(np.asarray(first).mean(axis=1)).max() < 1e-6
    assert abs(np.asarray(last).mean(axis=1)).max() > 1e-3


def test_views_of_a_record_differ_and_another_key_gives_others():
    views = build_views([RECIPE, RECIPE])
    batch = _batch()
    run = jax.jit(lambda *x: make_views(views, *x, rate=100.0))
    (one, short), (two, _) = run(KEY, *batch)
    assert np.all(np.abs(np.asarray(one - two)).max(axis=(1, 2)) > 0)
    np.testing.assert_array_equal(short, np.minimum(batch[2], 400))
    again = run(KEY, *batch)[0][0]
    np.testing.assert_array_equal(one, again)
    other = run(jax.random.key(1), *batch)[0][0]
    assert np.all(np.abs(np.asarray(one - other)).max(axis=(1, 2)) > 0)


def test_views_are_the_same_on_one_and_on_eight_devices_without_traffic():
    rest = ("reversal", "gaussian_blur", "lead_dropout", "normalisation")
    views = build_views([[*RECIPE, *((name, 0.5) for name in rest)]])
    run = jax.jit(lambda *x: make_views(views, *x, rate=100.0))
    batch = _batch(16)
    alone = run(KEY, *batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shared = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    program = run.lower(KEY, *shared).compile()
    together = program(KEY, *shared)
    np.testing.assert_allclose(together[0][0], alone[0][0], atol=1e-5)
    np.testing.assert_array_equal(together[0][1], alone[0][1])
    assert len(together[0][0].sharding.device_set) == 8
    for traffic in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert traffic not in program.as_text()


def test_no_steps_leave_the_record_as_it_is():
    ecg, lead_valid, _ = _batch()
    assert build_views([]) == ()
    ((found, length),) = make_views(build_views([[]]), KEY, ecg, lead_valid, rate=100.0)
    np.testing.assert_array_equal(found, ecg * lead_valid[:, None])
    assert length is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("inversion", r"config.views: expected a list of views"),
        ([("inversion", 0.5)], r"config.views\[0\]: .*each a list of steps"),
        ([["inversion"]], r"config.views\[0\]\[0\]: expected \(name, probability\)"),
        ([[], [("timewarp", 1.0)]], r"views\[1\]\[0\]: .*did you mean 'time_warp'"),
        ([[("time_warp", 1.5)]], r"views\[0\]\[0\]: .*from 0 to 1"),
        ([[("time_warp", True)]], r"views\[0\]\[0\]: .*no number"),
        ([[("time_warp", "1")]], r"views\[0\]\[0\]: .*no number"),
        ([[("time_warp", 1, 0.3)]], r"views\[0\]\[0\]: .*as a mapping"),
        (
            [[("inversion", 1), ("time_warp", 1, dict(strenght=0.3))]],
            r"views\[0\]\[1\] \(time_warp\): .*did you mean 'strength'",
        ),
        ([[("time_warp", 1, dict(strength=1.3))]], r"views\[0\]\[0\].*between 0 and 1"),
        ([[("time_out", 1, dict(seconds=3.0))]], r"views\[0\]\[0\].*a sequence"),
        ([[("random_crop", 1)]], r"views\[0\]\[0\].*seconds is missing"),
        ([[("random_crop", 0.5, dict(seconds=1.0))]], r"\[0\]\[0\].*must be 1"),
    ],
)
def test_configs_that_cannot_be_run_are_refused_with_their_place(config, message):
    with pytest.raises(ConfigError, match=message):
        build_views(config)


def test_lists_and_tuples_say_the_same():
    listed = [list(map(list, [("time_out", 1, dict(seconds=[0.5, 1.0]))]))]
    assert build_views(listed) == build_views(
        ((("time_out", 1.0, dict(seconds=(0.5, 1.0))),),)
    )


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [("inversion", 1), ("random_crop", 1, dict(seconds=6))],
            r"\[0\]\[1\]: random",
        ),
        ([("powerline_noise", 0.5)], r"\[0\]\[0\]: powerline_noise: 60 Hz"),
    ],
)
def test_views_that_do_not_fit_the_signals_are_refused_before_the_first_step(
    steps, message
):
    with pytest.raises(ConfigError, match=message):
        check_views(build_views([steps]), samples=500, leads=12, rate=100.0)
    check_views(build_views([steps]), samples=5000, leads=12, rate=500.0)

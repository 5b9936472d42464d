"""The jitted update alone, with a linear model of one weight per lead."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax import sharding
from ecgssl_jax.data.mixture import even_slots
from ecgssl_jax.experiment import Data, Experiment, Mesh
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.signals import Statistics
from ecgssl_jax.step import micro_batches, set_up
from ecgssl_jax.task import Task

SAMPLES, LEADS, BATCH = 6, 12, 8


class Linear:
    """Predicts 1 from the mean of each lead."""

    def init(self, rng, batch):
        return {"kernel": jax.random.normal(rng, (LEADS, 2))}, {}

    def loss(self, params, extra, batch, rng):
        predicted = batch["ecg"].mean(axis=1) @ params["kernel"]
        return ((predicted - 1) ** 2).mean(), (extra, {})

    def after_update(self, params, extra, step):
        return extra


def batch_of(step, poison=()):
    rng = np.random.default_rng(step)
    ecg = rng.normal(size=(BATCH, SAMPLES, LEADS)).astype(np.float32)
    if step in poison:
        ecg[3, 2, 1] = np.nan
    return {
        "ecg": ecg,
        "source": np.zeros(BATCH, np.int32),
        "lead_valid": np.ones((BATCH, LEADS), bool),
    }


class Drawing(Linear):
    """Tells what it draws."""

    def loss(self, params, extra, batch, rng):
        loss, (extra, _) = super().loss(params, extra, batch, rng)
        drawn = {"method": jax.random.uniform(rng)}
        drawn["view"] = batch["views"][0]
        return loss, (extra, drawn)


def setup_on(batch_size=BATCH, method=None, make_views=None, **axes):
    """The linear model, set up on a mesh of these axes."""
    tables = np.ones((1, LEADS), np.float32)
    task = Task(
        method=method or Linear(),
        make_views=make_views,
        statistics=Statistics(scale=tables, mean=0 * tables, std=tables),
        example=batch_of(0),
        batches=lambda start, stop, rows: iter(()),
    )
    settings = dict(steps=20, data=Data(clip=None), model={}, method={})
    return set_up(
        Experiment(batch_size=batch_size, mesh=Mesh(**axes), **settings), task
    )


def test_the_first_state_is_the_same_on_every_mesh():
    one, other = (setup_on(**axes).first() for axes in ({}, {"fsdp": 2, "tensor": 4}))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert one.params["kernel"].addressable_shards[0].data.shape == (LEADS, 2)
    assert other.params["kernel"].addressable_shards[0].data.shape == (LEADS, 1)


def test_every_step_draws_anew_for_views_and_method():
    def make_views(rng, batch, statistics):
        return (jax.random.uniform(rng),)

    setup = setup_on(method=Drawing(), make_views=make_views)
    state, drawn = setup.first(), []
    for _ in range(3):
        state, metrics = setup.update(state, setup.put(batch_of(0)), None)
        drawn += [float(metrics["view"]), float(metrics["method"])]
    assert len(set(drawn)) == 6


def test_a_batch_that_the_mesh_cannot_split_is_refused():
    with pytest.raises(ConfigError, match="6 rows cannot be split over the 8 devices"):
        setup_on(batch_size=6)


def test_no_step_after_a_bad_one_is_applied():
    # A step's metrics are read while the next one is on its way.
    setup = setup_on()
    state = setup.first()
    kept, healthy = [], []
    for step in range(4):
        batch = setup.put(batch_of(step, poison=(1,)))
        state, metrics = setup.update(state, batch, None)
        kept.append(jax.device_get(dataclasses.replace(state, healthy=jnp.array(True))))
        healthy.append(bool(metrics["healthy"]))
    assert healthy == [True, False, False, False]
    for later in kept[1:]:
        jax.tree.map(np.testing.assert_array_equal, later, kept[0])
    assert int(kept[0].step) == 1


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tensor": 4}])
def test_every_device_s_process_can_stop_the_run(axes):
    # As processes with these devices fill it: only one of them got a signal.
    setup = setup_on(**axes)
    state, batch = setup.first(), setup.put(batch_of(0))
    calm = sharding.one_for_each_device(False, setup.mesh)
    for signalled in (None, *setup.mesh.devices.flat):
        pieces = [
            jax.device_put(
                jnp.full(shard.data.shape, shard.device == signalled), shard.device
            )
            for shard in calm.addressable_shards
        ]
        stop = jax.make_array_from_single_device_arrays(
            calm.shape, calm.sharding, pieces
        )
        state, metrics = setup.update(state, batch, None, stop)
        assert bool(metrics["stop_requested"]) == (signalled is not None)


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (3, 1), (2, 1), (5, 2)])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_micro_batches_hold_what_the_batch_holds(weights, parts):
    """Of a mixture's sets, each part has its share, and every row is in one part."""
    rows = 24 * parts
    pattern, _ = even_slots(weights)
    batch = {"row": jnp.arange(rows), "source": jnp.asarray(pattern[:rows])}
    split = micro_batches(batch, parts)
    assert split["row"].shape == (parts, 24)
    assert sorted(split["row"].ravel().tolist()) == list(range(rows))
    for number in range(len(weights)):
        held = (split["source"] == number).sum(axis=1)
        share = 24 * weights[number] / sum(weights)
        assert np.abs(held - share).max() <= 3


def test_micro_batches_stay_on_their_devices():
    mesh = sharding.make_mesh(Mesh())
    rows = jax.device_put(jnp.zeros((32, 5)), sharding.batch_sharding(mesh))

    def total(rows):
        return jax.lax.map(jnp.sum, micro_batches(rows, 4))

    text = jax.jit(total).lower(rows).compile().as_text()
    moved = ("all-gather(", "all-to-all(", "collective-permute(")
    assert "all-reduce" in text and not any(f" {name}" in text for name in moved)

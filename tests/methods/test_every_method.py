"""What holds for every method: gradients, batches, meshes, precision, resuming."""

import functools
import os
import signal

import jax
import numpy as np
import pytest

from ecgssl_jax import assembly, sharding
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.methods import simclr
from ecgssl_jax.models.vit import mean_pool
from ecgssl_jax.rules import path_string
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.train import train
from tests.methods.cases import (
    BLOCKS,
    CASES,
    HEAD,
    RESNET,
    TWO_VIEWS,
    VIEW,
    B,
    Run,
    batch_of,
    compiled_once,
    experiment_of,
    task_of,
)

every_case = pytest.mark.parametrize("case", CASES)
every_method = pytest.mark.parametrize(
    "case", ["jepa", "simclr", "byol", "meclip", "clocs", "supervised"]
)
# A ViT ends with a norm, whose bias the first batch norm of a head takes away again.
WITHOUT_GRADIENT = {
    case: "encoder/transformer/norm/bias"
    for case in ("simclr-vit", "meclip-vit", "clocs-vit")
}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    with compiled_once(tmp_path_factory.mktemp("compiled")):
        yield


def prepared(experiment, step=0):
    """A batch as a method gets it, its views drawn once."""
    task = task_of(experiment)
    batch = batch_of(step, experiment)
    ecg = batch["ecg"].astype(np.float32) * 1e-3 / 0.3 * batch["lead_valid"][:, None]
    views = {}
    if task.make_views is not None:
        made = task.make_views(jax.random.key(1), batch, task.statistics)
        views = {"views": jax.tree.map(np.asarray, made)}
    return batch | {"ecg": ecg} | views


@functools.cache
def run_of(case, devices=1, dtype="float32"):
    return Run(experiment_of(case, dtype=dtype), devices)


@functools.cache
def outcome(case, devices=1, dtype="float32"):
    """loss, extra, metrics and gradient from the first state, as NumPy arrays."""
    run = run_of(case, devices, dtype)
    first, batch = run.first(), run.put(prepared(run.experiment))
    found = run.loss_and_gradient(first.params, first.extra, batch)
    return jax.tree.map(np.asarray, found)


@functools.cache
def ten_steps(case, devices=1):
    """Losses of ten batches, and the state after them."""
    run = run_of(case, devices)
    return run.steps(batch_of(step, run.experiment) for step in range(10))


def largest(tree):
    return max(np.abs(x).max() for x in jax.tree.leaves(tree))


def assert_trees_close(found, expected, **tolerance):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, other, **tolerance)


@every_case
def test_gradients_reach_every_parameter(case):
    loss, _, _, gradient = outcome(case)
    assert np.isfinite(loss) and loss > 0
    run = run_of(case)
    params = jax.tree.structure(run.first().params)
    assert jax.tree.structure(gradient) == params
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path_string(path)
        # What has no gradient but rounding errors is moved by those.
        reached = np.abs(leaf).max() > 1e-6 * largest(gradient)
        assert reached == (path_string(path) != WITHOUT_GRADIENT.get(case)), path


@pytest.mark.parametrize("case", ["jepa", "byol"])
def test_no_gradient_reaches_the_averages(case):
    run = run_of(case)
    first, batch = run.first(), prepared(run.experiment)
    name = {"jepa": "target_encoder", "byol": "target"}[case]

    def loss(average):
        extra = {**first.extra, name: average}
        return run.task.method.loss(first.params, extra, batch, jax.random.key(3))[0]

    assert largest(jax.jit(jax.grad(loss))(first.extra[name])) == 0


@every_case
def test_the_order_of_a_batch_does_not_matter(case):
    run = run_of(case)
    order = np.random.default_rng(0).permutation(B)
    shuffled = jax.tree.map(lambda x: x[order], prepared(run.experiment))
    first = run.first()
    found = run.loss_and_gradient(first.params, first.extra, run.put(shuffled))
    expected = outcome(case)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert_trees_close(found[3], expected[3], atol=2e-5 * largest(expected[3]))


@every_case
def test_eight_devices_have_the_gradients_of_one(case):
    expected, found = outcome(case), outcome(case, 8)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert_trees_close(found[3], expected[3], atol=1e-5 * largest(expected[3]))


@pytest.mark.parametrize("case", ["simclr", "byol", "meclip", "clocs"])
def test_batch_norms_see_the_global_batch(case):
    expected, found = outcome(case), outcome(case, 8)
    assert len(jax.tree.leaves(expected[1])) > 4
    assert_trees_close(found[1], expected[1], rtol=1e-4, atol=1e-6)


@every_method
def test_bfloat16_is_near_float32(case):
    low, full = outcome(case, dtype="bfloat16"), outcome(case)
    assert low[0] != full[0]
    np.testing.assert_allclose(low[0], full[0], rtol=0.05)
    assert {x.dtype for x in jax.tree.leaves(low[3])} == {np.dtype("float32")}


@every_method
def test_a_step_is_compiled_once(case, caplog):
    run = Run(experiment_of(case), 1)
    with jax.log_compiles():
        run.steps(batch_of(step, run.experiment) for step in range(3))
    compiled = [x for x in caplog.messages if x.startswith("Compiling jit(update)")]
    assert len(compiled) == 1


@every_case
def test_features_are_those_of_each_record_alone(case):
    run = run_of(case)
    _, state = ten_steps(case)
    batch = prepared(run.experiment)
    features = jax.jit(run.task.method.features)
    together = features(state.params, state.extra, batch)
    single = features(state.params, state.extra, jax.tree.map(lambda x: x[3:4], batch))
    assert together["pooled"].ndim == 2 and together["tokens"].ndim == 3
    np.testing.assert_allclose(together["pooled"][3:4], single["pooled"], atol=1e-5)
    mean = mean_pool(together["tokens"], together.get("tokens_valid"))
    np.testing.assert_allclose(mean, together["pooled"], atol=1e-5)


@every_method
def test_an_interrupted_run_equals_an_uninterrupted_one(case, tmp_path, monkeypatch):
    experiment = experiment_of(case)
    # On one device, for which a step compiles several times as fast.
    one = sharding.make_mesh(Mesh(), jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: one)

    def interrupted(start, stop, rows):
        for step, batch in enumerate(task_of(experiment).batches(start, stop, rows)):
            if start + step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    whole = train(experiment, task_of(experiment), tmp_path / "whole")
    with pytest.raises(SystemExit):
        train(experiment, task_of(experiment, interrupted), tmp_path / "cut")
    parts = train(experiment, task_of(experiment), tmp_path / "cut")
    for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@every_method
def test_losses_fall_on_one_batch(case):
    run = run_of(case)
    losses, _ = run.steps([batch_of(0, run.experiment)] * 100)
    assert losses[-5:].mean() < losses[:5].mean()


def without_batch_norm(case):
    """The case's method, with heads that look at one row at a time."""
    method = dict(CASES[case]["method"], projector=dict(HEAD, batch_norm=False))
    if method["name"] == "meclip":
        # A parameter of the comparison, and of no embedding.
        method["learn_temperature"] = True
    return dict(method=method)


@pytest.mark.parametrize(
    ("case", "parts"), [("simclr-vit", 2), ("meclip-vit", 2), ("clocs-vit", 4)]
)
def test_rows_of_all_micro_batches_are_compared_with_each_other(case, parts):
    """As if the batch had not been divided: the same loss, metrics and gradient."""
    found = []
    for accumulate in (1, parts):
        experiment = experiment_of(
            case,
            optim=dict(learning_rate=(2e-3,) * 3, accumulate=accumulate),
            **without_batch_norm(case),
        )
        run = Run(experiment, 1)
        state, metrics = run.update(run.first(), run.put(batch_of(0, experiment)), None)
        found.append(jax.tree.map(np.asarray, (metrics, state.optimiser[1].mu)))
    (whole, gradient), (divided, cached) = found
    for name, value in whole.items():
        np.testing.assert_allclose(divided[name], value, rtol=1e-5, atol=1e-6)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * largest),
        cached,
        gradient,
    )


@pytest.mark.parametrize("case", ["simclr", "meclip", "clocs"])
def test_a_divided_batch_is_the_same_on_every_number_of_devices(case):
    """With batch norms too, which see the same rows together."""
    experiment = experiment_of(
        case, optim=dict(learning_rate=(2e-3,) * 3, accumulate=2)
    )
    batches = [batch_of(step, experiment) for step in range(3)]
    one, eight = (Run(experiment, n).steps(batches)[0] for n in (1, 8))
    np.testing.assert_allclose(eight, one, rtol=1e-4)


def test_what_compares_rows_in_one_piece_is_not_divided(monkeypatch):
    monkeypatch.delattr(simclr.SimClr, "embed")
    with pytest.raises(ConfigError, match="only by a method with embed and compare"):
        assembly.make_method(experiment_of("simclr", optim=dict(accumulate=2)))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("simclr", dict(views=(VIEW,)), "simclr takes 2 views of a record, found 1"),
        ("meclip", TWO_VIEWS, "meclip takes 0 or 1 views of a record, found 2"),
        ("jepa", TWO_VIEWS, "jepa takes 0 views"),
        ("jepa", dict(model=RESNET), "JEPA masks patches and needs model.name='vit'"),
        ("byol", dict(masks=BLOCKS), "BYOL masks nothing"),
    ],
)
def test_what_does_not_fit_a_method_is_named(case, changes, message):
    with pytest.raises(ConfigError, match=message):
        assembly.make_method(experiment_of(case, **changes))


@every_case
def test_features_are_those_of_the_encoder_that_is_kept(case):
    run = run_of(case)
    first = jax.tree.map(np.asarray, run.first())
    method, batch = run.task.method, prepared(run.experiment)
    found = method.features(first.params, first.extra, batch)
    assert ("logits" in found) == (method.labels is not None)
    params, statistics = method.kept(first.params, first.extra)
    if not case.startswith("clocs"):  # Of halves and leads, which are what it knows.
        same = method.encoder.features(params, statistics, batch["ecg"])
        np.testing.assert_allclose(found["pooled"], same["pooled"], atol=1e-6)

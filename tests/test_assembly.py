"""From configs to tasks: what is checked, in which order, and what is made."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from ecgssl_jax import assembly
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.text import canonical_texts, open_vocabulary
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Prepared sets: 'synthetic' at 100 Hz, 'slow' at 50 Hz."""
    folder = tmp_path_factory.mktemp("assembly")
    quiet = dict(report=lambda text: None)
    prepare_dataset(synthetic_source(30), folder / "synthetic", **quiet)
    slow = Settings(rate=50.0)
    prepare_dataset(synthetic_source(30), folder / "slow", settings=slow, **quiet)
    return folder


def experiment(root, **changes):
    values = dict(
        steps=4,
        batch_size=8,
        data=dict(root=str(root), name="synthetic", crop=200),
        masks=dict(kind="blocks", keep=(0.3, 0.4), min_block=2),
        model=dict(width=16, depth=1, num_heads=2, patch_size=20, use_bias=True),
        method=dict(
            name="jepa", predictor_width=16, predictor_depth=1, predictor_num_heads=2
        ),
        evaluators=dict(probe=dict(every=2, valid_folds=(8, 9, 10))),
    )
    for name, change in changes.items():
        merged = {**values[name], **change} if isinstance(change, dict) else change
        values[name] = merged
    return parse(values)


def test_the_example_has_the_shapes_of_the_batches(root):
    task = assembly.make_task(experiment(root))
    batch = next(task.batches(0, 1, slice(None)))
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in task.example.items()
    }


def test_nothing_is_resident_unless_the_cache_is_the_devices(root):
    task = assembly.make_task(experiment(root))
    assert task.resident is None and task.materialise is None
    task = assembly.make_task(experiment(root, data=dict(cache="device")))
    resident = task.resident()
    # 30 records of 1000 samples and 12 leads, on 8 devices.
    assert resident.shape == (32, 12_000)
    assert len(resident.addressable_shards) == len(jax.devices())
    assert resident.addressable_shards[0].data.shape == (4, 12_000)


def test_the_embedded_set_is_made_on_first_use(tmp_path):
    few = experiment(tmp_path, data=dict(synthetic_records=24))
    prepared = assembly.open_set(few.data, "synthetic")
    assert len(prepared) == 24
    again = assembly.open_set(few.data, "synthetic")
    np.testing.assert_array_equal(again.read([3]), prepared.read([3]))


def test_two_runs_that_start_together_share_the_embedded_set(tmp_path, monkeypatch):
    # Both have found that it is not there before either makes it.
    together = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(assembly.reporting, "say", lambda text: together.wait())
    few = experiment(tmp_path, data=dict(synthetic_records=24))
    with ThreadPoolExecutor(2) as pool:
        for prepared in pool.map(assembly.open_set, [few.data] * 2, ["synthetic"] * 2):
            assert len(prepared) == 24
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


def test_a_set_that_was_never_prepared_names_the_command(tmp_path):
    settings = experiment(tmp_path, data=dict(name="mine"))
    with pytest.raises(FileNotFoundError, match="python -m ecgssl_jax.prepare"):
        assembly.make_task(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method=dict(name="jepaa")), "did you mean 'jepa'"),
        (dict(method=dict(predictor_dept=2)), "did you mean 'predictor_depth'"),
        (dict(model=dict(patch_size=30)), "30 does not divide the crop of 200"),
        (dict(masks=dict(kind="block")), "did you mean 'blocks'"),
        (dict(masks=dict(min_blok=3)), "did you mean 'min_block'"),
        (dict(batch_size=12), "12 rows cannot be split over the 8 devices"),
        (dict(evaluators=dict(probe=dict(evry=2))), "did you mean 'every'"),
        (dict(checkpoint=dict(best="probe/auroc")), "no evaluator yields"),
    ],
)
def test_what_needs_no_data_is_checked_before_any_is_made(tmp_path, changes, message):
    if "checkpoint" in changes:
        settings = experiment(tmp_path)
        settings = parse({**_as_config(settings), "checkpoint": changes["checkpoint"]})
    else:
        settings = experiment(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        assembly.make_task(settings)
    assert not list(tmp_path.iterdir())


def _as_config(settings):
    names = ("steps", "batch_size", "masks", "model", "method", "evaluators")
    data = dict(root=settings.data.root, crop=settings.data.crop)
    return {"data": data} | {name: getattr(settings, name) for name in names}


def test_a_probe_at_another_rate_than_the_data_is_an_error(root):
    probe = dict(probe=dict(data="slow", valid_folds=(8, 9, 10)))
    with pytest.raises(ConfigError, match="slow has 50 Hz, .* synthetic, 100 Hz"):
        assembly.make_task(experiment(root, evaluators=probe))


def test_a_crop_longer_than_the_records_is_an_error(root):
    with pytest.raises(ConfigError, match="2000 samples, but the records of synthetic"):
        assembly.make_task(experiment(root, data=dict(crop=2000)))


# ---- Texts and labels ----


def of_method(root, **method):
    return parse(
        dict(
            steps=4,
            batch_size=8,
            # Not all folds, so that a record's row is not its place among them.
            data=dict(root=str(root), name="synthetic", crop=200, folds=(2, 4, 6, 8)),
            model=dict(width=16, depth=1, num_heads=2, patch_size=20),
            method=method,
        )
    )


def test_batches_have_the_reports_of_their_records(root):
    task = assembly.make_task(of_method(root, name="meclip", text_length=16))
    batch = next(task.batches(0, 1, slice(None)))
    prepared = open_prepared(root / "synthetic")
    vocabulary = open_vocabulary(prepared)
    reports = [prepared.index["text"][record] for record in batch["record"]]
    tokens, valid = vocabulary.encode(reports, 16)
    np.testing.assert_array_equal(batch["text"], tokens)
    np.testing.assert_array_equal(batch["text_valid"], valid)
    equal = batch["text_ids"][:, None] == batch["text_ids"]
    canonical = np.array(canonical_texts(reports))
    np.testing.assert_array_equal(equal, canonical[:, None] == canonical)


def test_batches_have_the_labels_of_their_records(root):
    task = assembly.make_task(of_method(root, name="supervised", num_labels=20))
    batch = next(task.batches(0, 1, slice(None)))
    index = open_prepared(root / "synthetic").index
    np.testing.assert_array_equal(batch["labels"], index["labels"][batch["record"]])
    known = index["labels_valid"][batch["record"]].astype(bool)
    np.testing.assert_array_equal(batch["labels_valid"], known)
    assert batch["labels"].any()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dict(name="supervised", num_labels=3), "num_labels: 3, but .* has 20 labels"),
        (
            dict(name="supervised", num_labels=5, task="superdiagnostic"),
            "config.method.task: synthetic has no table of SCP statements",
        ),
        (dict(name="meclip", vocabulary_size=9), "vocabulary_size: 9, but the voc"),
    ],
)
def test_what_the_set_has_not_is_named(root, method, message):
    with pytest.raises(ConfigError, match=message):
        assembly.make_task(of_method(root, **method))

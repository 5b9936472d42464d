"""From configs to tasks: what is checked, in which order, and what is made."""

import dataclasses
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from ecgssl_jax import assembly
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.reports import canonical_texts
from ecgssl_jax.data.text import Vocabulary, open_vocabulary
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.experiment import parse
from ecgssl_jax.reporting import read_metrics
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.train import train

BATCH = np.arange(8)  # rows

PROBE = dict(train_folds=(1, 2, 3, 4, 5, 6, 7), valid_folds=(8, 9, 10))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Prepared sets: 'synthetic' and 'other' at 100 Hz, 'slow' at 50 Hz."""
    folder = tmp_path_factory.mktemp("assembly")
    quiet = dict(report=lambda text: None)
    prepare_dataset(synthetic_source(30), folder / "synthetic", **quiet)
    other = synthetic_source(20, seed=1)
    prepare_dataset(other, folder / "other", settings=Settings(scale=0.002), **quiet)
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
        evaluators=dict(probe=PROBE | dict(every=2)),
    )
    for name, change in changes.items():
        merged = {**values[name], **change} if isinstance(change, dict) else change
        values[name] = merged
    return parse(values)


def test_the_example_has_the_shapes_of_the_batches(root):
    task = assembly.make_task(experiment(root))
    batch = next(task.batches(0, 1, BATCH))
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


def test_an_embedded_set_of_another_size_is_told_of(root, capsys):
    assembly.open_set(
        experiment(root, data=dict(synthetic_records=30)).data, "synthetic"
    )
    assert capsys.readouterr().out == ""
    assembly.open_set(
        experiment(root, data=dict(synthetic_records=9)).data, "synthetic"
    )
    assert "before, of 30 records and not of 9; delete it" in capsys.readouterr().out


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
    probe = dict(probe=PROBE | dict(data="slow"))
    with pytest.raises(ConfigError, match="slow has 50 Hz, .* synthetic, 100 Hz"):
        assembly.make_task(experiment(root, evaluators=probe))


def test_a_crop_longer_than_the_records_is_an_error(root):
    with pytest.raises(ConfigError, match="2000 samples, but the records of synthetic"):
        assembly.make_task(experiment(root, data=dict(crop=2000)))


def test_a_view_that_the_encoder_cannot_take_is_named_before_the_run(root):
    settings = of_method(root, name="clocs")
    halves = dataclasses.replace(settings.data, crop=220)
    with pytest.raises(ConfigError, match="20 does not divide the 110 samples"):
        assembly.make_task(dataclasses.replace(settings, data=halves))


def test_a_run_knows_its_sets_by_the_names_in_the_config_and_their_folds(root):
    settings = of_method(root, name="simclr")
    data = dataclasses.replace(settings.data, folds=(1, 2, 3))
    described = assembly.describe_mixture(data, assembly.open_mixture(data))
    (name, found), (prepared,) = *described.items(), assembly.open_mixture(data).sets
    assert (name, found["folds"], found["source"]) == ("synthetic", [1, 2, 3], 0)
    assert found["content_hash"] == prepared.metadata["content_hash"]


# ---- Methods of one's own ----

OWN_METHOD = """
import dataclasses
from ecgssl_jax.methods import simclr

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(simclr.Settings):
    own: int = 1

build = simclr.build
"""


def test_a_method_may_be_a_module_of_ones_own(tmp_path, monkeypatch, root):
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "mine.py").write_text(OWN_METHOD)
    (tmp_path / "my_methods" / "empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    views = ((), ())

    def make(name):
        own = dataclasses.replace(of_method(root, name=name, own=3), views=views)
        return assembly.make_method(own)

    assert make("my_methods.mine").settings.own == 3
    with pytest.raises(ConfigError, match="has no Settings and no build"):
        make("my_methods.empty")
    with pytest.raises(ConfigError, match=r"my_methods.mein cannot be imported"):
        make("my_methods.mein")
    (tmp_path / "my_methods" / "broken.py").write_text("import no_such_package")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        make("my_methods.broken")


BAD_METHOD = """
import dataclasses
import jax.numpy as jnp
from ecgssl_jax.methods import simclr

Settings = simclr.Settings

@dataclasses.dataclass(frozen=True)
class Bad:
    num_views, text, labels, leads, couples_rows = (0,), None, None, (), False

    def init(self, rng, batch):
        return {{"x": jnp.zeros(3)}}, {{}}

    def loss(self, params, extra, batch, rng):
        return params["x"].sum(), (extra, {{}})

    def after_update(self, params, extra, step):
        return extra

    def kept(self, params, extra):
        return params, {{}}

    def features(self, params, extra, batch):
        return {{"pooled": batch["ecg"][:, 0], "tokens": batch["ecg"]}}

{change}

def build(settings, encoder, *, steps, masks):
    return Bad()
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", None),
        ("del Bad.couples_rows", "makes a method without couples_rows; "),
        ("def build(settings, encoder): ...", "is called as build.settings, encoder"),
        ("Bad.init = lambda self, r, b: {}", "init of .* must return params and extra"),
        ("Bad.loss = lambda *x: jnp.zeros(())", "loss of .* return loss, .extra, metr"),
        ("Bad.loss = lambda *x: (jnp.zeros(2), ({}, {}))", "scalars; the loss is none"),
        (
            "Bad.loss = lambda *x: (jnp.zeros(()), ({}, {'a': jnp.ones(2)}))",
            "scalars; a is none",
        ),
        ("Bad.after_update = lambda *x: {'more': 1.0}", "an extra of the structure"),
        (
            (
                "Bad.init = lambda *x: ({}, jnp.zeros((), int))\n"
                "Bad.loss = lambda self, p, e, b, r: (jnp.zeros(()), (e, {}))\n"
                "Bad.after_update = lambda self, p, e, s: e * 0.9"
            ),
            "after_update of .* an extra of the structure, shapes and dtypes",
        ),
        ("Bad.features = lambda *x: {'tokens': x[3]['ecg']}", r"pooled \[B, ...\]"),
    ],
)
def test_a_method_that_breaks_the_contract_is_told_so(
    tmp_path, monkeypatch, root, change, message
):
    name = f"bad_{abs(hash(change))}"
    text = BAD_METHOD.format(change=change)
    if "def build" in change:  # the last one counts
        text = BAD_METHOD.format(change="").rpartition("def build")[0] + change
    (tmp_path / f"{name}.py").write_text(text)
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / f"{name}.py").rename(package / f"{name}.py")
    monkeypatch.syspath_prepend(tmp_path)
    settings = of_method(root, name=f"package.{name}")
    monkeypatch.delitem(sys.modules, "package", raising=False)
    if message is None:
        assembly.make_task(settings)
        return
    with pytest.raises(ConfigError, match=message):
        assembly.make_task(settings)


def test_a_set_of_another_rate_than_the_config_is_for_is_named(root):
    fits = dataclasses.replace(of_method(root, name="clocs").data, rate=100.0)
    assembly.open_mixture(fits)
    message = (
        "rate: 100 Hz, but slow has 50 Hz; prepare it with --rate=100, or set rate=50"
    )
    with pytest.raises(ConfigError, match=message):
        assembly.open_mixture(dataclasses.replace(fits, name="slow"))


def test_the_number_of_epochs_is_told(root, capsys):
    settings = of_method(root, name="clocs")
    task = assembly.make_task(dataclasses.replace(settings, steps=30, batch_size=8))
    assert task is not None
    count = len(assembly.open_mixture(settings.data).records)
    assert f"crops of 2 s, {30 * 8 / count:.3g} epochs" in capsys.readouterr().out


# ---- Mixtures ----


def mixture_of(root, *components, **data):
    settings = of_method(root, name="clocs")
    values = dict(root=str(root), crop=200, mixture=components, **data)
    config = dict(steps=4, batch_size=8, model=settings.model, method=settings.method)
    return parse({**config, "data": values})


def test_each_set_of_a_mixture_has_its_own_statistics(root):
    parts = (dict(name="synthetic", folds=(1, 2, 3)), dict(name="other"))
    task = assembly.make_task(mixture_of(root, *parts))
    sets = [open_prepared(root / name) for name in ("synthetic", "other")]
    for name in ("mean", "std"):
        table = getattr(task.statistics, name)
        expected = np.stack([getattr(prepared, name) for prepared in sets])
        np.testing.assert_allclose(table, expected, rtol=1e-6)
    np.testing.assert_allclose(task.statistics.scale[:, 0], [s.scale for s in sets])
    assert list(task.meta["data"]) == ["synthetic", "other"]
    for batch in task.batches(0, 3, BATCH):
        first = batch["source"] == 0
        assert set(sets[0].index["fold"][batch["record"][first]]) <= {1, 2, 3}
        assert (batch["record"][~first] >= len(sets[0])).all()


def test_a_run_is_not_continued_with_its_sets_in_another_order(root, tmp_path):
    """Rows are normalised by the number of their set."""
    parts = (dict(name="synthetic"), dict(name="other"))
    first = dataclasses.replace(mixture_of(root, *parts), steps=1)
    train(first, assembly.make_task(first), tmp_path)
    turned = dataclasses.replace(mixture_of(root, *parts[::-1]), steps=2)
    with pytest.raises(
        ConfigError, match="sets .'synthetic', 'other'. and .'other', 'synthetic'"
    ):
        train(turned, assembly.make_task(turned), tmp_path)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_workdir_of_another_method_is_refused(root, tmp_path, steps):
    """Whether that run is finished or not."""
    settings = dataclasses.replace(of_method(root, name="clocs"), steps=1)
    task = assembly.make_task(settings)
    train(settings, task, tmp_path, meta={"config": {"method": {"name": "clocs"}}})
    other = {"config": {"method": {"name": "simclr"}}}
    settings = dataclasses.replace(settings, steps=steps)
    with pytest.raises(ConfigError, match="of the method 'clocs', not of 'simclr'"):
        train(settings, task, tmp_path, meta=other)


def test_a_mixture_without_weights_follows_the_sizes(root):
    parts = (dict(name="synthetic", folds=(1, 2, 3)), dict(name="other"))
    opened = assembly.open_mixture(mixture_of(root, *parts).data)
    taken = np.isin(opened.sets[0].index["fold"], (1, 2, 3)).sum()
    sizes = (taken / (taken + 20), 20 / (taken + 20))
    assert opened.shares == pytest.approx(sizes, abs=1e-5)
    weighted = [dict(part, weight=w) for part, w in zip(parts, (1, 3), strict=True)]
    opened = assembly.open_mixture(mixture_of(root, *weighted).data)
    assert opened.shares == pytest.approx((0.25, 0.75))


@pytest.mark.parametrize(
    ("parts", "data", "message"),
    [
        ([dict(name="other"), dict(name="other")], {}, "other occurs more than once"),
        ([dict(name="other", weight=1), dict(name="slow")], {}, "in all .* or in none"),
        ([dict(name="other", weight=0)], {}, "positive number, found 0"),
        ([dict(name="other", fold=(1,))], {}, "did you mean 'folds'"),
        ([dict(name="other")], dict(folds=(1,)), "each set of a mixture has folds"),
        ([dict(name="other"), dict(name="slow")], {}, "other has 100 Hz, slow 50 Hz"),
        ([dict(name="other", folds=(99,))], {}, r"mixture\[0\].folds: .* no fold"),
    ],
)
def test_a_mixture_that_does_not_fit_is_named(root, parts, data, message):
    with pytest.raises(ConfigError, match=message):
        assembly.open_mixture(mixture_of(root, *parts, **data).data)


def test_labels_and_texts_of_a_mixture_are_those_of_its_records(root):
    parts = (dict(name="synthetic", weight=1), dict(name="other", weight=1))
    sets = [open_prepared(root / part["name"]) for part in parts]
    labels = np.concatenate([each.index["labels"] for each in sets])
    reports = np.concatenate([each.index["text"] for each in sets])
    canonical = np.array(canonical_texts(reports))
    for method in (dict(name="supervised", num_labels=20), dict(name="meclip")):
        mixture = mixture_of(root, *parts)
        task = assembly.make_task(dataclasses.replace(mixture, method=method))
        batch = next(task.batches(0, 1, BATCH))
        assert sorted(batch["source"]) == [0] * 4 + [1] * 4
        if "labels" in batch:
            np.testing.assert_array_equal(batch["labels"], labels[batch["record"]])
            continue
        own = canonical[batch["record"]]
        equal = batch["text_ids"][:, None] == batch["text_ids"]
        np.testing.assert_array_equal(equal, own[:, None] == own)
        vocabulary = Vocabulary.from_json(task.tokens["vocabulary"])
        tokens, _ = vocabulary.encode(list(reports[batch["record"]]), 64)
        np.testing.assert_array_equal(
            batch["text"], tokens[:, : batch["text"].shape[1]]
        )


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
    batch = next(task.batches(0, 1, BATCH))
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
    batch = next(task.batches(0, 1, BATCH))
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
            "config.method.task: synthetic has no table of labels that tells of",
        ),
        (dict(name="meclip", vocabulary_size=9), "vocabulary_size: 9, but the voc"),
    ],
)
def test_what_the_set_has_not_is_named(root, method, message):
    with pytest.raises(ConfigError, match=message):
        assembly.make_task(of_method(root, **method))


def test_a_run_from_the_devices_memory_is_the_one_from_disk(root, tmp_path):
    """With views and a mixture: what lies on the devices is completed before both."""
    view = (("random_resized_crop", 1.0), ("gaussian_noise", 0.5))
    settings = mixture_of(root, dict(name="synthetic"), dict(name="other"))
    settings = dataclasses.replace(
        settings,
        method={"name": "simclr"},
        views=(view, view),
    )
    losses = []
    for cache in ("none", "device"):
        data = dataclasses.replace(settings.data, cache=cache)
        cached = dataclasses.replace(settings, data=data, steps=2, log_every=1)
        train(cached, assembly.make_task(cached), tmp_path / cache)
        lines = read_metrics(tmp_path / cache)
        losses.append([line["loss"] for line in lines])
    assert len(losses[0]) == 2 and np.isfinite(losses).all()
    assert losses[0] == losses[1]


def test_best_by_predictions_that_no_evaluator_can_score_is_named():
    experiment = types.SimpleNamespace(
        checkpoint=types.SimpleNamespace(best="probe/predictions_auroc"),
        method={"task": "all"},
    )
    prepared = types.SimpleNamespace(name="mine")
    metrics = ("macro_auroc", "rankme")
    probe = types.SimpleNamespace(metrics=metrics, prepared=prepared)
    with pytest.raises(
        ConfigError, match="of mine, .*; take one of probe/macro_auroc,"
    ):
        assembly.check_yielded(experiment, {"probe": probe})
    assembly.check_yielded(experiment, {"other": probe})
    experiment.checkpoint.best = "probe/macro_auroc"
    assembly.check_yielded(experiment, {"probe": probe})

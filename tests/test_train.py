"""The loop on arrays in memory, with a linear model of one weight per lead."""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax import reporting
from ecgssl_jax.checkpoint_reading import load_params
from ecgssl_jax.experiment import Checkpoints, Data, Experiment, Mesh
from ecgssl_jax.optim import Settings as Optim
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.signals import Statistics
from ecgssl_jax.task import Task
from ecgssl_jax.train import DeviceMemoryError, TrainingDiverged, train

ROOT = Path(__file__).resolve().parents[1]
SAMPLES, LEADS, BATCH = 6, 12, 8
TIMES = {
    "samples_per_second",
    "step_seconds",
    "data_wait_seconds",
    "compute_seconds",
    "data_wait_share",
    "elapsed_seconds",
}


class Linear:
    """Predicts 1 from the mean of each lead; `extra` counts the updates."""

    def init(self, rng, batch):
        del batch
        params = {"kernel": jax.random.normal(rng, (LEADS, 1))}
        return params, {"updates": jnp.zeros((), jnp.int32)}

    def loss(self, params, extra, batch, rng):
        noise = 0.1 * jax.random.normal(rng, (len(batch["ecg"]), 1))
        predicted = batch["ecg"].mean(axis=1) @ params["kernel"] + noise
        return ((predicted - 1) ** 2).mean(), (extra, {"mean": predicted.mean()})

    def after_update(self, params, extra, step):
        return {"updates": extra["updates"] + 1}

    def features(self, params, extra, batch):
        return {"pooled": batch["ecg"].mean(axis=1), "tokens": batch["ecg"]}


@dataclasses.dataclass(frozen=True)
class Scores:
    """An evaluator with given scores by step."""

    scores: dict
    every: int = 4

    def run(self, state):
        yield "score", self.scores.get(int(state.step), 0.0)


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


class Batches:
    """A source of batches that can be poisoned, and send this process SIGTERM."""

    def __init__(self, poison=(), sigterm_at=(), error_at=None):
        self.poison, self.sigterm_at, self.error_at = poison, sigterm_at, error_at

    def __call__(self, start, stop, rows):
        for step in range(start, stop):
            if step in self.sigterm_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if step == self.error_at:
                raise OSError("the disk is gone")
            batch = batch_of(step, self.poison)
            yield {name: x[rows] for name, x in batch.items()}


def task(batches=None, scores=None, **fields):
    tables = np.ones((1, LEADS), np.float32)
    evaluators = {} if scores is None else {"probe": Scores(scores)}
    return Task(
        method=Linear(),
        statistics=Statistics(scale=tables, mean=0 * tables, std=tables),
        example=batch_of(0),
        batches=batches or Batches(),
        evaluators=evaluators,
        **fields,
    )


def experiment(steps=20, every=7, **fields):
    values = dict(
        steps=steps,
        batch_size=BATCH,
        data=Data(clip=None),
        model={},
        method={},
        optim=Optim(learning_rate=(1e-2, 1e-2, 1e-3)),
        checkpoint=Checkpoints(every=every, keep=3, best="probe/score"),
        log_every=5,
    )
    return Experiment(**{**values, **fields})


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def lines_without_times(workdir):
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in reporting.read_metrics(workdir)
    ]


def assert_same_state(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---- Continuing ----


def test_a_run_cut_by_sigterm_equals_an_uninterrupted_one(tmp_path, capsys):
    scores = {4: 0.5, 8: 0.8, 12: 0.7, 16: 0.9, 20: 0.1}
    whole = train(experiment(), task(scores=scores), tmp_path / "whole")
    source = Batches(sigterm_at=(0, 16))
    # The signal travels with a batch, and its metrics are read a step later: with
    # the second update for the first batch.
    for expected in (2, 18):
        with pytest.raises(SystemExit) as stopped:
            train(experiment(), task(source, scores), tmp_path / "cut")
        assert stopped.value.code == 143
        assert f"step {expected} is saved" in capsys.readouterr().out
        source.sigterm_at = source.sigterm_at[1:]
    parts = train(experiment(), task(source, scores), tmp_path / "cut")
    assert_same_state(parts, whole)
    assert int(parts.step) == int(parts.extra["updates"]) == 20
    assert lines_without_times(tmp_path / "cut") == lines_without_times(
        tmp_path / "whole"
    )
    for workdir in ("whole", "cut"):
        assert load_params(tmp_path / workdir / "best", subtree="step")[0] == 16


def test_sigterm_at_the_last_step_finishes_the_run(tmp_path, capsys):
    state = train(experiment(), task(Batches(sigterm_at=(19,))), tmp_path)
    assert int(state.step) == 20
    assert steps_in(tmp_path / "checkpoints") == [7, 14, 20]
    assert "stopped" not in capsys.readouterr().out


def test_the_handler_of_sigterm_comes_back(tmp_path):
    former = signal.getsignal(signal.SIGTERM)
    train(experiment(steps=2), task(), tmp_path)
    assert signal.getsignal(signal.SIGTERM) is former


def test_an_interval_that_does_not_divide_saves_the_last_step_too(tmp_path):
    train(experiment(steps=10, every=4), task(), tmp_path)
    assert steps_in(tmp_path / "checkpoints") == [4, 8, 10]


def test_an_interval_that_divides_saves_the_last_step_once(tmp_path):
    train(experiment(steps=8, every=4), task(), tmp_path)
    assert steps_in(tmp_path / "checkpoints") == [4, 8]


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    finished = train(experiment(), task(), tmp_path)
    before = (tmp_path / reporting.METRICS).read_bytes()
    capsys.readouterr()
    again = train(experiment(), task(Batches(error_at=0)), tmp_path)
    assert_same_state(again, finished)
    assert (tmp_path / reporting.METRICS).read_bytes() == before
    assert "has finished its 20 steps" in capsys.readouterr().out


def test_a_run_longer_than_the_config_is_an_error(tmp_path):
    train(experiment(), task(), tmp_path)
    with pytest.raises(ConfigError, match="config.steps: 10, but .* run of 20 steps"):
        train(experiment(steps=10), task(), tmp_path)


def test_tokens_of_another_vocabulary_are_refused(tmp_path):
    def run(steps, words):
        tokens = {"vocabulary": {"words": words, "sort_phrases": False}}
        train(experiment(steps=steps), task(tokens=tokens), tmp_path)

    run(4, ("sinus", "rhythm"))
    run(6, ("sinus", "rhythm"))
    message = f"{tmp_path} was trained with another vocabulary .* another workdir"
    with pytest.raises(ConfigError, match=message):
        run(8, ("rhythm", "sinus"))


CONFIG = dict(
    seed=0,
    method=dict(name="a", temperature=0.1),
    views=[[["time_out", 1.0, {"seconds": [0.0, 1.0]}]]],
    optim=dict(clip_norm=None),
)


@pytest.mark.parametrize("steps", [4, 6], ids=["finished", "continued"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(seed=1), r"another seed \(config.seed: 0 -> 1\); choose another workdir"),
        (
            dict(method=dict(name="a", temperature=0.2)),
            r"another method \(config.method.temperature: 0.1 -> 0.2\)",
        ),
        (
            dict(views=[[["time_out", 1.0, {"seconds": [0.0, 2.5]}]]]),
            r"views \(config.views\[0\]\[0\]\[2\].seconds\[1\]: 1.0 -> 2.5\)",
        ),
        (dict(masks=dict(kind="random")), "another masks .*None -> "),
    ],
    ids=["seed", "method", "views", "masks"],
)
def test_what_another_run_would_be_is_refused(tmp_path, steps, changes, message):
    train(experiment(steps=4), task(), tmp_path, meta={"config": CONFIG})
    with pytest.raises(ConfigError, match=message):
        meta = {"config": CONFIG | changes}
        train(experiment(steps=steps), task(), tmp_path, meta=meta)


def test_other_changes_are_listed_also_of_a_finished_run(tmp_path, capsys):
    train(experiment(steps=4), task(), tmp_path, meta={"config": CONFIG})
    meta = {"config": CONFIG | dict(optim=dict(clip_norm=1.0))}
    for steps in (4, 6):
        train(experiment(steps=steps), task(), tmp_path, meta=meta)
        line = "changed since step 4: config.optim.clip_norm: None -> 1.0"
        assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"b": {"folds": None}}, r"\(the sets \('a',\) and \('b',\)\); give it the"),
        ({"a": {"folds": [1]}}, r"\(data.a.folds: None -> \[1\]\); give it the sets"),
    ],
)
def test_other_data_are_refused_also_by_a_finished_run(tmp_path, data, message):
    train(experiment(steps=4), task(), tmp_path, meta={"data": {"a": {"folds": None}}})
    with pytest.raises(ConfigError, match=message):
        train(experiment(steps=4), task(), tmp_path, meta={"data": data})


def test_best_and_its_score_go_back_with_the_run(tmp_path):
    scores = {4: 0.5, 8: 0.9, 12: 0.6, 16: 0.7, 20: 0.1}
    # Killed after the evaluation of step 8, before the save of step 14: what is on
    # disk is step 7 and the best of step 8.
    with pytest.raises(OSError, match="the disk is gone"):
        train(experiment(), task(Batches(error_at=10), scores), tmp_path)
    assert steps_in(tmp_path / "checkpoints") == [7]
    assert steps_in(tmp_path / "best") == [4, 8]
    # This time step 8 is worse than 4, so that 16 is the best.
    scores[8] = 0.2
    train(experiment(), task(scores=scores), tmp_path)
    assert load_params(tmp_path / "best", subtree="step")[0] == 16
    meta = load_params(tmp_path / "checkpoints", subtree="step")[1]
    assert meta["best_score"] == 0.7
    lines = reporting.read_metrics(tmp_path)
    assert [x["probe/score"] for x in lines if "probe/score" in x] == [
        scores[step] for step in (4, 8, 12, 16, 20)
    ]


def test_a_best_that_is_lost_for_good_does_not_bar_the_next(tmp_path):
    scores = {4: 0.5, 8: 0.6, 12: 0.9}
    with pytest.raises(OSError, match="the disk is gone"):
        train(experiment(), task(Batches(error_at=13), scores), tmp_path)
    # Step 4's made room for those of 8 and 12, which are beyond what was saved.
    assert steps_in(tmp_path / "checkpoints") == [7]
    assert steps_in(tmp_path / "best") == [8, 12]
    train(experiment(), task(scores={8: 0.3, 12: 0.2, 16: 0.4}), tmp_path)
    assert load_params(tmp_path / "best", subtree="step")[0] == 16


def test_scores_of_another_metric_are_not_compared(tmp_path):
    def meta(metric, every):
        evaluators = {"probe": {"every": every}}
        return {"config": {"checkpoint": {"best": metric}, "evaluators": evaluators}}

    def best_after(steps, score, meta):
        scores = dict.fromkeys(range(21), score)
        train(experiment(steps=steps), task(scores=scores), tmp_path, meta=meta)
        return load_params(tmp_path / "best", subtree="step")[0]

    assert best_after(4, 40.0, meta("probe/rank", 4)) == 4
    # The same metric, looked at more often.
    assert best_after(8, 30.0, meta("probe/rank", 2)) == 4
    assert best_after(12, 0.7, meta("probe/score", 2)) == 12


def test_scores_on_another_set_are_not_compared(tmp_path, capsys):
    def best_after(steps, score, evaluated):
        scores = dict.fromkeys(range(21), score)
        sets = {"evaluated": {"probe": {"content_hash": evaluated}}}
        train(experiment(steps=steps), task(scores=scores), tmp_path, meta=sets)
        return load_params(tmp_path / "best", subtree="step")[0]

    assert best_after(4, 0.9, "a") == 4
    assert best_after(8, 0.8, "a") == 4
    capsys.readouterr()
    assert best_after(12, 0.7, "b") == 12
    said = capsys.readouterr().out
    assert "evaluated.probe.content_hash: 'a' -> 'b'" in said


def test_elapsed_time_counts_what_came_before(tmp_path):
    with pytest.raises(SystemExit):
        train(experiment(), task(Batches(sigterm_at=(9,))), tmp_path)
    before = load_params(tmp_path, subtree="step")[1]["elapsed_seconds"]
    assert before > 0
    train(experiment(), task(), tmp_path)
    elapsed = [x["elapsed_seconds"] for x in reporting.read_metrics(tmp_path)]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] > before > elapsed[0]


# ---- Divergence ----


# 5 alone, 7 with a save, 8 with an evaluation, 10 with a log line.
@pytest.mark.parametrize("bad", [5, 7, 8, 10])
def test_a_step_that_is_not_finite_is_neither_applied_nor_saved(tmp_path, bad):
    # The updates after `bad` are those with steps from 0: the bad one is bad - 1.
    source = Batches(poison=(bad - 1,), sigterm_at=(bad - 1,))
    with pytest.raises(TrainingDiverged) as diverged:
        train(experiment(every=7), task(source, {4: 0.5, 8: 0.9}), tmp_path)
    message = str(diverged.value)
    last = 7 if bad > 7 else None
    assert f"diverged at step {bad}: loss nan" in message
    assert f"last checkpoint is step {last}" in message
    last_metrics = json.loads(message[message.index("{") : message.index("}") + 1])
    assert last_metrics["learning_rate"] > 0 and np.isfinite(last_metrics["loss"])
    assert steps_in(tmp_path / "checkpoints") == ([7] if last else [])
    assert steps_in(tmp_path / "best") == ([4] if bad <= 8 else [4, 8])
    assert all(x["step"] < bad for x in reporting.read_metrics(tmp_path))
    # What is on disk is what a healthy run has there, and goes on from it.
    source.poison = source.sigterm_at = ()
    continued = train(experiment(), task(source), tmp_path)
    assert_same_state(continued, train(experiment(), task(), tmp_path / "healthy"))


# ---- Ends ----


class Closable:
    """Counts the calls of `close`, which a generator's end does not make."""

    def __init__(self, source):
        self.source, self.closed = source, 0

    def __call__(self, start, stop, rows):
        self.batches = self.source(start, stop, rows)
        return self

    def __next__(self):
        return next(self.batches)

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(
    "source",
    [
        Batches(),
        Batches(sigterm_at=(4,)),
        Batches(poison=(4,)),
        Batches(error_at=4),
    ],
    ids=["end", "sigterm", "divergence", "error"],
)
def test_the_batches_are_closed_however_the_run_ends(tmp_path, source):
    closable = Closable(source)
    with contextlib.suppress(SystemExit, TrainingDiverged, OSError):
        train(experiment(), task(closable), tmp_path)
    assert closable.closed == 1


def test_batches_that_end_too_soon_are_an_error(tmp_path):
    short = dataclasses.replace(
        task(), batches=lambda start, stop, rows: iter([batch_of(0)])
    )
    with pytest.raises(ValueError, match="the batches end before step 2"):
        train(experiment(), short, tmp_path)


def test_exhausted_memory_of_a_device_names_the_settings_that_save_some(tmp_path):
    # 64 TiB.
    large = dataclasses.replace(task(), resident=lambda: jnp.zeros(1 << 46, jnp.int8))
    with pytest.raises(DeviceMemoryError) as caught:
        train(experiment(), large, tmp_path)
    for part in (
        "RESOURCE_EXHAUSTED: Out of memory allocating 70368744177664 bytes",
        "config.batch_size, now 8",
        "config.optim.accumulate=2",
        "config.model.remat='full'",
    ):
        assert part in str(caught.value)
    assert "config.data.cache" not in str(caught.value)  # it is at 'host' already
    assert isinstance(caught.value.__cause__, jax.errors.JaxRuntimeError)


# ---- Compilation ----


class Compilations(logging.Handler):
    """Names of what XLA compiled."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        message = record.getMessage()
        if message.startswith("Compiling "):
            self.names.append(message.split()[1])


def compiled(run):
    handler = Compilations()
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            run()
    finally:
        logger.removeHandler(handler)
    return handler.names


@pytest.mark.parametrize("fsdp", [1, 2])
def test_the_step_is_compiled_once_from_the_start_and_once_resumed(tmp_path, fsdp):
    settings = experiment(mesh=Mesh(fsdp=fsdp))

    def run(source=None):
        return lambda: train(settings, task(source, {4: 0.5, 8: 0.9}), tmp_path)

    def stopped():
        with pytest.raises(SystemExit):
            run(Batches(sigterm_at=(9,)))()

    assert compiled(stopped).count("jit(update)") == 1
    assert compiled(run()).count("jit(update)") == 1


# ---- Arithmetic ----


def test_accumulated_gradients_are_the_mean_of_the_micro_batches(tmp_path):
    class Noiseless(Linear):
        couples_rows = False

        def loss(self, params, extra, batch, rng):
            predicted = batch["ecg"].mean(axis=1) @ params["kernel"]
            return ((predicted - 1) ** 2).mean(), (extra, {})

    norms = []
    for parts in (1, 2):
        settings = experiment(
            steps=3,
            log_every=1,
            batch_size=2 * BATCH,
            optim=Optim(accumulate=parts, learning_rate=(1e-2, 1e-2, 1e-2)),
        )
        source = _doubled()
        doubled = dataclasses.replace(
            task(source),
            method=Noiseless(),
            example=next(source(0, 1, np.arange(2 * BATCH))),
        )
        train(settings, doubled, tmp_path / str(parts))
        lines = reporting.read_metrics(tmp_path / str(parts))
        norms.append([(x["loss"], x["gradient_norm"]) for x in lines])
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)


def _doubled():
    def batches(start, stop, rows):
        for step in range(start, stop):
            pair = batch_of(step), batch_of(step + 100)
            yield {k: np.concatenate([p[k] for p in pair])[rows] for k in pair[0]}

    return batches


def test_signals_can_come_from_arrays_on_the_devices(tmp_path):
    loads = []
    table = np.stack([batch_of(step)["ecg"] for step in range(20)])

    def resident():
        loads.append(1)
        return jnp.asarray(table)

    def batches(start, stop, rows):
        for step in range(start, stop):
            batch = batch_of(step)
            del batch["ecg"]
            yield {"place": np.full(BATCH, step)[rows]} | {
                name: x[rows] for name, x in batch.items()
            }

    def materialise(batch, table):
        batch = dict(batch)
        step = batch.pop("place")[0]
        return batch | {"ecg": table[step]}

    hooked = dataclasses.replace(
        task(), batches=batches, resident=resident, materialise=materialise
    )
    train(experiment(), hooked, tmp_path / "resident")
    train(experiment(), task(), tmp_path / "complete")
    found, expected = (
        [x["loss"] for x in reporting.read_metrics(tmp_path / name)]
        for name in ("resident", "complete")
    )
    assert loads == [1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# ---- Without TensorFlow ----

WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "array_record"):
    sys.modules[name] = None  # importing it fails
import numpy as np
from ecgssl_jax import assembly, train
from ecgssl_jax.data import masks
from ecgssl_jax.experiment import parse
from ecgssl_jax.signals import Statistics
from ecgssl_jax.task import Task
import ecgssl_jax.interop.torch, ecgssl_jax.methods.jepa, ecgssl_jax.sharding

experiment = parse(dict(
    steps=3, batch_size=8, data=dict(crop=200),
    masks=dict(kind="blocks", keep=(0.3, 0.4), min_block=2),
    model=dict(width=16, depth=1, num_heads=2, patch_size=20, use_bias=True),
    method=dict(name="jepa", predictor_width=16, predictor_depth=1,
                predictor_num_heads=2),
    log_every=1,
))
blocks = masks.build("blocks", 10, keep=(0.3, 0.4), min_block=2)

def batch(step):
    rng = np.random.default_rng(step)
    uniforms = rng.random((8, blocks.num_uniforms(10)), dtype=np.float32)
    return {
        "ecg": rng.integers(-500, 500, (8, 200, 12)).astype(np.int16),
        "source": np.zeros(8, np.int32),
        "lead_valid": np.ones((8, 12), bool),
        **blocks.sample(uniforms, 10, np),
    }

tables = np.full((1, 12), 1e-3, np.float32)
task = Task(
    method=assembly.make_method(experiment),
    statistics=Statistics(scale=tables, mean=0 * tables, std=0.3 + tables),
    example=batch(0),
    batches=lambda start, stop, rows: map(batch, range(start, stop)),
)
state = train.train(experiment, task, sys.argv[1])
assert int(state.step) == 3
"""


def test_arrays_in_memory_train_a_jepa_where_there_is_no_tensorflow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [x["step"] for x in reporting.read_metrics(tmp_path)] == [1, 2, 3]

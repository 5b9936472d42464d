"""The entry point as users start it: killed, stopped, misled, and in two processes."""

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ecgssl_jax import main as entry_point
from ecgssl_jax import reporting
from ecgssl_jax.checkpoint_reading import load_params
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.leads import LEADS

ROOT = Path(__file__).resolve().parents[1]
TIMES = (
    "samples_per_second",
    "step_seconds",
    "data_wait_seconds",
    "compute_seconds",
    "data_wait_share",
    "elapsed_seconds",
)

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=""):
    config = ConfigDict()
    config.steps = 20
    config.batch_size = 8
    config.dtype = "float32"
    config.data = dict(root={root!r}, name="synthetic", crop=200, synthetic_records=40)
    config.model = dict(
        name="vit", width=16, depth=1, num_heads=2, patch_size=20, use_bias=True)
    config.masks = dict(kind="blocks", keep=(0.3, 0.4), min_block=2)
    config.method = dict(
        name="jepa", predictor_width=16, predictor_depth=1, predictor_num_heads=2)
    config.optim = dict(learning_rate=(1e-3, 1e-2, 1e-3))
    config.evaluators = dict(
        probe=dict(every=10, data="synthetic", train_folds=(1, 2, 3, 4, 5, 6, 7),
                   valid_folds=(8, 9, 10)))
    config.checkpoint = dict(every=7)
    config.log_every = 5
    return config
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Path of a config on a prepared set of 40 synthetic records."""
    folder = tmp_path_factory.mktemp("main")
    prepare_dataset(
        synthetic_source(40), folder / "data" / "synthetic", report=lambda text: None
    )
    return write_config(folder)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """(devices) -> the environment of a process with so many."""
    # Compiling is most of the time of so small a run: less of it, and only once.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}

    def make(devices):
        flags = f"--xla_force_host_platform_device_count={devices}"
        return {
            **kept,
            **cache,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
            "PYTHONPATH": str(ROOT),
        }

    return make


def write_config(folder):
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(root=str(folder / "data")))
    return path


def command(config, workdir, *flags):
    module = [sys.executable, "-u", "-m", "ecgssl_jax.main"]
    return [*module, f"--config={config}", f"--workdir={workdir}", *flags]


def lines_without_times(workdir):
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in reporting.read_metrics(workdir)
    ]


def assert_same_checkpoints(one, other):
    (one, one_meta), (other, other_meta) = load_params(one), load_params(other)
    assert one_meta["step"] == other_meta["step"]
    jax.tree.map(np.testing.assert_array_equal, one, other)


def flip_bit(folder):
    """Flips one bit of a checkpoint, where its small arrays are stored.

    Files elsewhere hold what Orbax wrote on the way and never reads again, too.
    """
    (file,) = (folder / "state" / "d").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# ---- Killed and continued ----


def run(config, workdir, env, *flags):
    """A run that must succeed; -> what it printed, and what it warned of."""
    done = subprocess.run(
        command(config, workdir, *flags),
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


LONG = (
    "--config.steps=200",
    "--config.data.cache=none",
    "--config.evaluators.probe.every=60",
    "--config.checkpoint.every=20",
    "--config.log_every=10",
)


@pytest.fixture(scope="module")
def uninterrupted(config, environment, tmp_path_factory):
    """Workdir of a run of 200 steps from start to end."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    _, err = run(config, workdir, environment(1), *LONG)
    # TensorFlow's start-up hints are not for users.
    assert err == ""
    return workdir


def run_until(step, config, workdir, env):
    """Starts a run, and returns it once it has reported a step from `step` on."""
    process = subprocess.Popen(
        command(config, workdir, *LONG),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        words = line.replace("/", " ").split()
        if words[0] == "step" and int(words[1]) >= step:
            return process
    raise AssertionError(f"ended before step {step}: {process.stderr.read()}")


def test_a_run_killed_three_times_equals_an_uninterrupted_one(
    config, environment, uninterrupted, tmp_path
):
    workdir, env = tmp_path / "killed", environment(1)
    for number in range(3):
        moment = 50 * number + random.randint(20, 60)
        process = run_until(moment, config, workdir, env)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    out, _ = run(config, workdir, env, *LONG)
    assert "continuing" in out
    assert_same_checkpoints(workdir, uninterrupted)
    assert_same_checkpoints(workdir / "best", uninterrupted / "best")
    lines = lines_without_times(workdir)
    assert lines == lines_without_times(uninterrupted)
    assert [x["step"] for x in lines if "loss" in x] == list(range(10, 201, 10))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_exits_with_143_and_says_so(
    config, environment, tmp_path, number
):
    process = run_until(30, config, tmp_path, environment(1))
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143
    step = load_params(tmp_path)[1]["step"]
    assert out.splitlines()[-1] == (
        f"stopped by a signal; step {step} is saved, the same command continues there"
    )
    # Nothing but the one warning: no traceback, no abort of a data thread.
    assert len(err.splitlines()) == 1, err
    assert err.endswith(f"{number.name}: saving after this step\n")


def test_the_end_of_a_run_draws_its_pictures(uninterrupted):
    for name in ("loss_curve", "probe_curve", "masks"):
        content = (uninterrupted / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5000
    assert (uninterrupted / "run.json").exists()


def test_times_are_split_into_waiting_and_computing(uninterrupted):
    lines = [x for x in reporting.read_metrics(uninterrupted) if "loss" in x]
    for line in lines:
        parts = line["data_wait_seconds"] + line["compute_seconds"]
        assert parts == pytest.approx(line["step_seconds"])
        share = line["data_wait_seconds"] / line["step_seconds"]
        assert line["data_wait_share"] == pytest.approx(share)


# ---- Finished ----


def test_a_finished_run_says_so_and_changes_nothing(config, environment, uninterrupted):
    files = {
        path: path.read_bytes()
        for path in (uninterrupted / "checkpoints").rglob("*")
        if path.is_file()
    }
    metrics = (uninterrupted / "metrics.jsonl").read_bytes()
    out, _ = run(config, uninterrupted, environment(1), *LONG)
    assert "has finished its 200 steps; nothing to train" in out
    assert all(path.read_bytes() == content for path, content in files.items())
    assert (uninterrupted / "metrics.jsonl").read_bytes() == metrics


def test_a_flipped_bit_in_the_newest_checkpoint_is_reported_and_made_good(
    config, environment, uninterrupted, tmp_path
):
    workdir = tmp_path / "damaged"
    shutil.copytree(uninterrupted, workdir)
    flip_bit(workdir / "checkpoints" / "200")
    out, err = run(config, workdir, environment(1), *LONG)
    assert "checkpoints/200 is damaged" in err
    assert "at step 180" in out
    assert_same_checkpoints(workdir, uninterrupted)
    assert lines_without_times(workdir) == lines_without_times(uninterrupted)


def test_a_config_that_has_changed_since_is_reported(
    config, environment, uninterrupted, tmp_path
):
    workdir = tmp_path / "changed"
    shutil.copytree(uninterrupted, workdir)
    out, _ = run(config, workdir, environment(1), *LONG, "--config.steps=210")
    changed = [line for line in out.splitlines() if line.startswith("changed since")]
    assert changed == ["changed since step 200: config.steps: 200 -> 210"]


def test_a_checkpoint_says_what_signals_it_belongs_to(uninterrupted):
    _, meta = load_params(str(uninterrupted / "checkpoints"), subtree="params")
    (data,) = meta["data"].values()
    assert data["name"] == "synthetic"
    assert data["rate"] == 100 and data["leads"] == list(LEADS)


def test_other_data_than_the_run_began_with_are_refused(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    config = write_config(tmp_path)
    others = synthetic_source(40, seed=1)
    prepare_dataset(others, tmp_path / "data" / "synthetic", report=lambda text: None)
    flags = [*LONG, "--config.steps=210"]
    with pytest.raises(SystemExit) as stopped:
        entry_point.main([f"--config={config}", f"--workdir={workdir}", *flags])
    text = str(stopped.value.code)
    assert "was trained on other data" in text and "data.synthetic.content_hash" in text
    assert run_json(workdir) == run_json(uninterrupted)


def test_other_folds_than_the_run_began_with_are_refused(
    config, uninterrupted, tmp_path
):
    """What it has seen must stay known to its evaluation."""
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    flags = [*LONG, "--config.steps=210", "--config.data.folds=(1,2)"]
    with pytest.raises(SystemExit) as stopped:
        entry_point.main([f"--config={config}", f"--workdir={workdir}", *flags])
    assert "data.synthetic.folds: None -> [1, 2]" in str(stopped.value.code)


def run_json(workdir):
    return json.loads((workdir / "run.json").read_text())


def test_run_json_tells_of_every_part_of_the_run(
    config, environment, uninterrupted, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    run(config, workdir, environment(1), *LONG, "--config.steps=210")
    found, former = run_json(workdir), run_json(uninterrupted)
    assert former["start"] == 0 and former["earlier"] == []
    assert found["start"] == 200 and found["config"]["steps"] == 210
    assert found["earlier"] == [{k: v for k, v in former.items() if k != "earlier"}]


def test_two_runs_cannot_share_a_workdir(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="another run is in it"):
            entry_point.main([f"--config={config}", f"--workdir={workdir}"])
    assert not (workdir / "checkpoints").exists()


def test_a_run_with_the_device_cache_sees_the_same_batches(
    config, environment, uninterrupted, tmp_path
):
    run(config, tmp_path, environment(2), *LONG, "--config.data.cache=device")
    found, expected = (
        [x["loss"] for x in reporting.read_metrics(workdir) if "loss" in x]
        for workdir in (tmp_path, uninterrupted)
    )
    assert len(found) == len(expected) == 20
    # Rounding differs on two devices, and grows.
    assert found[:4] == pytest.approx(expected[:4], rel=1e-3)


# ---- Errors ----


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.stesp=3"], "unknown key 'stesp'; did you mean 'steps'?"),
        (["--config.optim.warmpu=0"], "'warmpu'; did you mean 'warmup'?"),
        (["--config.model.widht=16"], "'widht' of vit; did you mean 'width'?"),
        (["--config.method.emma=1"], "'emma'; did you mean 'ema'?"),
        (["--config.method.name=jeppa"], "'jeppa'; did you mean 'jepa'?"),
        (["--config.model.preset=smal"], "'smal' of vit; did you mean 'small'?"),
        (["--config.steps=many"], "config.steps: expected int, found 'many' (str)"),
        (["--config.steps"], "expected --config.KEY=VALUE"),
        (["--config.model.patch_size=30"], "30 does not divide the crop of 200"),
        (["--config.batch_size=12"], "12 rows cannot be split over the 8 devices"),
        (["--config.mesh.data=3"], "asks for 3 devices, found 8"),
        (["--config.masks.kind=block"], "'block'; did you mean 'blocks'?"),
        (["--config.data.crop=2000"], "2000 samples, but the records"),
        (["--config.data.folds=(11,)"], "synthetic has no fold [11]"),
        (["--config.data.name=mine"], "python -m ecgssl_jax.prepare SOURCE"),
        (["--config.data.folds=()"], "data.folds: () holds no record of synthetic"),
        (["--config.seed=9223372036854775808"], "config.seed: expected a whole number"),
        (["--config.model.num_registers=-1"], "num_registers: expected at least 0"),
        (["--config.model.mlp_ratio=0"], "mlp_ratio: leaves no hidden width"),
        (["--config.evaluators.probe.max_records=0"], "max_records: expected at least"),
        (["--config.evaluators.probe.evry=3"], "'evry'; did you mean 'every'?"),
        (["--config.evaluators.probe.kind=knn"], "unknown evaluator 'knn'"),
        (["--config.evaluators.probe=3"], "probe: expected a mapping, found 3"),
        (["--config.evaluators.probe.task=super"], "task: unknown task 'super'"),
        (["--config.checkpoint.best=probe/auroc"], "no evaluator yields"),
        (["--config=nowhere.py"], "nowhere.py: no such Python file"),
        (["--process_id=1"], "--coordinator, --num_processes missing"),
        (["--batch_size=4"], "such as --config.batch_size=32"),
    ],
)
def test_a_wrong_config_is_one_line_that_helps(config, tmp_path, flags, message):
    workdir = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        entry_point.main([f"--config={config}", f"--workdir={workdir}", *flags])
    text = str(stopped.value.code)
    assert text.startswith("error: ") and message in text
    assert not workdir.exists()


def test_a_wrong_config_fails_before_data_is_made(tmp_path):
    config = write_config(tmp_path)
    with pytest.raises(SystemExit, match="did you mean 'blocks'"):
        entry_point.main(
            [
                f"--config={config}",
                f"--workdir={tmp_path / 'run'}",
                "--config.masks.kind=block",
            ]
        )
    assert not (tmp_path / "data").exists()


def test_an_unknown_key_in_the_file_is_named(config, tmp_path):
    changed = tmp_path / "changed.py"
    text = config.read_text().replace("config.log_every", "config.log_evry")
    changed.write_text(text)
    with pytest.raises(SystemExit, match="'log_evry'; did you mean 'log_every'?"):
        entry_point.main([f"--config={changed}", f"--workdir={tmp_path / 'run'}"])


def test_a_workdir_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="cannot write there"):
        entry_point.main([f"--config={config}", f"--workdir={tmp_path / 'file' / 'x'}"])


def test_a_checkpoint_of_another_model_is_named(config, uninterrupted):
    flags = [f"--config={config}", f"--workdir={uninterrupted}", *LONG]
    with pytest.raises(SystemExit, match="of another model"):
        entry_point.main([*flags, "--config.model.width=24"])
    assert load_params(uninterrupted)[1]["step"] == 200


def test_an_error_exits_with_1_and_without_a_traceback(config, environment, tmp_path):
    done = subprocess.run(
        command(config, tmp_path, "--config.stesp=3"),
        env=environment(1),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr == "error: config: unknown key 'stesp'; did you mean 'steps'?\n"


# ---- Two processes ----

# Trains as the entry point does, keeps what this process took of every batch, and
# then the gradient of every step at the states that the reference run saved. argv:
# folder for those, workdir of the reference, step at which SIGTERM comes (or -1),
# and the entry point's arguments.
RECORDED_RUN = """
import os, pathlib, signal, sys
import jax
import numpy as np
from jax.experimental import mesh_utils
from ecgssl_jax import config_files, main, sharding
from ecgssl_jax.assembly import make_task
from ecgssl_jax.checkpoint_reading import load_params
from ecgssl_jax.data.pipeline import Pipeline
from ecgssl_jax.experiment import parse
from ecgssl_jax.signals import prepare

folder, reference, sigterm_at = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
original = Pipeline.batches

def batches(self, start, stop, rows=None):
    for step, batch in enumerate(original(self, start, stop, rows), start):
        if rows is not None:  # the loop's, not the picture's
            name = f"batch-{step}-{jax.process_index()}.npz"
            np.savez(folder / name, rows_of_batch=rows, **batch)
        if step == sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch

# As on TPU slices, a process does not have its rows in one piece.
place = mesh_utils.create_device_mesh
in_turns = lambda devices: sorted(devices, key=lambda x: (x.id % 2048, x.process_index))
mesh_utils.create_device_mesh = lambda sizes, devices, **rest: place(
    sizes, in_turns(devices), **rest
)

Pipeline.batches = batches
main.main(sys.argv[4:])
Pipeline.batches = original

rest, overrides = config_files.split_overrides(sys.argv[4:])
experiment = parse(config_files.load(rest[0].split("=")[1], overrides))
task, mesh = make_task(experiment), sharding.make_mesh(experiment.mesh)
spec = sharding.batch_sharding(mesh)
rows = sharding.process_rows(spec, experiment.batch_size)

def loss(params, state, batch):
    batch = dict(batch, ecg=prepare(batch, task.statistics, clip=experiment.data.clip))
    return task.method.loss(params, state["extra"], batch, jax.random.key(0))[0]

gradient = jax.jit(jax.grad(loss), out_shardings=sharding.replicated(mesh))
for step, local in enumerate(task.batches(0, experiment.steps, rows)):
    state, _ = load_params(f"{reference}/checkpoints/{max(step, 1)}")
    batch = sharding.to_devices(local, spec, experiment.batch_size, rows)
    leaves = jax.tree.leaves(gradient(state["params"], state, batch))
    if jax.process_index() == 0:
        np.savez(folder / f"gradient-{step}.npz", *leaves)
"""


def start_recorded(env, config, folder, reference, sigterm_at, *flags):
    folder.mkdir(exist_ok=True)
    workdir = folder / "run"
    arguments = [str(folder), str(reference), str(sigterm_at), f"--config={config}"]
    return subprocess.Popen(
        [
            *[sys.executable, "-c", RECORDED_RUN, *arguments, f"--workdir={workdir}"],
            *["--config.log_every=1", *flags],
        ],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(runs, code):
    """Waits for all of them; -> what each printed."""
    try:
        ends = [run.communicate(timeout=150) for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, (_, err) in zip(runs, ends, strict=True):
        assert run.returncode == code, err[-4000:]
    return [out for out, _ in ends]


def start_two(env, config, folder, reference, sigterm_at):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start_recorded(
            *(env, config, folder, reference, sigterm_at if number == 1 else -1),
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={number}",
        )
        for number in range(2)
    ]


@pytest.fixture(scope="module")
def one_and_two(environment, tmp_path_factory):
    """Folders of a run of one process, and of one of two with two devices each.

    The second finds no prepared set. SIGTERM comes to its second process while that
    takes the batch of step 7; then it is continued.
    """
    base = tmp_path_factory.mktemp("processes")
    (base / "once").mkdir()
    one, two = base / "one", base / "two"
    config = write_config(base)
    finish(start_two(environment(2), config, two, one / "run", 7), 143)
    assert load_params(two / "run")[1]["step"] == 8
    every_step = "--config.checkpoint.every=1", "--config.checkpoint.keep=20"
    runs = [start_recorded(environment(1), config, one, one / "run", -1, *every_step)]
    finish(runs, 0)
    outs = finish(start_two(environment(2), config, two, one / "run", -1), 0)
    return one, two, outs


def test_two_processes_see_the_same_global_batches(one_and_two):
    one, two, _ = one_and_two
    for step in range(20):
        whole = np.load(one / f"batch-{step}-0.npz")
        parts = [np.load(two / f"batch-{step}-{number}.npz") for number in range(2)]
        assert len(parts[0]["ecg"]) == len(parts[1]["ecg"]) == 4
        rows = np.concatenate([part["rows_of_batch"] for part in parts])
        assert rows.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
        for name in set(whole) - {"rows_of_batch"}:
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, whole[name][rows], err_msg=name)


def test_two_processes_have_the_same_losses(one_and_two):
    one, two, _ = one_and_two
    losses = [
        [x["loss"] for x in reporting.read_metrics(folder / "run") if "loss" in x]
        for folder in (one, two)
    ]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-5)


def test_two_processes_have_the_same_gradients(one_and_two):
    one, two, _ = one_and_two
    for step in range(20):
        expected, found = (
            np.load(folder / f"gradient-{step}.npz") for folder in (one, two)
        )
        largest = max(np.abs(expected[name]).max() for name in expected)
        assert largest > 0 and expected.files == found.files
        for name in expected:
            assert np.abs(found[name] - expected[name]).max() <= 1e-5 * largest


def test_only_the_first_process_prints(one_and_two):
    _, _, (first, second) = one_and_two
    assert "continuing" in first and "drew" in first
    # Gloo, which connects processes on CPUs, prints by itself, from several threads.
    said = {line for line in first.splitlines() if "peer ranks" not in line}
    assert len(said) > 10 and not said & set(second.splitlines())
    assert "step" not in second


@pytest.mark.parametrize(
    ("workdir", "message"),
    [("", "--workdir= is empty"), ("gs://bucket/run", "mount the bucket")],
)
def test_a_workdir_that_is_no_folder_is_refused(
    workdir, message, monkeypatch, tmp_path
):
    config = str(Path(entry_point.__file__).parents[1] / "configs" / "jepa.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        entry_point.main([f"--config={config}", f"--workdir={workdir}"])
    assert not list(tmp_path.iterdir())

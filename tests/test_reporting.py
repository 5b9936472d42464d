"""Metric files of a run that continues, and its clock."""

import json
import time

import pytest

from ecgssl_jax import reporting


def write(workdir, first, last, *, step):
    writer = reporting.MetricWriter(workdir, step=step)
    for number in range(first, last + 1):
        writer.write(number, {"loss": 1 / number})
    writer.close()


def scalars(workdir):
    """(step, loss) of a run's one event file, as TensorFlow reads it."""
    from ecgssl_jax.data.pipeline import import_tensorflow

    tf = import_tensorflow()
    (file,) = (workdir / "tensorboard").iterdir()
    return [
        (event.step, value.simple_value)
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
        if value.tag == "loss"
    ]


def test_lines_beyond_the_restored_step_are_dropped(tmp_path):
    write(tmp_path, 1, 10, step=0)
    write(tmp_path, 7, 8, step=6)
    steps = [line["step"] for line in reporting.read_metrics(tmp_path)]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_tensorboard_has_each_step_once_after_a_restart(tmp_path):
    write(tmp_path, 1, 10, step=0)
    write(tmp_path, 7, 8, step=6)
    assert scalars(tmp_path) == [
        (step, pytest.approx(1 / step)) for step in range(1, 9)
    ]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path, caplog):
    write(tmp_path, 1, 3, step=0)
    with open(tmp_path / reporting.METRICS, "a") as file:
        file.write('{"step": 4, "lo')
    write(tmp_path, 4, 4, step=3)
    lines = (tmp_path / reporting.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_values_that_are_not_finite_are_null(tmp_path):
    writer = reporting.MetricWriter(tmp_path, step=0)
    writer.write(1, {"a": float("nan"), "b": float("-inf"), "c": 2})
    writer.close()
    text = (tmp_path / reporting.METRICS).read_text()
    assert json.loads(text) == {"step": 1, "a": None, "b": None, "c": 2.0}
    assert "NaN" not in text and "Infinity" not in text


def test_a_full_disk_is_named_with_what_to_do(tmp_path):
    writer = reporting.MetricWriter(tmp_path, step=0)
    writer._file.close()
    writer._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(reporting.LogWriteError, match="/dev/full: .*No space left"):
        writer.write(1, {"loss": 1.0})
    writer.close()


@pytest.fixture
def sleep(monkeypatch):
    """A clock that only moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def test_the_clock_splits_steps_and_leaves_out_what_is_between_them(sleep):
    clock = reporting.Clock(elapsed=50.0)
    sleep(7)  # restoring
    clock.start()
    for _ in range(4):
        sleep(0.1)
        clock.got_data()
        sleep(0.4)
        clock.stepped()
    sleep(20)  # an evaluation
    clock.start()
    sleep(0.5)
    clock.got_data()
    sleep(0.0)
    clock.stepped()
    rates = clock.report(batch_size=10)
    assert rates["samples_per_second"] == pytest.approx(50 / 2.5)
    assert rates["step_seconds"] == pytest.approx(0.5)
    assert rates["data_wait_seconds"] == pytest.approx(0.9 / 5)
    assert rates["compute_seconds"] == pytest.approx(1.6 / 5)
    assert rates["data_wait_share"] == pytest.approx(0.9 / 2.5)
    assert rates["elapsed_seconds"] == pytest.approx(50 + 7 + 2 + 20 + 0.5)


def test_a_report_starts_anew(sleep):
    clock = reporting.Clock()
    for seconds in (1.0, 2.0):
        clock.start()
        clock.got_data()
        sleep(seconds)
        clock.stepped()
        assert clock.report(8)["step_seconds"] == pytest.approx(seconds)


def test_the_progress_line_says_what_is_left():
    metrics = {
        "loss": 0.5,
        "step_seconds": 2.0,
        "samples_per_second": 12345.6,
        "data_wait_share": 0.031,
    }
    line = reporting.progress_line(100, 2000, metrics)
    assert line == (
        "step  100/2000  loss 0.5000  12,346 samples/s  data 3 %  left 1:03:20"
    )


def test_a_run_is_described_by_versions_devices_and_revision():
    described = reporting.describe_run()
    assert {"python", "jax", "numpy"} <= described["versions"].keys()
    assert described["devices"].startswith("8 x")
    assert described["processes"] == 1
    assert described["command"]


@pytest.mark.parametrize(
    ("former", "earlier"),
    [
        (b'{"start": 0}', [{"start": 0}]),
        (b'{"start": 4, "earlier": [{"start": 0}]}', [{"start": 0}, {"start": 4}]),
        (b"[]", []),
        (b"{", []),
        (b"\xff\xfe", []),
    ],
)
def test_what_run_json_held_is_kept_unless_it_is_damaged(tmp_path, former, earlier):
    (tmp_path / "run.json").write_bytes(former)
    reporting.write_description(tmp_path, {"start": 8})
    found = json.loads((tmp_path / "run.json").read_text())
    assert (found["start"], found["earlier"]) == (8, earlier)


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe", b"12", b"null", b"{}", b'{"step": 2', b'{"step": 2, "loss": "x"}'],
)
def test_a_damaged_line_costs_no_more_than_itself_and_is_named(
    tmp_path, damage, caplog
):
    lines = b'{"step": 1, "loss": 2.0}\n' + damage + b'\n{"step": 3, "loss": 1.0}\n'
    (tmp_path / reporting.METRICS).write_bytes(lines)
    assert [x["step"] for x in reporting.read_metrics(tmp_path)] == [1, 3]
    (warning,) = caplog.messages
    assert "metrics.jsonl: left out line 2, which is damaged" in warning


def test_a_line_that_was_cut_short_is_no_damage(tmp_path, caplog):
    (tmp_path / reporting.METRICS).write_text('{"step": 1}\n{"step": 2, "lo')
    assert reporting.read_metrics(tmp_path) == [{"step": 1}]
    assert caplog.messages == []

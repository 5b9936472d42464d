"""The benchmark as its users call it."""

import json

import numpy as np
import pytest

from ecgssl_jax import benchmark

SMALL = [
    "--config=configs/jepa.py",
    "--config.model={'width': 32, 'depth': 2, 'num_heads': 2, 'patch_size': 50}",
    "--config.batch_size=16",
    "--steps=2",
    "--rounds=3",
]


@pytest.fixture
def small_products(monkeypatch):
    monkeypatch.setattr(benchmark, "_MATRIX", {"cpu": 128})
    monkeypatch.setattr(benchmark, "_EXCHANGED", {"cpu": 1024})


def test_a_step_and_a_run_are_timed(tmp_path, capsys, small_products):
    output = tmp_path / "figures.json"
    data = [f"--config.data.root={tmp_path}", "--config.data.synthetic_records=60"]
    probe = "--config.evaluators.probe=None"
    benchmark.main([*SMALL, *data, probe, "--data", f"--output={output}"])
    told = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert len(found["seconds"]) == len(found["samples_per_second_with_data"]) == 3
    seconds = float(np.median(found["seconds"]))
    assert found["samples_per_second"] == pytest.approx(16 / seconds)
    assert found["flops_per_second"] == pytest.approx(found["flops"] / seconds)
    assert found["sent"] > 0 < found["sent_per_second"]
    assert found["memory"]["parameters"] > 0 and found["mesh"]["data"] == 8
    for word in ("step", "products", "memory", "exchange", "with data"):
        assert f"\n{word} " in f"\n{told}"


def test_steps_change_the_state():
    made = []

    def update(state, batch, resident):
        made.append((state, batch, resident))
        return state + 1, {}

    stepping = benchmark._Stepping(update, 0, iter("abcd"), "set")
    assert stepping(3) > 0
    assert made == [(0, "a", "set"), (1, "b", "set"), (2, "c", "set")]
    assert stepping.state == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--steps=0"], "--steps and --rounds: expected at least 1"),
        (["--config.batch_size=15"], "cannot be split"),
        (["--config.model.deep=3"], "unknown key 'deep'"),
    ],
)
def test_what_cannot_be_timed_is_a_line(changes, message):
    with pytest.raises(SystemExit, match=message):
        benchmark.main([*SMALL, *changes])

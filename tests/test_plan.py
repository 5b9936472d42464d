"""The planner as its users call it."""

import importlib.util
import json

import pytest

from ecgssl_jax import plan
from ecgssl_jax.planning.figures import Figures

SMALL = [
    "--config=configs/jepa.py",
    "--config.model={'width': 32, 'depth': 2, 'num_heads': 2, 'patch_size': 50, 'scan': True}",
    "--config.method.predictor_depth=1",
]
with_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPUs' compiler, libtpu",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@with_compiler
def test_meshes_of_topologies_in_a_table_a_file_and_a_picture(tmp_path, capsys):
    output = tmp_path / "plans"
    plan.main(
        [
            *SMALL,
            "--topology=v5e:2x2,h100:2",
            "--meshes=-1x1x1,1x-1x1",
            f"--output={output}",
        ]
    )
    table = capsys.readouterr().out
    values = json.loads((output / "plan.json").read_text())
    assert [(x["topology"], x["mesh"]) for x in values] == [
        ("v5e:2x2", [4, 1, 1]),
        ("v5e:2x2", [1, 4, 1]),
        ("h100:2", [2, 1, 1]),
        ("h100:2", [1, 2, 1]),
    ]
    whole, divided = (x["memory"]["parameters"] for x in values[:2])
    assert divided < whole / 2
    for value in values:
        assert (
            value["verdict"] == "fits" and value["flops"] > 0 and value["traffic"] > 0
        )
        assert set(value["seconds"]) == {"compute", "memory", "exchange"}
        sent = sum(each["sent"] for each in value["collectives"])
        assert sent > 0 and value["stand_in"] == (value["topology"] == "h100:2")
        assert f"{'x'.join(map(str, value['mesh']))} " in table
    assert "Figures for GPUs are estimates" in table
    assert (output / "plan.png").read_bytes()[:4] == b"\x89PNG"


@with_compiler
def test_a_model_that_cannot_fit_is_told_so(capsys):
    plan.main(
        [
            *SMALL,
            "--topology=v5e:2x2",
            "--config.batch_size=1048576",
            "--config.data.crop=5000",
        ]
    )
    told = capsys.readouterr().out
    assert "too large" in told and "needs " in told and "optim.accumulate=" in told


def test_here_needs_no_compiler_and_knows_no_times(capsys):
    plan.main([*SMALL, "--topology=here"])
    told = capsys.readouterr().out
    assert "| here     | 8x1x1 |" in told and "estimates" not in told


@with_compiler
def test_what_was_planned_before_is_not_compiled_again(monkeypatch, capsys):
    plan.main([*SMALL, "--topology=v5e:2x2"])
    first = capsys.readouterr().out
    monkeypatch.setattr(plan, "plan_step", None)
    plan.main([*SMALL, "--topology=v5e:2x2"])
    assert capsys.readouterr().out == first
    with pytest.raises(TypeError):
        plan.main([*SMALL, "--topology=v5e:2x2", "--no-cache"])


def test_what_is_here_may_be_another_next_time(monkeypatch):
    plan.main([*SMALL, "--topology=here"])
    monkeypatch.setattr(plan, "plan_step", None)
    with pytest.raises(TypeError):
        plan.main([*SMALL, "--topology=here"])


def test_all_meshes_are_looked_at_before_one_is_compiled(monkeypatch):
    monkeypatch.setattr(plan, "plan_step", None)
    with pytest.raises(SystemExit, match="asks for 3 devices, found 8"):
        plan.main([*SMALL, "--topology=here", "--meshes=8x1x1,3x1x1"])


def test_plans_that_the_stand_in_is_too_small_for_say_so():
    figures = Figures(
        topology="h200:8",
        mesh=(8, 1, 1),
        batch_size=8,
        memory={},
        needed=110 * 2**30,
        available=120 * 2**30,
        compiled=False,
    )
    told = plan.describe([figures])
    assert "h200:8 8x1x1 fits, but is larger than the devices that stand in" in told
    assert "| 0 " not in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--topology=here", "--meshes=8x1"], "--meshes: expected sizes of data, fsdp"),
        (["--topology=here", "--meshes=3x1x1"], "asks for 3 devices, found 8"),
        (["--topology=moon"], "--topology: expected one of v4"),
        (["--topology=here", "--config.batch=8"], "unknown key 'batch'"),
        (["--topology=here", "--config.batch_size=12"], "cannot be split"),
    ],
)
def test_what_cannot_be_planned_is_a_line(changes, message):
    with pytest.raises(SystemExit, match=message):
        plan.main([*SMALL, *changes])


def test_a_picture_of_plans_that_know_little():
    known = dict(topology="here", batch_size=8, needed=3, available=None)
    plans = [Figures(mesh=(1, 1, 1), memory={}, **known)] * 2
    assert "samples/s" in plan.describe(plans)
    assert len(plan.draw(plans).axes) == 2

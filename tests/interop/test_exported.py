"""An exported encoder against the run it came from, and without this package."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import ecgssl_jax
from ecgssl_jax import assembly, export, runs
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.experiment import parse
from ecgssl_jax.interop import exported
from ecgssl_jax.leads import LEADS
from ecgssl_jax.settings import ConfigError

RATE, CROP = 100.0, 200
RESNET = {"name": "resnet", "preset": "18", "features": 8}
VIT = {"width": 8, "depth": 1, "num_heads": 1, "patch_size": 10}
JEPA = {
    "name": "jepa",
    "predictor_width": 8,
    "predictor_depth": 1,
    "predictor_num_heads": 1,
}
CONFIGS = {
    "jepa": {
        "model": {**VIT, "num_registers": 1},
        "masks": {"kind": "random"},
        "method": JEPA,
    },
    "byol": {"model": RESNET, "method": {"name": "byol"}, "views": [[], []]},
    "clocs": {"model": RESNET, "method": {"name": "clocs"}},
}


def random_state(config):
    """A first state, with running statistics that are not those of a first one."""
    method = assembly.make_method(parse(config))
    example = {"ecg": np.zeros((2, CROP, 12), np.float32)}
    params, extra = runs.random_parameters(method, example, 0)
    extra = jax.tree.map(lambda x: 1.5 * x + 0.1, extra)
    statistics = {
        name: np.full((1, 12), value, np.float32)
        for name, value in {"scale": 0.001, "mean": 0.01, "std": 0.4}.items()
    }
    return {"params": params, "extra": extra, "statistics": statistics}


@pytest.fixture(scope="module", params=CONFIGS)
def workdir(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = {"steps": 10, "batch_size": 2, "data": {"crop": CROP}}
    config |= CONFIGS[request.param]
    meta = {
        "config": config,
        "data": {"a": {"rate": RATE, "source": 0, "folds": None}},
        "evaluated": {},
        "tokens": {},
    }
    with Checkpointer(str(folder / "checkpoints")) as checkpoints:
        state = jax.tree.map(jax.numpy.asarray, random_state(config))
        checkpoints.save(5, state, meta)
    return folder


@pytest.fixture(scope="module")
def folder(workdir):
    export.main([f"--workdir={workdir}", f"--output={workdir / 'exported'}"])
    return workdir / "exported"


def recordings(number: int = 3) -> np.ndarray:
    """[number, CROP, 12] mV in whole microvolts."""
    noise = np.random.default_rng(0).normal(scale=0.3, size=(number, CROP, 12))
    return np.round(noise, 3).astype(np.float32)


def call(encoder, ecg, leads=LEADS):
    return encoder(ecg, rate=RATE, leads=leads, unit="mV")


def test_the_files_give_the_features_of_the_checkpoint(workdir, folder):
    expected = call(ecgssl_jax.load(workdir), recordings())
    found = call(ecgssl_jax.load(folder), recordings())
    assert found.keys() == expected.keys() == {"pooled", "tokens"}
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


def test_the_program_runs_without_this_package(workdir, folder, tmp_path):
    ecg, lead_valid = recordings(), np.ones((3, 12), bool)
    lead_valid[1, 4:] = False
    length = np.array([CROP, CROP, 150], np.int32)
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, ecg=ecg, lead_valid=lead_valid, length=length)
    script = f"""
        import sys
        sys.modules["ecgssl_jax"] = None  # importing it would fail
        import numpy as np
        from jax import export
        given = dict(np.load({str(inputs)!r}))
        data = open({str(folder / exported.PROGRAM)!r}, "rb").read()
        program = export.deserialize(data)
        np.savez({str(tmp_path / "found.npz")!r}, **program.call(**given))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    encoder = ecgssl_jax.load(workdir)
    for row, samples in enumerate(length):
        leads = int(lead_valid[row].sum())
        expected = call(encoder, ecg[row, :samples, :leads], LEADS[:leads])
        np.testing.assert_allclose(found["pooled"][row], expected["pooled"], atol=1e-5)
        valid = expected.get("tokens_valid", slice(None))
        np.testing.assert_allclose(
            found["tokens"][row][valid], expected["tokens"][valid], atol=1e-5
        )


def test_only_what_features_are_made_from_is_kept(folder):
    names = {"/".join(x.split("/")[:2]) for x in load_file(folder / exported.ARRAYS)}
    statistics = {f"statistics/{name}" for name in ("scale", "mean", "std")}
    description = json.loads((folder / exported.DESCRIPTION).read_text())
    assert statistics < names
    assert (
        names - statistics
        == {
            "jepa": {"extra/target_encoder"},
            "byol": {"params/encoder", "extra/statistics"},
            "clocs": {"params/encoder", "extra/encoder"},
        }[description["method"]]
    )


def test_the_description_says_what_a_recording_must_be(folder):
    found = json.loads((folder / exported.DESCRIPTION).read_text())
    assert (found["rate"], found["samples"], found["unit"]) == (RATE, CROP, "mV")
    assert tuple(found["leads"]) == LEADS
    np.testing.assert_allclose(found["std"], 0.4, rtol=1e-6)
    inputs = found["program"]["inputs"]
    assert inputs["ecg"]["array"] == "float32[batch,200,12]"
    assert "the program itself subtracts" in inputs["ecg"]["what"]
    assert inputs.keys() == {"ecg", "lead_valid", "length"} and found["labels"] == []


def test_an_export_is_for_all_to_read_and_lies_by_itself(workdir, folder):
    modes = {(folder / name).stat().st_mode & 0o777 for name in os.listdir(folder)}
    assert len(modes) == 1
    encoder = ecgssl_jax.load(workdir)
    with pytest.raises(exported.ExportedEncoderError, match="holds something else"):
        exported.save(encoder.frozen, encoder.statistics, workdir)
    assert not exported.is_exported(workdir)
    exported.save(encoder.frozen, encoder.statistics, folder)  # over an export


def test_changed_bits_are_noticed(folder, tmp_path):
    for name in os.listdir(folder):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    data = bytearray((folder / exported.ARRAYS).read_bytes())
    data[-1] ^= 0x40
    (tmp_path / exported.ARRAYS).write_bytes(data)
    with pytest.raises(exported.ExportedEncoderError, match="is damaged"):
        ecgssl_jax.load(tmp_path)


def test_what_is_no_whole_export_is_refused(folder, tmp_path):
    for name in (exported.ARRAYS, exported.DESCRIPTION):
        data = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(data)
    ecgssl_jax.load(tmp_path)
    with pytest.raises(ConfigError, match="has the statistics of one set"):
        ecgssl_jax.load(tmp_path, statistics="a")
    (tmp_path / exported.ARRAYS).write_bytes(data[:100])
    with pytest.raises(exported.ExportedEncoderError, match="no exported encoder"):
        ecgssl_jax.load(tmp_path)
    description = json.loads((folder / exported.DESCRIPTION).read_text())
    (tmp_path / exported.ARRAYS).write_bytes((folder / exported.ARRAYS).read_bytes())
    for change, message in (
        ({"version": 2}, "of version 2, expected"),
        ({"config": {**description["config"], "model": {**VIT, "width": 16}}}, "shape"),
    ):
        if "config" in change and description["method"] != "jepa":
            continue
        text = json.dumps(description | change)
        (tmp_path / exported.DESCRIPTION).write_text(text)
        with pytest.raises((exported.ExportedEncoderError, ConfigError), match=message):
            ecgssl_jax.load(tmp_path)

"""Probabilities as CSV, against the model's own features."""

import csv
from pathlib import Path

import numpy as np
import pytest

import ecgssl_jax
from ecgssl_jax import export, main, predict, prepare
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.interop.exported import read_program
from ecgssl_jax.leads import LEADS

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(60), root / "synthetic", report=lambda _: None)
    return root


def train(root, workdir, method):
    settings = f"root={root},steps=2,batch_size=8,model.features=4,data.folds=None"
    main.main(
        [
            f"--config={CONFIGS / method}.py:{settings}",
            f"--workdir={workdir}",
            "--config.evaluators.probe=None",
        ]
    )
    return workdir


@pytest.fixture(scope="module")
def workdir(root, tmp_path_factory):
    return train(root, tmp_path_factory.mktemp("run"), "supervised")


def read(path) -> tuple[list[str], list[str], np.ndarray]:
    with path.open(encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    values = np.array([line[1:] for line in lines], float)
    return header[1:], [line[0] for line in lines], values


def of_set(path):
    """Without the column of offsets."""
    labels, ids, values = read(path)
    assert labels[0] == "offset" and (values[:, 0] == 0).all()
    return labels[1:], ids, values[:, 1:]


def test_every_recording_of_a_set_has_the_probability_of_every_label(
    root, workdir, tmp_path
):
    prepared = open_prepared(root / "synthetic")
    output = tmp_path / "new" / "predictions.csv"
    source = f"--source={root / 'synthetic'}"
    predict.main(["prepared", f"--encoder={workdir}", source, f"--output={output}"])
    labels, ids, values = of_set(output)
    assert tuple(labels) == prepared.labels
    assert ids == list(prepared.index["record_id"])
    ecg = prepared.load() * prepared.scale
    found = ecgssl_jax.load(workdir)(ecg, rate=100, leads=LEADS, unit="mV")
    expected = 1 / (1 + np.exp(-found["logits"]))
    np.testing.assert_allclose(values, expected, atol=1e-4)
    assert not list(output.parent.glob(".*"))


def test_raw_recordings_are_predicted_and_what_cannot_be_used_is_named(
    root, workdir, tmp_path, capsys
):
    prepared = open_prepared(root / "synthetic")
    ecg = (prepared.load()[:3] * prepared.scale).astype(np.float32)
    ecg[1] = 0
    np.save(tmp_path / "raw.npy", ecg)
    output = tmp_path / "raw.csv"
    predict.main(
        [
            "array",
            f"--encoder={workdir}",
            f"--source={tmp_path / 'raw.npy'}",
            "--source-rate=100",
            "--unit=mV",
            f"--leads={','.join(LEADS)}",
            "--layout=NTC",
            f"--output={output}",
        ]
    )
    _, ids, values = read(output)
    assert len(ids) == 2 and ((values > 0) & (values < 1)).all()
    assert "1 recordings are left out" in capsys.readouterr().out
    assert (tmp_path / "raw.csv.rejected.csv").exists()


def test_what_a_recording_is_told_does_not_depend_on_those_beside_it(
    root, workdir, tmp_path
):
    """Prepared or raw, it is normalised by the set that the model was trained on."""
    prepared = open_prepared(root / "synthetic")
    ecg = 3 * (prepared.load()[:9] * prepared.scale).astype(np.float32)
    np.save(tmp_path / "raw.npy", ecg)
    layout = ["--source-rate=100", "--unit=mV", "--layout=NTC"]
    layout += [f"--leads={','.join(LEADS)}", f"--source={tmp_path / 'raw.npy'}"]
    prepare.main(["array", *layout, f"--output={tmp_path / 'set'}"])
    predict.main(
        ["array", f"--encoder={workdir}", *layout, f"--output={tmp_path / 'raw.csv'}"]
    )
    predict.main(
        [
            "prepared",
            f"--encoder={workdir}",
            f"--source={tmp_path / 'set'}",
            f"--output={tmp_path / 'set.csv'}",
        ]
    )
    *_, raw = read(tmp_path / "raw.csv")
    *_, values = of_set(tmp_path / "set.csv")
    np.testing.assert_allclose(values, raw, atol=1e-4)


def test_an_exported_model_predicts_the_same(root, workdir, tmp_path):
    folder = tmp_path / "exported"
    export.main([f"--workdir={workdir}", f"--output={folder}"])
    source = f"--source={root / 'synthetic'}"
    for name, path in (("run", workdir), ("export", folder)):
        output = f"--output={tmp_path / name}.csv"
        predict.main(["prepared", f"--encoder={path}", source, output])
    labels, _, expected = of_set(tmp_path / "run.csv")
    assert of_set(tmp_path / "export.csv")[0] == labels
    np.testing.assert_allclose(of_set(tmp_path / "export.csv")[2], expected, atol=1e-5)
    encoder = ecgssl_jax.load(folder)
    assert list(encoder.labels) == labels
    prepared = open_prepared(root / "synthetic")
    ecg = (prepared.load()[:3] * prepared.scale).astype(np.float32)
    windows = ecg.reshape(6, encoder.crop, len(LEADS))
    found = read_program(folder).call(
        ecg=windows,
        lead_valid=np.ones((6, len(LEADS)), bool),
        length=np.full(6, encoder.crop, np.int32),
    )
    logits = np.asarray(found["logits"]).reshape(3, 2, -1).mean(axis=1)
    probability = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(probability, expected[:3], atol=1e-4)


def test_a_model_without_labels_is_named(root, tmp_path, capsys):
    workdir = train(root, tmp_path / "run", "simclr")
    output = tmp_path / "predictions.csv"
    with pytest.raises(SystemExit) as stopped:
        predict.main(
            [
                "prepared",
                f"--encoder={workdir}",
                f"--source={root / 'synthetic'}",
                f"--output={output}",
            ]
        )
    assert "was not trained on labels" in str(stopped.value.code)
    assert not output.exists()

"""Embeddings as a file, against the encoder called on the same recordings."""

import csv
import re

import numpy as np
import pyarrow.parquet
import pytest

import ecgssl_jax
from ecgssl_jax import embed, recordings
from ecgssl_jax.leads import LEADS
from tests.test_encoder import RATE, RECORDS, prepared, recording, workdir

__all__ = ["prepared", "workdir"]


def run(*arguments):
    embed.main([*map(str, arguments), "--statistics=b"])


@pytest.fixture
def of_set(workdir, prepared, tmp_path):
    """Embeds the set into a file of that name, and returns its path."""

    def embed_into(name, *flags):
        output = tmp_path / name
        source = prepared.directory.parent
        arguments = [f"--encoder={workdir}", f"--source={source}", f"--output={output}"]
        run("prepared", *arguments, *flags)
        return output

    return embed_into


def expected(workdir, seeds):
    encoder = ecgssl_jax.load(workdir, statistics="b")
    ecg = np.stack([recording(seed) for seed in seeds])
    return encoder(ecg, rate=RATE, leads=LEADS, unit="mV")


def test_a_prepared_set_is_embedded_by_parts(workdir, of_set, monkeypatch):
    monkeypatch.setattr(recordings, "_RECORDS", 4)
    table = pyarrow.parquet.read_table(of_set("set.parquet"))
    assert table.column("record_id").to_pylist() == [str(n) for n in range(RECORDS)]
    assert {"patient_hash", "fold", "offset"} < set(table.column_names)
    found = np.stack(table.column("embedding").to_pylist())
    pooled = expected(workdir, range(RECORDS))["pooled"]
    np.testing.assert_allclose(found, pooled, atol=1e-5)
    archive = np.load(of_set("set.npz"))
    assert archive["record_id"].tolist() == table.column("record_id").to_pylist()
    assert archive["embedding"].dtype == np.float32
    np.testing.assert_allclose(archive["embedding"], found, atol=1e-6)


def test_tokens_keep_their_axes(workdir, of_set):
    archive = np.load(of_set("tokens.npz", "--features=tokens"))
    assert archive["embedding"].shape == (RECORDS, 100, 8)
    assert archive["valid"].all() and archive["valid"].shape == (RECORDS, 100)
    tokens = expected(workdir, [2])["tokens"]
    np.testing.assert_allclose(archive["embedding"][2], tokens[0], atol=1e-5)
    table = pyarrow.parquet.read_table(of_set("tokens.parquet", "--features=tokens"))
    (row,) = table.slice(2, 1).column("embedding").to_pylist()
    np.testing.assert_array_equal(row, archive["embedding"][2])


def test_features_of_single_leads_need_an_encoder_that_sees_them(of_set):
    with pytest.raises(SystemExit, match="sees all leads together"):
        of_set("leads.npz", "--features=by_lead")


def test_raw_recordings_are_embedded_and_the_unusable_are_named(workdir, tmp_path):
    rows = ["path"]
    for seed in range(3):
        np.save(tmp_path / f"r{seed}.npy", 1000 * recording(seed, rate=500.0))
        rows.append(f"r{seed}.npy")
    np.save(tmp_path / "flat.npy", np.zeros((5000, 12)))
    (tmp_path / "table.csv").write_text("\n".join([*rows, "flat.npy", "none.npy"]))
    output = tmp_path / "raw.npz"
    run(
        "manifest",
        *(f"--encoder={workdir}", f"--source={tmp_path / 'table.csv'}"),
        *(f"--output={output}", "--source-rate=500", "--unit=uV"),
        f"--leads={','.join(LEADS)}",
    )
    found = np.load(output)
    assert found["record_id"].tolist() == ["r0.npy", "r1.npy", "r2.npy"]
    encoder = ecgssl_jax.load(workdir, statistics="b")
    ecg = np.stack([recording(seed, rate=500.0) for seed in range(3)])
    pooled = encoder(ecg, rate=500.0, leads=LEADS, unit="mV")["pooled"]
    np.testing.assert_allclose(found["embedding"], pooled, atol=1e-5)
    with (tmp_path / "raw.npz.rejected.csv").open() as file:
        reasons = {row["record"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"flat.npy", "none.npy"}
    assert re.match("too few leads: .*flat lead: I, II", reasons["flat.npy"])


def test_folds_choose_records(of_set, prepared, capsys):
    fold = sorted(set(prepared.index["fold"].tolist()))
    with pytest.raises(SystemExit) as stopped:
        of_set("none.npz", "--folds=99")
    assert f"has no record in [99], only in {fold}" in str(stopped.value)


@pytest.mark.parametrize("name", ["set.csv", "set"])
def test_files_of_another_kind_are_refused(of_set, name):
    with pytest.raises(SystemExit, match=r"ends with .parquet or .npz"):
        of_set(name)


def test_nothing_is_left_of_what_failed(workdir, tmp_path):
    np.save(tmp_path / "ecg.npy", np.zeros((3, 1000, 12)))
    with pytest.raises(SystemExit, match="none of 3 recordings .*too few leads"):
        run(
            "array",
            *(f"--encoder={workdir}", f"--source={tmp_path / 'ecg.npy'}"),
            *("--layout=NTC", "--source-rate=100", "--unit=mV"),
            *(f"--leads={','.join(LEADS)}", f"--output={tmp_path / 'x.npz'}"),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["ecg.npy"]

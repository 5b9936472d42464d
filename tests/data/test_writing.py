import csv
import dataclasses
import functools
import itertools
import json

import numpy as np
import pyarrow.parquet
import pytest

from ecgssl_jax.data import shards, writing
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.source import Source, SourceError
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.data.writing import Settings, prepare_dataset

LOOSE = Settings(max_rejected=0.9)


def _findings(path):
    with (path / "1.0.0" / "quality.csv").open(newline="") as file:
        return [
            (x["record"], x["finding"], x["decision"]) for x in csv.DictReader(file)
        ]


def test_every_record_is_stored_or_found(tmp_path, make_record, make_source):
    good = [make_record(seed) for seed in range(6)]
    gap = make_record(10)
    gap.ecg[100:200] = np.nan
    unreadable = ("r11", RecordError("r11.dat: truncated"))
    again = dataclasses.replace(good[1], id="r12")
    report = []
    source = make_source([*good[:3], gap, *good[3:], unreadable, again])
    prepared = prepare_dataset(
        source, tmp_path / "s", settings=LOOSE, report=report.append
    )
    assert prepared.index["record_id"].tolist() == [f"r{i}" for i in range(6)]
    assert _findings(tmp_path / "s") == [
        ("r10", "long gap", "reject"),
        ("r11", "unreadable", "reject"),
        ("r12", "duplicate", "reject"),
    ]
    assert "9 records read; 6 windows of 10 s kept, 3 rejected" in report[0]
    for finding in ("long gap", "unreadable", "duplicate"):
        assert f"reject       1  {finding}" in report[0]


def test_signals_come_back_as_they_went_in(tmp_path, make_record, make_source):
    records = [make_record(seed) for seed in range(7)]
    prepared = prepare_dataset(make_source(records), tmp_path / "s")
    expected = np.stack([record.ecg for record in records])
    np.testing.assert_allclose(prepared.load() * 0.001, expected, atol=0.00051)
    rows = [6, 0, 3, 3]
    np.testing.assert_array_equal(prepared.read(rows), prepared.load()[rows])


def test_statistics_are_those_of_valid_samples(tmp_path, make_record, make_source):
    records = [make_record(seed, seconds=6 + seed) for seed in range(4)]
    records[2].ecg[:, 7] = 0.0
    prepared = prepare_dataset(make_source(records), tmp_path / "s")
    signals, index = prepared.load() * 0.001, prepared.index
    for lead in range(12):
        rows = np.nonzero(index["lead_valid"][:, lead])[0]
        assert len(rows) == (3 if lead == 7 else 4)
        x = np.concatenate([signals[i, : index["length"][i], lead] for i in rows])
        assert prepared.mean[lead] == pytest.approx(x.mean(), abs=1e-9)
        assert prepared.std[lead] == pytest.approx(x.std(), abs=1e-9)


def test_a_lead_that_no_record_has_keeps_neutral_statistics(
    tmp_path, make_record, make_source
):
    record = make_record()
    record = dataclasses.replace(record, ecg=record.ecg[:, :8], leads=record.leads[:8])
    prepared = prepare_dataset(make_source([record]), tmp_path / "s")
    assert prepared.mean[8:].tolist() == [0.0] * 4
    assert prepared.std[8:].tolist() == [1.0] * 4


def test_labels_and_what_is_unknown(tmp_path, make_record, make_source):
    records = [
        make_record(0, labels={"a": 1.0, "b": 0.0}),
        make_record(1, labels={"b": 1.0}),
        make_record(2),
    ]
    prepared = prepare_dataset(make_source(records, ("a", "b")), tmp_path / "s")
    assert prepared.labels == ("a", "b")
    assert prepared.index["labels"].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert prepared.index["labels_valid"].tolist() == [[1, 1], [0, 1], [0, 0]]


def test_text_fold_and_attributes_are_kept(tmp_path, make_record, make_source):
    record = make_record(text="Sinusrhythmus, Linkstyp", fold=7, attributes={"age": 61})
    prepared = prepare_dataset(make_source([record]), tmp_path / "s")
    assert prepared.index["text"][0] == "Sinusrhythmus, Linkstyp"
    assert prepared.index["fold"].tolist() == [7]
    assert json.loads(prepared.index["attributes"][0]) == {"age": 61}
    assert prepared.metadata["folds"] == {"7": 1}


def test_patients_are_hashed_numbered_and_never_stored(
    tmp_path, make_record, make_source
):
    patients = ["Ada Lovelace", "", "Ada Lovelace", "", "Bell"]
    records = [make_record(i, patient=name) for i, name in enumerate(patients)]
    prepared = prepare_dataset(make_source(records), tmp_path / "s")
    assert prepared.index["patient"].tolist() == [0, 1, 0, 2, 3]
    hashes = prepared.index["patient_hash"].tolist()
    assert hashes[0] == hashes[2] and len(set(hashes)) == 4
    assert all(len(x) == 16 and int(x, 16) >= 0 for x in hashes)
    # Of other sets of that name too, wherever they are; not of others.
    there = prepare_dataset(make_source(records), tmp_path / "u" / "s")
    assert there.index["patient_hash"].tolist() == hashes
    other = prepare_dataset(make_source(records), tmp_path / "other")
    assert set(other.index["patient_hash"]).isdisjoint(hashes)
    for path in (tmp_path / "s").rglob("*"):
        assert path.is_dir() or b"Lovelace" not in path.read_bytes(), path
    salted = prepare_dataset(
        make_source(records), tmp_path / "t" / "s", settings=Settings(salt="secret")
    )
    assert set(salted.index["patient_hash"]).isdisjoint(hashes)
    assert salted.index["patient"].tolist() == [0, 1, 0, 2, 3]
    assert b"secret" not in (salted.directory / "metadata.json").read_bytes()


def test_equal_signals_of_different_sets_have_equal_hashes(
    tmp_path, make_record, make_source
):
    one = prepare_dataset(
        make_source([make_record(i, id=f"a{i}") for i in (0, 1, 2)]), tmp_path / "one"
    )
    other = prepare_dataset(
        make_source([make_record(i, patient="P") for i in (3, 2)]), tmp_path / "other"
    )
    first, second = (each.index["signal_hash"].tolist() for each in (one, other))
    assert first[2] == second[1] and len({*first, *second}) == 4


def test_windows_keep_record_patient_offset_and_length(
    tmp_path, make_record, make_source
):
    records = [make_record(0), make_record(1, seconds=27.0, patient="p", fold=3)]
    prepared = prepare_dataset(make_source(records), tmp_path / "s")
    index = prepared.index
    assert index["record_id"].tolist() == ["r0", "r1", "r1", "r1"]
    assert index["offset"].tolist() == [0, 0, 1000, 2000]
    assert index["length"].tolist() == [1000, 1000, 1000, 700]
    assert index["patient"].tolist() == [0, 1, 1, 1]
    assert index["fold"].tolist() == [-1, 3, 3, 3]


def test_too_many_rejected_records_stop_it(tmp_path, make_record, make_source):
    bad = [(f"b{i}", RecordError(f"b{i}.dat: truncated")) for i in range(2)]
    source = make_source([make_record(0), *bad])
    with pytest.raises(SourceError, match="2 of 3 windows.*--max-rejected.*b0.dat"):
        prepare_dataset(source, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["s.quality.csv"]
    assert len((tmp_path / "s.quality.csv").read_text().splitlines()) == 3


def test_a_recording_that_is_lost_weighs_as_much_as_a_long_one(
    tmp_path, make_record, make_source
):
    # Of 26 windows 24 are kept, of 3 recordings 1.
    bad = [(f"b{i}", RecordError(f"b{i}.dat: truncated")) for i in range(2)]
    source = make_source([make_record(0, seconds=240.0), *bad])
    with pytest.raises(SourceError, match="2 of 3 recordings gave no window.*b0.dat"):
        prepare_dataset(source, tmp_path / "s", settings=Settings(max_rejected=0.1))
    prepare_dataset(source, tmp_path / "s", settings=LOOSE)


def test_rejected_windows_count_each(tmp_path, make_record, make_source):
    record = make_record(0, seconds=100.0)
    record.ecg[2000:5000] = np.nan
    source = make_source([record, make_record(1)])
    with pytest.raises(SourceError, match="3 of 11 windows"):
        prepare_dataset(source, tmp_path / "s", settings=Settings(max_rejected=0.2))


def test_recordings_of_the_same_name_count_each(tmp_path, make_record, make_source):
    bad = [("(no path)", RecordError("row without a path"))] * 3
    source = make_source([make_record(0), *bad])
    with pytest.raises(SourceError, match="3 of 4 windows"):
        prepare_dataset(source, tmp_path / "s", settings=Settings(max_rejected=0.5))


def test_a_remainder_is_not_named_as_the_first_rejection(
    tmp_path, make_record, make_source
):
    source = make_source([make_record(0, seconds=12.0), ("b", RecordError("b.dat"))])
    with pytest.raises(SourceError, match="1 of 2 windows.*The first: b: unreadable"):
        prepare_dataset(source, tmp_path / "s")


def test_a_report_of_an_earlier_attempt_goes_when_one_succeeds(
    tmp_path, make_record, make_source
):
    source = make_source([make_record(0), ("b", RecordError("b.dat: truncated"))])
    with pytest.raises(SourceError):
        prepare_dataset(source, tmp_path / "s")
    prepare_dataset(source, tmp_path / "s", settings=LOOSE)
    assert [x.name for x in tmp_path.iterdir()] == ["s"]


def test_a_patient_in_two_folds_leaves_no_set(tmp_path, make_record, make_source):
    records = [make_record(i, patient="p", fold=i + 1) for i in range(2)]
    with pytest.raises(SourceError, match="1 of 1 patients.*record r0 .fold 1."):
        prepare_dataset(make_source(records), tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_no_usable_record_stops_it_whatever_the_share(
    tmp_path, make_record, make_source
):
    source = make_source([("b", RecordError("b.dat: truncated"))])
    with pytest.raises(SourceError, match="1 of 1 windows"):
        prepare_dataset(source, tmp_path / "s", settings=Settings(max_rejected=1.0))
    with pytest.raises(SourceError, match="no records"):
        prepare_dataset(make_source([]), tmp_path / "s")


def test_several_rates_need_a_choice(tmp_path, make_record, make_source):
    records = [make_record(0), make_record(1, rate=500.0)]
    source = dataclasses.replace(make_source(records), rates=(100.0, 500.0))
    with pytest.raises(SourceError, match="100, 500 Hz.*--rate"):
        prepare_dataset(source, tmp_path / "s")
    prepared = prepare_dataset(source, tmp_path / "s", settings=Settings(rate=250.0))
    assert prepared.rate == 250.0
    assert prepared.load().shape == (2, 2500, 12)
    assert prepared.index["length"].tolist() == [2500, 2500]


def test_a_label_that_is_neither_0_nor_1_is_found(tmp_path, make_record, make_source):
    records = [make_record(0), make_record(1, labels={"a": 0.5})]
    prepare_dataset(make_source(records, ("a",)), tmp_path / "s", settings=LOOSE)
    assert _findings(tmp_path / "s") == [("r1", "unreadable", "reject")]


def test_an_existing_set_is_replaced_only_on_demand(tmp_path, make_record, make_source):
    prepare_dataset(make_source([make_record(0)]), tmp_path / "s")
    other = make_source([make_record(1), make_record(2)])
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare_dataset(other, tmp_path / "s")
    assert len(open_prepared(tmp_path / "s")) == 1
    assert len(prepare_dataset(other, tmp_path / "s", overwrite=True)) == 2
    assert [x.name for x in tmp_path.iterdir()] == ["s"]


def test_recordings_are_never_replaced(tmp_path, make_record, make_source):
    np.save(tmp_path / "r.npy", make_record(0).ecg)
    with pytest.raises(FileExistsError, match="no 1.0.0/metadata.json"):
        prepare_dataset(make_source([make_record(0)]), tmp_path, overwrite=True)
    assert [x.name for x in tmp_path.iterdir()] == ["r.npy"]


def test_workers_change_nothing(tmp_path):
    source = synthetic_source(300, seed=1)
    one = prepare_dataset(source, tmp_path / "a" / "s", workers=1)
    two = prepare_dataset(source, tmp_path / "b" / "s", workers=2)
    assert len(one) == 300
    assert one.metadata["content_hash"] == two.metadata["content_hash"]
    np.testing.assert_array_equal(one.load(), two.load())


def test_other_versions_of_what_writes_the_files_write_the_same_content(
    tmp_path, make_record, make_source, monkeypatch
):
    def prepared(folder, **fields):
        source = make_source([make_record(1, **fields)])
        return prepare_dataset(source, tmp_path / folder / "s").metadata

    one, changed = prepared("one"), prepared("changed", text="another")
    write = pyarrow.parquet.write_table
    monkeypatch.setattr(writing, "_package_version", lambda: "other")
    monkeypatch.setattr(
        pyarrow.parquet, "write_table", functools.partial(write, compression="none")
    )
    other = prepared("other")
    for key in ("package_version", "index_sha256"):
        assert one[key] != other[key]
    assert one["content_hash"] == other["content_hash"] != changed["content_hash"]


def test_columns_have_the_hash_of_names_types_and_values():
    number, words = np.arange(4, dtype=np.int32), np.array(["ab", "c"], object)
    sets = [
        {"n": number, "t": words},
        {"n": number + 1, "t": words},
        {"n": number.astype(np.uint32), "t": words},
        {"n": number.reshape(2, 2), "t": words},
        {"m": number, "t": words},
        {"n": number, "t": np.array(["a", "bc"], object)},
    ]
    assert len({shards.columns_sha256(each) for each in sets}) == len(sets)
    swapped = {"t": words.copy(), "n": number.copy()}
    assert shards.columns_sha256(swapped) == shards.columns_sha256(sets[0])


def test_several_shards_hold_all_records_in_order(
    tmp_path, make_record, make_source, monkeypatch
):
    monkeypatch.setattr("ecgssl_jax.data.writing._SHARD_BYTES", 100_000)
    records = [make_record(seed) for seed in range(20)]
    records[4].ecg[:] = 0
    prepared = prepare_dataset(make_source(records), tmp_path / "s")
    assert len(prepared.metadata["shards"]) == 4
    tfds = pytest.importorskip("tensorflow_datasets")
    found = tfds.builder_from_directory(prepared.directory).as_data_source("train")
    ids = [f"r{i}" for i in range(20) if i != 4]
    assert prepared.index["record_id"].tolist() == ids
    assert [found[i]["record_id"].decode() for i in range(19)] == ids
    assert [found[i]["record"] for i in range(19)] == list(range(19))
    expected = np.stack([record.ecg for i, record in enumerate(records) if i != 4])
    np.testing.assert_allclose(prepared.load() * 0.001, expected, atol=0.00051)


def test_a_large_set_has_large_shards(tmp_path, make_record, make_source, monkeypatch):
    monkeypatch.setattr("ecgssl_jax.data.writing._SHARD_BYTES", 1)
    monkeypatch.setattr("ecgssl_jax.data.writing._MAX_SHARDS", 3)
    records = [make_record(seed) for seed in range(20)]
    prepared = prepare_dataset(make_source(records, per_task=1), tmp_path / "s")
    shards = [shard["num_records"] for shard in prepared.metadata["shards"]]
    assert len(shards) == 3 and sum(shards) == 20
    assert len(prepared.load()) == 20


def _exhausted():
    raise MemoryError("out of memory")


def test_an_error_of_the_program_is_no_finding(tmp_path):
    source = Source(
        description="", tasks=[_exhausted], num_records=1, rates=(100.0,), labels=()
    )
    with pytest.raises(MemoryError):
        prepare_dataset(source, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_tfds_opens_it_without_this_package(tmp_path, make_record, make_source, labels):
    tfds = pytest.importorskip("tensorflow_datasets")
    records = [
        make_record(i, text=f"Befund {i}", fold=i, labels={x: 1.0 for x in labels})
        for i in range(5)
    ]
    path = tmp_path / "My-Set.2"
    prepared = prepare_dataset(make_source(records, labels), path)
    found = tfds.builder_from_directory(path / "1.0.0").as_data_source("train")
    assert len(found) == 5
    for row, each in enumerate(itertools.islice(found, 5)):
        np.testing.assert_array_equal(each["ecg"], prepared.read([row])[0])
        assert each["ecg"].dtype == np.int16
        assert each["record"] == row
        assert each["record_id"].decode() == f"r{row}"
        assert each["text"].decode() == f"Befund {row}"
        assert each["fold"] == row and each["length"] == 1000 and each["offset"] == 0
        assert each["labels"].tolist() == [1] * len(labels)
        assert each["lead_valid"].tolist() == [True] * 12
        assert each["patient_hash"].decode() == prepared.index["patient_hash"][row]

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ecgssl_jax.data.prepared import DamagedSetError, open_prepared
from ecgssl_jax.data.writing import prepare_dataset


@pytest.fixture
def prepared(tmp_path, make_record, make_source):
    records = [make_record(seed) for seed in range(8)]
    return prepare_dataset(make_source(records, ("a",)), tmp_path / "set")


def _flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def _shard(prepared):
    return next(prepared.directory.glob("*.array_record-*"))


def test_the_set_and_its_version_folder_both_open(prepared):
    for path in (prepared.directory, prepared.directory.parent):
        assert len(open_prepared(path)) == 8
        assert open_prepared(str(path)).name == "set"


def test_no_set_names_the_command(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="python -m ecgssl_jax.prepare"
    ) as error:
        open_prepared(tmp_path / "nothing")
    assert f"--output={tmp_path / 'nothing'}" in str(error.value)


def test_opening_imports_neither_tensorflow_nor_jax(prepared):
    code = (
        "import sys\n"
        "from ecgssl_jax.data.prepared import open_prepared\n"
        f"print(open_prepared({str(prepared.directory)!r}).read([3]).shape)\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'jax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(1, 1000, 12)"


def test_rows_outside_are_an_error(prepared):
    for row in (-1, 8):
        with pytest.raises(IndexError, match="rows 0 to 7"):
            prepared.read([0, row])


def test_no_rows_are_no_rows(prepared):
    assert prepared.read([]).shape == (0, 1000, 12)


def test_threads_and_copies_read_the_same(prepared):
    expected = prepared.load()
    copied = pickle.loads(pickle.dumps(prepared))
    rows = np.random.default_rng(0).integers(0, 8, (50, 5))
    with ThreadPoolExecutor(4) as pool:
        for each, found in zip(rows, pool.map(copied.read, rows), strict=True):
            np.testing.assert_array_equal(found, expected[each])


@pytest.mark.parametrize("row", [0, 3, 7])
def test_a_flipped_bit_names_file_and_record(prepared, row):
    # Every record's signal stands in the file as it is, framing apart.
    signal = prepared.read([row]).tobytes()
    position = _shard(prepared).read_bytes().index(signal[5000:5100])
    _flip(_shard(prepared), position)
    damaged = open_prepared(prepared.directory)
    others = [i for i in range(8) if i != row]
    np.testing.assert_array_equal(damaged.read(others), prepared.read(others))
    with pytest.raises(DamagedSetError, match=f"row {row} .record 'r{row}'.") as error:
        damaged.load()
    assert _shard(prepared).name in str(error.value)


def test_a_shard_cut_short_or_missing_is_an_error(prepared):
    content = _shard(prepared).read_bytes()
    shard = _shard(prepared)
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedSetError, match=f"{shard.name} has .* bytes, expected"):
        open_prepared(prepared.directory)
    shard.unlink()
    with pytest.raises(DamagedSetError, match=f"{shard.name} is missing"):
        open_prepared(prepared.directory)


def test_a_shard_zeroed_at_its_end_is_an_error(prepared):
    shard = _shard(prepared)
    content = shard.read_bytes()
    half = len(content) // 2
    shard.write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(DamagedSetError, match=shard.name):
        open_prepared(prepared.directory).load()


def test_changed_metadata_or_index_is_an_error(prepared):
    path = prepared.directory / "metadata.json"
    text = path.read_text()
    metadata = json.loads(text)
    metadata["scale"] = 0.002
    path.write_text(json.dumps(metadata))
    with pytest.raises(DamagedSetError, match="metadata.json was changed"):
        open_prepared(prepared.directory)
    del metadata["metadata_sha256"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(DamagedSetError, match="another version of this package"):
        open_prepared(prepared.directory)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DamagedSetError, match="metadata.json is damaged"):
        open_prepared(prepared.directory)
    path.write_text(text)
    index = prepared.directory / "index.parquet"
    _flip(index, 100)
    with pytest.raises(DamagedSetError, match="index.parquet does not match"):
        open_prepared(prepared.directory)
    index.unlink()
    with pytest.raises(DamagedSetError, match="index.parquet is missing"):
        open_prepared(prepared.directory)
    path.unlink()
    with pytest.raises(DamagedSetError, match="no metadata.json"):
        open_prepared(prepared.directory)

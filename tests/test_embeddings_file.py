import numpy as np
import pyarrow.parquet
import pytest

from ecgssl_jax.embeddings_file import open_writer
from ecgssl_jax.errors import UserError


def batches():
    random = np.random.default_rng(0)
    for number in (3, 1, 4):
        yield {
            "record_id": [f"é{k}" for k in range(number)],
            "fold": np.arange(number, dtype=np.int32),
            "embedding": random.normal(size=(number, 2, 5)).astype(np.float32),
            "valid": random.random((number, 2)) < 0.5,
        }


def written(path):
    with open_writer(path) as writer:
        for columns in batches():
            writer.write(columns)
    return {
        name: np.concatenate([np.asarray(each[name]) for each in batches()])
        for name in next(batches())
    }


def test_npz_holds_the_batches_one_after_the_other(tmp_path):
    expected = written(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype.kind == value.dtype.kind
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_parquet_keeps_axes_as_nested_lists(tmp_path):
    expected = written(tmp_path / "sub" / "x.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "sub" / "x.parquet")
    for name, value in expected.items():
        np.testing.assert_array_equal(np.array(table.column(name).to_pylist()), value)
    assert str(table.schema.field("fold").type) == "int32"


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_a_file_is_whole_or_the_one_before(tmp_path, name):
    (tmp_path / name).write_text("before")
    with pytest.raises(RuntimeError), open_writer(tmp_path / name) as writer:
        writer.write(next(batches()))
        raise RuntimeError
    assert (tmp_path / name).read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_rows_of_other_shapes_are_refused(tmp_path, name):
    with (
        pytest.raises(UserError, match=r"'embedding': rows of shape \(3, 5\) after"),
        open_writer(tmp_path / name) as writer,
    ):
        for tokens in (2, 2, 3):
            rows = np.zeros((4, tokens, 5), np.float32)
            writer.write({"record_id": list("abcd"), "embedding": rows})
    assert not any(tmp_path.iterdir())


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"ends with .parquet or .npz"):
        written(tmp_path / "x.csv")

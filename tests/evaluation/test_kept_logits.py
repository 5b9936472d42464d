import numpy as np

from ecgssl_jax.evaluation.kept_logits import KeptLogits


def test_some_of_the_records_are_enough_and_others_are_none(tmp_path):
    rows = np.array([2, 5, 7, 11])
    logits = np.arange(8, dtype=np.float32).reshape(4, 2)
    KeptLogits(rows=rows, logits=logits, step=3, records=9).write(tmp_path)
    found = KeptLogits.read(tmp_path, np.array([5, 11]))
    assert found is not None and (found.step, found.records) == (3, 9)
    np.testing.assert_array_equal(found.rows, [5, 11])
    np.testing.assert_array_equal(found.logits, logits[[1, 3]])
    assert KeptLogits.read(tmp_path, np.array([5, 6])) is None
    assert KeptLogits.read(tmp_path / "nowhere", rows) is None

import numpy as np
import pytest

from ecgssl_jax.evaluation import predictions
from ecgssl_jax.evaluation.questions import question
from ecgssl_jax.evaluation.scoring import Answer, scored
from ecgssl_jax.evaluation.split import validation_split
from ecgssl_jax.evaluation.summary import Row, summarise
from ecgssl_jax.settings import ConfigError
from tests.evaluation.labelled import labelled_set


def kept(folder):
    """-> the question, the logits of two seeds, and the folder's predictions."""
    prepared, _ = labelled_set()
    asked = question(prepared, "labels", validation_split((1, 2), (4,))).only((4,))
    logits = np.random.default_rng(0).normal(size=(2, *asked.labels.shape))
    logits = logits.astype(np.float32)
    answers = [
        (
            seed,
            Answer(
                task="labels",
                protocol="linear",
                budget="100 %",
                seed=None,
                logits=logits[seed],
                scores=scored(logits[seed], asked),
            ),
        )
        for seed in (0, 1)
    ]
    rows = [Row(encoder="random encoder", answers=answers)]
    cells = summarise(rows, [asked], pairs=[], draws=100, level=0.95)
    assert predictions.write(folder, [asked], cells) == folder / "predictions.npz"
    return asked, logits, cells


def test_predictions_and_their_records_come_back_as_they_were(tmp_path):
    asked, logits, cells = kept(tmp_path)
    found = predictions.read(tmp_path)
    assert list(found.logits) == list(cells)
    (one,) = found.logits.values()
    assert one.seeds == [(0, None), (1, None)]
    np.testing.assert_array_equal(one.values, logits)
    read = found.questions["labels"]
    assert (read.classes, read.population) == (asked.classes, asked.population)
    for name in ("rows", "record_id", "labels", "known", "fold", "patient"):
        np.testing.assert_array_equal(getattr(read, name), getattr(asked, name))


def test_missing_predictions_say_how_to_get_them(tmp_path):
    with pytest.raises(ConfigError, match="there is no .*evaluate the run again"):
        predictions.read(tmp_path)


def test_damaged_predictions_are_named(tmp_path):
    kept(tmp_path)
    path = tmp_path / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=r"predictions.npz is damaged"):
        predictions.read(tmp_path)

import itertools

import numpy as np
import pytest

from ecgssl_jax.evaluation.retrieval import retrieve, table
from ecgssl_jax.settings import ConfigError


def test_recall_is_that_of_sorting_by_similarity():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(2, 60, 4))
    ids = rng.integers(0, 25, 60)
    found = retrieve(queries, candidates, ids, ids, depths=(1, 5, 10))
    cosine = (queries @ candidates.T) / (
        np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(candidates, axis=1)
    )
    order = np.argsort(-cosine, axis=1)
    for depth in (1, 5, 10):
        hits = [(ids[order[i, :depth]] == ids[i]).any() for i in range(60)]
        assert found.recall[depth] == pytest.approx(np.mean(hits))


def test_chance_is_that_of_all_orders():
    ids = np.array([0, 0, 0, 1, 2])
    orders = list(itertools.permutations(range(5), 2))
    expected = np.mean(
        [np.mean([(ids[list(o)] == id).any() for o in orders]) for id in ids]
    )
    found = retrieve(np.eye(5), np.eye(5), ids, ids, depths=(2, 5, 10))
    # Of five candidates, five are all.
    assert found.chance == {2: pytest.approx(expected)}


def test_equal_texts_are_hits_of_each_other():
    # Each record is nearest to the other one of its text.
    queries = np.eye(4)
    candidates = queries[[1, 0, 3, 2]]
    ids = np.array([0, 0, 1, 1])
    swapped = retrieve(queries, candidates, ids, ids, depths=(1,))
    assert swapped.recall[1] == 1
    apart = retrieve(queries, candidates, np.arange(4), np.arange(4), depths=(1,))
    assert apart.recall[1] == 0


def test_embeddings_that_are_all_alike_find_nothing_by_themselves():
    same = np.ones((50, 3))
    found = retrieve(same, same, np.arange(50), np.arange(50), depths=(1, 10))
    assert found.recall == {1: 0.0, 10: 0.0}


def test_many_queries_are_those_of_one_by_one(monkeypatch):
    rng = np.random.default_rng(1)
    queries, candidates = rng.normal(size=(2, 30, 3))
    ids = rng.integers(0, 9, 30)
    whole = retrieve(queries, candidates, ids, ids)
    monkeypatch.setattr("ecgssl_jax.evaluation.retrieval._QUERIES", 7)
    assert retrieve(queries, candidates, ids, ids) == whole


def test_no_record_is_an_error():
    with pytest.raises(ValueError, match="at least one record with a text"):
        retrieve(*np.zeros((2, 0, 3)), *np.zeros((2, 0), int))


def test_table_shows_recall_beside_chance():
    found = retrieve(np.eye(4), np.eye(4), np.arange(4), np.arange(4), depths=(1, 2))
    # Two candidates: both of them are all.
    few = retrieve(
        np.eye(4), np.eye(2, 4), np.array([0, 1, 1, 1]), np.arange(2), depths=(1, 2)
    )
    lines = table({"ECG to text": found, "few": few}, "mine").splitlines()
    cells = [[x.strip() for x in line.split("|")[1:-1]] for line in lines]
    assert cells[0][:3] == ["mine", "queries", "candidates"]
    assert cells[0][3:] == ["recall@1 (chance)", "recall@2 (chance)"]
    assert cells[2] == ["ECG to text", "4", "4", "1.000 (.250)", "1.000 (.500)"]
    assert cells[3] == ["few", "4", "2", ".500 (.500)", ""]


def test_a_report_that_repeats_asks_once_and_fills_one_place():
    # Three records of text 0 lie together, and those of texts 1 and 2 beside them.
    ecg = np.array([[1, 0], [1, 0], [1, 0], [1, 0.1], [1, 0.1]])
    text = np.array([[1, 0], [1, 0.2], [0, 1]])
    ids, distinct = np.array([0, 0, 0, 1, 2]), np.arange(3)
    depths = (1, 2, 4)
    repeated = retrieve(text[ids], ecg, ids, ids, depths)
    once = retrieve(text, ecg, distinct, ids, depths)
    # Text 1 finds its record beside that of text 2, text 2 likewise.
    assert repeated.recall == {1: 0.6, 2: 1, 4: 1}
    assert once.recall == {1: pytest.approx(1 / 3), 2: 1, 4: 1}
    # Of 5 candidates 3, 1 and 1 are hits.
    assert once.chance[1] == pytest.approx((3 + 1 + 1) / 3 / 5)
    assert (once.num_queries, once.num_candidates) == (3, 5)
    # The record of text 1 is nearest to text 0, whose copies fill three places.
    ecg = np.array([[1, 0]] * 3 + [[1, 0.01], [0, 1]])
    repeated = retrieve(ecg, text[ids], ids, ids, (1, 2))
    once = retrieve(ecg, text, ids, distinct, (1, 2))
    assert repeated.recall == {1: 0.8, 2: 0.8} and once.recall == {1: 0.8, 2: 1}
    assert once.chance == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_no_hits(value):
    vectors = np.eye(4)
    broken = vectors.copy()
    broken[1, 2] = value
    for pair in ((broken, vectors), (vectors, broken)):
        with pytest.raises(ConfigError, match="not all embeddings are finite"):
            retrieve(*pair, np.arange(4), np.arange(4))

"""Finding the report of a record, and the record of a report, by their embeddings.

Reports repeat. Records of one report ask the same, and hit or miss together, and their
copies fill the nearest places together. So each direction is also measured with every
different report once: as a query, and among those that are searched.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ecgssl_jax.annotations import make_texts
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.data.text import NO_TEXT
from ecgssl_jax.evaluation.joint_embedding import ecg_embedding, text_embedding, unit
from ecgssl_jax.evaluation.markdown import figure, markdown_table
from ecgssl_jax.runs import FrozenEncoder

DEPTHS = (1, 5, 10)
_QUERIES = 1024  # at a time, so that similarities stay small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """One direction.

    Attributes:
      recall: depth k -> share of the queries with a hit among their k nearest.
      chance: the same of a random order; repeated reports make it large.
      num_queries: n.
      num_candidates: m, among which they search.
    """

    recall: dict[int, float]
    chance: dict[int, float]
    num_queries: int
    num_candidates: int


def retrieve(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_ids: np.ndarray,
    candidate_ids: np.ndarray,
    depths: Sequence[int] = DEPTHS,
) -> Retrieval:
    """Recall at each depth, by cosine similarity; any equal text is a hit.

    Args:
      queries, candidates: [n, D] and [m, D] float.
      query_ids, candidate_ids: [n] and [m] int of their texts, equal for equal ones.
        Each text of a query is a candidate's too; records without text are to be left
        out before.

    Raises:
      ValueError: no record.
      ConfigError: an embedding that is not finite.
    """
    if not len(queries):
        raise ValueError("retrieval needs at least one record with a text")
    queries, candidates = unit(queries), unit(candidates)
    ranks = np.concatenate(
        [
            _ranks(
                queries[i : i + _QUERIES],
                candidates,
                query_ids[i : i + _QUERIES],
                candidate_ids,
            )
            for i in range(0, len(queries), _QUERIES)
        ]
    )
    total = len(candidates)
    # Of so many candidates every query finds all.
    depths = [k for k in depths if k < total] or depths[:1]
    texts, counts = np.unique(candidate_ids, return_counts=True)
    hits = counts[np.searchsorted(texts, query_ids)]
    return Retrieval(
        recall={k: float((ranks < k).mean()) for k in depths},
        chance={k: _chance(hits, total, k) for k in depths},
        num_queries=len(queries),
        num_candidates=total,
    )


def _ranks(queries, candidates, query_ids, ids) -> np.ndarray:
    """[n]: candidates of other texts that are as near as the nearest hit, or nearer."""
    similarity = queries @ candidates.T
    hit = query_ids[:, None] == ids
    nearest = np.where(hit, similarity, -np.inf).max(axis=1, keepdims=True)
    return ((similarity >= nearest) & ~hit).sum(axis=1)


def _chance(hits: np.ndarray, total: int, depth: int) -> float:
    """Mean probability that one of `depth` out of `total`, drawn at random, is a hit."""
    missed = np.ones(len(hits))
    for drawn in range(min(depth, total)):
        missed *= np.maximum(total - hits - drawn, 0) / (total - drawn)
    return float(1 - missed.mean())


def table(directions: Mapping[str, Retrieval], data: str) -> str:
    """Markdown: recall on the set `data`, and that of a random order in brackets.

    A direction of few candidates has fewer depths than others, and empty cells.
    """
    depths = list(dict.fromkeys(k for x in directions.values() for k in x.recall))
    header = [data, "queries", "candidates", *(f"recall@{k} (chance)" for k in depths)]
    body = [
        [name, str(x.num_queries), str(x.num_candidates), *_figures(x, depths)]
        for name, x in directions.items()
    ]
    return markdown_table(header, body)


def _figures(found: Retrieval, depths: Sequence[int]) -> list[str]:
    recall, chance = found.recall, found.chance
    return [
        f"{figure(recall[k])} ({figure(chance[k])})" if k in recall else ""
        for k in depths
    ]


def retrieve_reports(
    encoder: FrozenEncoder, prepared: PreparedSet, folds: Sequence[int]
) -> dict[str, Retrieval]:
    """Reports of ECGs and ECGs of reports, by the name of the direction.

    Empty where the method does not learn from reports, or the folds have none; the
    vocabulary is that of the checkpoint.
    """
    shape, vocabulary = encoder.method.text, encoder.run.vocabulary
    if shape is None or vocabulary is None:
        return {}
    rows = np.flatnonzero(np.isin(prepared.index["fold"], folds))
    reports = [prepared.index["text"][row] for row in rows]
    texts = make_texts(reports, vocabulary, shape, np.arange(len(rows)))
    rows, ids = rows[texts.ids != NO_TEXT], texts.ids[texts.ids != NO_TEXT]
    if not len(rows):
        print(f"retrieval is left out: no report in folds {list(folds)}")
        return {}
    ecg = ecg_embedding(encoder)(encoder.encode(prepared, rows)["pooled"])
    # Each different report once; the first row of the table is that of no text.
    distinct, place = np.unique(ids, return_inverse=True)
    tokens = texts.tokens[distinct + 1].astype(np.int32)
    text = text_embedding(encoder)(tokens)
    return {
        "ECG to report": retrieve(ecg, text[place], ids, ids),
        "report to ECG": retrieve(text[place], ecg, ids, ids),
        "ECG to distinct report": retrieve(ecg, text, ids, distinct),
        "distinct report to ECG": retrieve(text, ecg, distinct, ids),
    }

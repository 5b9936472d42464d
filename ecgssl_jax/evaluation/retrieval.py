"""Finding the report of a record, and the record of a report, by their embeddings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from ecgssl_jax.annotations import make_texts
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.data.text import NO_TEXT, PAD
from ecgssl_jax.evaluation.markdown import figure, markdown_table
from ecgssl_jax.methods.base import TextMethod
from ecgssl_jax.runs import FrozenEncoder
from ecgssl_jax.settings import ConfigError

DEPTHS = (1, 5, 10)
_QUERIES = 1024  # at a time, so that similarities stay small
_EMBEDDED = 256  # records at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """One direction.

    Attributes:
      recall: depth k -> share of the queries with a hit among their k nearest.
      chance: the same of a random order; repeated reports make it large.
      num_queries: n, which are also the candidates.
    """

    recall: dict[int, float]
    chance: dict[int, float]
    num_queries: int


def retrieve(
    queries: np.ndarray,
    candidates: np.ndarray,
    text_ids: np.ndarray,
    depths: Sequence[int] = DEPTHS,
) -> Retrieval:
    """Recall at each depth, by cosine similarity; any equal text is a hit.

    Args:
      queries, candidates: [n, D] float; row i of both is one record.
      text_ids: [n] int, equal for equal texts; records without text are to be left
        out before.

    Raises:
      ValueError: no record.
      ConfigError: an embedding that is not finite.
    """
    if not len(queries):
        raise ValueError("retrieval needs at least one record with a text")
    if not (np.isfinite(queries).all() and np.isfinite(candidates).all()):
        # No similarity to them is larger than another: all would be hits.
        raise ConfigError(
            "retrieval: not all embeddings are finite, found NaN or infinity; the "
            "checkpoint has diverged, or its vocabulary is not the one of the texts"
        )
    queries, candidates = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        for x in (queries.astype(np.float64), candidates.astype(np.float64))
    )
    ranks = np.concatenate(
        [
            _ranks(
                queries[i : i + _QUERIES],
                candidates,
                text_ids[i : i + _QUERIES],
                text_ids,
            )
            for i in range(0, len(queries), _QUERIES)
        ]
    )
    # Of so many candidates every query finds all.
    depths = [k for k in depths if k < len(queries)] or depths[:1]
    _, place, counts = np.unique(text_ids, return_inverse=True, return_counts=True)
    return Retrieval(
        recall={k: float((ranks < k).mean()) for k in depths},
        chance={k: _chance(counts[place], len(queries), k) for k in depths},
        num_queries=len(queries),
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
    """Markdown: recall on the set `data`, and that of a random order in brackets."""
    depths = list(next(iter(directions.values())).recall)
    count = next(iter(directions.values())).num_queries
    header = [f"{data}, {count} records", *(f"recall@{k} (chance)" for k in depths)]
    body = [
        [name, *(f"{figure(x.recall[k])} ({figure(x.chance[k])})" for k in depths)]
        for name, x in directions.items()
    ]
    return markdown_table(header, body)


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
    pooled = encoder.encode(prepared, rows)["pooled"]
    # The first row of the table is that of no text.
    tokens = texts.tokens[ids + 1].astype(np.int32)
    method = cast(TextMethod, encoder.method)
    ecg, text = _embed(method, *encoder.parameters, pooled, tokens)
    return {
        "ECG to report": retrieve(ecg, text, ids),
        "report to ECG": retrieve(text, ecg, ids),
    }


def _embed(
    method: TextMethod, params: Any, extra: Any, pooled: np.ndarray, tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, D'] and texts [n, S] -> their places in the common space, [n, D]."""

    @jax.jit
    def embed(params, extra, pooled, text):
        batch = {"text": text, "text_valid": text != PAD}
        return method.embed_ecg(params, extra, pooled), method.embed_text(params, batch)

    found = []
    for start in range(0, len(pooled), _EMBEDDED):
        part = [x[start : start + _EMBEDDED] for x in (pooled, tokens)]
        padding = _EMBEDDED - len(part[0])
        # One shape, so that one program does.
        part = [np.pad(x, ((0, padding), (0, 0))) for x in part]
        embedded = embed(params, extra, *part)
        found.append([np.asarray(x)[: _EMBEDDED - padding] for x in embedded])
    ecg, text = (np.concatenate(x) for x in zip(*found, strict=True))
    return ecg, text

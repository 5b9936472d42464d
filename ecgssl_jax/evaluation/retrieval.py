"""Finding the report of a record, and the record of a report, by their embeddings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ecgssl_jax.data.text import PAD, Texts
from ecgssl_jax.methods.base import TextMethod

DEPTHS = (1, 5, 10)
_QUERIES = 1024  # at a time, so that similarities stay small


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
    """
    if not len(queries):
        raise ValueError("retrieval needs at least one record with a text")
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


def table(directions: dict[str, Retrieval]) -> str:
    """Markdown: recall at each depth, and that of a random order in brackets."""
    depths = list(next(iter(directions.values())).recall)
    lines = [["retrieval", *(f"recall@{k} (chance)" for k in depths)]]
    lines.append(["---"] * len(lines[0]))
    for name, found in directions.items():
        cells = [f"{found.recall[k]:.3f} ({found.chance[k]:.3f})" for k in depths]
        lines.append([name, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def embed_records(
    method: TextMethod,
    params: Any,
    extra: Any,
    pooled: np.ndarray,
    texts: Texts,
    rows: np.ndarray,
    *,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """-> ECGs and texts of the records `rows` in the common space, [n, D] each.

    Args:
      pooled: [n, D'] features of these records.
      texts: of their set.
    """
    tokens = texts.tokens[texts.ids[rows] + 1].astype(np.int32)

    @jax.jit
    def embed(params, extra, pooled, text):
        batch = {"text": text, "text_valid": text != PAD}
        return method.embed_ecg(params, extra, pooled), method.embed_text(params, batch)

    found = []
    for start in range(0, len(rows), batch_size):
        part = [x[start : start + batch_size] for x in (pooled, tokens)]
        padding = batch_size - len(part[0])
        # One shape, so that one program does.
        part = [np.pad(x, ((0, padding), (0, 0))) for x in part]
        embedded = embed(params, extra, *part)
        found.append([np.asarray(x)[: batch_size - padding] for x in embedded])
    ecg, text = (np.concatenate(x) for x in zip(*found, strict=True))
    return ecg, text

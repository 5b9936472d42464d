"""Texts and labels of records, as a method asks for them, and whether they teach any."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ecgssl_jax import reporting
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.pipeline import Pipeline
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.data.reports import NO_TEXT
from ecgssl_jax.data.text import Texts, Vocabulary, encode_texts
from ecgssl_jax.evaluation.budget import draw, parse_budget
from ecgssl_jax.evaluation.labels import labels_of
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.methods.base import LabelShape, Method, TextShape
from ecgssl_jax.settings import ConfigError


def make_labels(
    sets: Sequence[PreparedSet], shape: LabelShape
) -> tuple[np.ndarray, np.ndarray]:
    """A task's labels of all records of the sets [N, Y], and which are known.

    Raises:
      ConfigError: a set has no such task, another number of labels, or other labels
        than the first.
    """
    tables, masks, first = [], [], None
    for prepared in sets:
        try:
            found = labels_of(prepared, shape.task)
        except ConfigError as error:
            raise ConfigError(f"config.method.task: {error}") from error
        if len(found.classes) != shape.num_labels:
            raise ConfigError(
                f"config.method.num_labels: {shape.num_labels}, but task "
                f"{shape.task!r} of {prepared.name} has {len(found.classes)} labels; "
                f"set it to {len(found.classes)}"
            )
        first = first or found.classes
        if found.classes != first:
            raise ConfigError(
                f"config.method.task: the labels of {sets[0].name} and {prepared.name} "
                f"are not the same: {', '.join(first)} and {', '.join(found.classes)}"
            )
        labels = np.zeros((len(prepared), shape.num_labels), np.int8)
        known = np.zeros(labels.shape, bool)
        labels[found.rows], known[found.rows] = found.labels, found.known
        tables.append(labels)
        masks.append(known)
    return np.concatenate(tables), np.concatenate(masks)


def labelled_part(
    mixture: Mixture,
    labels: tuple[np.ndarray, np.ndarray],
    shape: LabelShape,
    *,
    by_size: bool = True,
) -> Mixture:
    """The records to learn labels from: those that have any, within the budget.

    Args:
      labels: of all records [N, Y], and which are known.
      by_size: whether sets count by the records that remain, and not by their weights.

    Raises:
      ConfigError: an unknown budget, or a set without such a record.
    """
    values, known = labels
    records = mixture.records[known[mixture.records].any(axis=1)]
    try:
        budget = parse_budget(shape.budget)
    except ConfigError as error:
        raise ConfigError(f"config.method.budget: {error}") from error
    chosen = np.zeros(len(known), bool)
    chosen[records] = draw(
        budget,
        mixture.patients[records],
        values[records],
        known[records],
        population=int(mixture.patients.max()) + 1,
        seed=shape.budget_seed,
    )
    rows = []
    for prepared, first, part in zip(
        mixture.sets, mixture.first, mixture.rows, strict=True
    ):
        own = part[chosen[first + part]]
        if not len(own):
            raise ConfigError(
                f"config.data: no label of the {len(part)} records of {prepared.name} to "
                "train on is known, or within config.method.budget; choose other folds "
                "or another set"
            )
        rows.append(own)
    count, all_of_them = sum(map(len, rows)), len(mixture.records)
    if count < all_of_them:
        reporting.say(f"labels: learning from {count} of {all_of_them} records")
    weights = mixture.weights
    if by_size:
        weights = tuple(float(len(own)) for own in rows)
    return dataclasses.replace(mixture, rows=tuple(rows), weights=weights)


def make_texts(
    reports: Sequence[str],
    vocabulary: Vocabulary,
    shape: TextShape,
    records: np.ndarray,
) -> Texts:
    """Reports of N records as tokens, with a line on those of `records`.

    Raises:
      ConfigError: a vocabulary larger than the method's.
    """
    if vocabulary.size > shape.vocabulary_size:
        raise ConfigError(
            f"config.method.vocabulary_size: {shape.vocabulary_size}, but the "
            f"vocabulary of the reports has {vocabulary.size} tokens; set it to at "
            "least that"
        )
    texts = encode_texts(reports, vocabulary, shape.length)
    ids = texts.ids[records]
    told = np.unique(ids[ids != NO_TEXT])
    line = (
        f"texts: {(ids != NO_TEXT).sum()} of {len(ids)} records have one, {len(told)} "
        f"are distinct, {texts.share_cut(records):.1%} are cut to {shape.length} tokens"
    )
    alike = len(told) - len(np.unique(texts.tokens[told + 1], axis=0))
    if alike:
        line += f", by which {alike} became like others"
    reporting.say(line)
    return texts


def check_batches(experiment: Experiment, method: Method, pipeline: Pipeline) -> None:
    """Raises ConfigError where a batch has nothing to tell apart, or to match."""
    mixture, batch_size = pipeline.mixture, experiment.batch_size
    if method.couples_rows:
        name = experiment.method["name"]
        if batch_size < 2:
            raise ConfigError(
                f"config.batch_size: {batch_size}, but {name} tells the records of a "
                "batch apart: take 2 or more"
            )
        parts = zip(mixture.sets, mixture.rows, mixture.shares, strict=True)
        for prepared, rows, share in parts:
            # Epochs follow each other without a gap, but not within a batch.
            if math.ceil(batch_size * share) <= len(rows):
                continue
            part, change = "", f"take {len(rows)} at most"
            if len(mixture.sets) > 1:
                part = f", of which {share:.1%} are"
                change = "lower the batch size or the weight of the set"
            raise ConfigError(
                f"config.batch_size: {batch_size}{part} of the {len(rows)} records of "
                f"{prepared.name}: some would be twice in a batch, and {name} would tell "
                f"them from themselves; {change}"
            )
    _check_leads(method, mixture)
    held = len(mixture.records)
    texts = pipeline.texts
    if texts is not None:
        ids = texts.ids[mixture.records]
        distinct = len(np.unique(ids[ids != NO_TEXT]))
        if distinct < 2:
            raise ConfigError(
                f"config.data: the {held} records to train on have {distinct} different "
                "reports, and two at least are needed to tell them apart; choose other "
                "folds, another set or another method"
            )


def _check_leads(method: Method, mixture: Mixture) -> None:
    """Raises ConfigError where no record has a lead that the method asks for."""
    counts = mixture.column("lead_valid")[mixture.records].sum(axis=0)
    present = [lead for lead, n in zip(mixture.leads, counts, strict=True) if n]
    absent = [lead for lead in method.leads if lead not in present]
    if absent:
        raise ConfigError(
            f"config.method.leads: no record to train on has {', '.join(absent)}; "
            f"choose among {', '.join(present)}"
        )

"""Probes of all tasks, budgets and seeds on one encoder's features, and their scores.

Tasks are probed together: the features are what takes the time, not the labels.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ecgssl_jax.evaluation import metrics, probes
from ecgssl_jax.evaluation.budget import Budget, draw, parse_budget
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.settings import AttentionSettings, Evaluation, Protocol
from ecgssl_jax.evaluation.split import Split
from ecgssl_jax.evaluation.zero_shot import ZeroShot

# 'pooled' [N, D], perhaps 'tokens' [N, L, D] and 'tokens_valid' [N, L]. Questions name
# their records by the rows of these.
Features = Mapping[str, np.ndarray]

METRICS = {
    "auroc": metrics.macro_auroc,
    "average_precision": metrics.macro_average_precision,
    "f1_max": metrics.macro_f1_max,
}
NO_LABELS = "0 %"  # the budget of what no label was read for
# Classes of which an answer keeps what an attention probe looked at.
_LOOKS = 6


class Look(NamedTuple):
    """What an attention probe looked at, in one record.

    Attributes:
      place: of the record, among the reported ones.
      attention: [L] float32, the share of each token; they add up to 1.
    """

    place: int
    attention: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What one probe of one encoder makes of a task.

    Attributes:
      task, protocol, budget: what was asked; `NO_LABELS` where no label was read.
      seed: of the budget and the probe; None where nothing was drawn.
      logits: [n, Y] float32, of the reported records in their order.
      scores: by the names of `METRICS`.
      settings: what was selected: the probe's strength, step or neighbours.
      selection: each candidate -> macro AUROC on the selecting folds.
      records: whose labels the probe was fitted to.
      unfitted: labels without a positive or a negative among these.
      looks: of an attention probe, of the most frequent classes: class -> the positive
        record that it is surest of.

    Of answers that were read back, the last five are empty.
    """

    task: str
    protocol: Protocol
    budget: str
    seed: int | None
    logits: np.ndarray
    scores: Mapping[str, metrics.MacroScore]
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    selection: Mapping[str, float] = dataclasses.field(default_factory=dict)
    records: int = 0
    unfitted: tuple[str, ...] = ()
    looks: Mapping[str, Look] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """What a model predicts itself.

    Attributes:
      columns: task -> the columns of its logits.
      budget, seed: of the labels that it learned from.
      records: whose labels these were.
    """

    columns: Mapping[str, slice]
    budget: Budget
    seed: int | None
    records: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Training:
    """What probes are fitted to: some records, and each task's labels of them.

    Attributes:
      features: of all records.
      rows: [m], of the features.
      groups: of each question, the labels of these rows.
      share: of the records that there are, those that were drawn.
      seed: of the draw and the probes.
    """

    features: Features
    rows: np.ndarray
    groups: Sequence[probes.Group]
    share: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """A probe: rows of the features -> logits [n, Y], and how it came about.

    Of an attention probe, also rows -> attention [n, L].
    """

    logits: Callable[[np.ndarray], np.ndarray]
    settings: Mapping[str, float]
    selection: Mapping[Any, float]
    records: int
    unfitted: tuple[str, ...] = ()
    attention: Callable[[np.ndarray], np.ndarray] | None = None


def answers(
    features: Features,
    questions: Sequence[Question],
    split: Split,
    settings: Evaluation,
    seeds: Sequence[int],
    *,
    own: Own | None = None,
    zero_shot: ZeroShot | None = None,
) -> Iterator[Answer]:
    """All answers of one encoder, in the order protocol, budget, seed, task.

    Protocols that need other features, or change the encoder, are left out. What draws
    nothing, neither labels nor a probe's start, has one answer, whatever the seeds.

    Args:
      own: what the features' 'logits' are; None without any.
      zero_shot: of the features' encoder, for all tasks; None where it has none.

    Raises:
      ValueError: features that are not finite, or labels that cannot be probed.
    """
    for protocol in settings.protocols:
        if protocol == "predictions":
            for asked in questions:
                if own is not None and asked.name in own.columns:
                    yield predicted(
                        features["logits"],
                        asked,
                        split,
                        own.columns[asked.name],
                        budget=own.budget,
                        seed=own.seed,
                        records=own.records,
                    )
            continue
        if protocol == "zero_shot" and zero_shot is not None:
            for asked in questions:
                yield _from_texts(features, asked, split, zero_shot)
        if protocol not in _FITS:
            continue
        fit, needed = _FITS[protocol]
        if needed not in features:
            continue
        for text in settings.budgets:
            budget = parse_budget(text)
            draws = not budget.is_all or protocol == "attention"
            for seed in seeds if draws else (None,):
                training = _training(features, questions, split, budget, seed or 0)
                found = fit(training, settings)
                for asked, fitted, group in zip(
                    questions, found, training.groups, strict=True
                ):
                    fitted = dataclasses.replace(
                        fitted, unfitted=_unfitted(asked, group)
                    )
                    yield _answer(fitted, asked, split, protocol, str(budget), seed)


def _training(
    features: Features,
    questions: Sequence[Question],
    split: Split,
    budget: Budget,
    seed: int,
) -> _Training:
    """A budget is drawn from all folds that a probe is fitted to in the end.

    Whatever it is, all labels of the selecting folds select.
    """
    drawn = [_drawn(asked, split, budget, seed) for asked in questions]
    selecting = [asked.part(split.select) for asked in questions]
    used = [one | other for one, other in zip(drawn, selecting, strict=True)]
    rows = np.unique(
        np.concatenate([q.rows[own] for q, own in zip(questions, used, strict=True)])
    )

    def placed(asked: Question, values: np.ndarray) -> np.ndarray:
        """The question's values for `rows`, zero where it has none."""
        place = np.searchsorted(asked.rows, rows).clip(max=len(asked.rows) - 1)
        there = asked.rows[place] == rows
        return values[place] * there.reshape(-1, *[1] * (values.ndim - 1))

    groups = [
        probes.Group(
            labels=placed(asked, asked.labels),
            known=placed(asked, asked.known & own[:, None]),
            held_out=placed(asked, select),
            final=placed(asked, final),
        )
        for asked, own, select, final in zip(
            questions, used, selecting, drawn, strict=True
        )
    ]
    share = sum(map(_count, drawn)) / sum(
        _count(q.part(split.fitted)) for q in questions
    )
    return _Training(
        features=features, rows=rows, groups=groups, share=share, seed=seed
    )


def _drawn(asked: Question, split: Split, budget: Budget, seed: int) -> np.ndarray:
    """[n] bool: the records whose labels may be fitted."""
    found = asked.part(split.fitted)
    found[found] = draw(
        budget,
        asked.patient[found],
        asked.labels[found],
        asked.known[found],
        population=asked.population,
        seed=seed,
    )
    return found


def _on_pooled(fit: Callable[..., Any], setting: str) -> Callable[..., list[_Fitted]]:
    """A protocol of pooled features: `fit` makes probes that chose their `setting`."""

    def fitted(training: _Training, settings: Evaluation) -> list[_Fitted]:
        pooled = training.features["pooled"]
        found = fit(pooled[training.rows], training.groups)
        return [
            _Fitted(
                logits=lambda rows, probe=probe: probe.logits(pooled[rows]),
                settings={setting: getattr(probe, setting)},
                selection=probe.selection,
                records=_count(group.final),
            )
            for probe, group in zip(found, training.groups, strict=True)
        ]

    return fitted


def _attention(training: _Training, settings: Evaluation) -> list[_Fitted]:
    def part(rows: np.ndarray):
        valid = training.features.get("tokens_valid")
        own = training.features["tokens"][rows]
        return own, None if valid is None else valid[rows]

    tokens, tokens_valid = part(training.rows)
    fitted = [_count(group.final & ~group.held_out) for group in training.groups]
    found = probes.attention_probes(
        tokens,
        training.groups,
        tokens_valid=tokens_valid,
        seed=training.seed,
        **_recipe(settings.attention, training.share),
    )
    return [
        _Fitted(
            logits=lambda rows, probe=probe: probe.logits(*part(rows)),
            settings={"step": probe.step},
            selection=probe.selection,
            records=records,
            attention=lambda rows, probe=probe: probe.attention(*part(rows)),
        )
        for probe, records in zip(found, fitted, strict=True)
    ]


def _recipe(chosen: AttentionSettings, share: float) -> dict[str, Any]:
    """The attention probe's settings for a share of the records.

    As many passes over them, though a tenth of the steps at least, and as many looks.
    """
    settings = dataclasses.asdict(chosen)
    for name in ("steps", "evaluate_every"):
        settings[name] = max(round(settings[name] * max(share, 0.1)), 1)
    return settings


_FITS: Mapping[Protocol, tuple[Callable[..., list[_Fitted]], str]] = {
    "linear": (_on_pooled(probes.linear_probes, "l2"), "pooled"),
    "attention": (_attention, "tokens"),
    "neighbours": (_on_pooled(probes.neighbour_probes, "neighbours"), "pooled"),
}


def predicted(
    logits: np.ndarray,
    asked: Question,
    split: Split,
    columns: slice,
    *,
    protocol: Protocol = "predictions",
    budget: Budget,
    seed: int | None,
    settings: Mapping[str, float] | None = None,
    records: int = 0,
) -> Answer:
    """A model's own answer, for which nothing is fitted.

    Args:
      logits: [N, *], of the records that the question's rows count.
      columns: of them, the question's classes.
    """
    fitted = _Fitted(
        logits=lambda rows: logits[rows, columns],
        settings=settings or {},
        selection={},
        records=records,
    )
    return _answer(fitted, asked, split, protocol, str(budget), seed)


def _from_texts(
    features: Features, asked: Question, split: Split, zero_shot: ZeroShot
) -> Answer:
    """The similarity to texts that say the classes."""
    fitted = _Fitted(
        logits=lambda rows: zero_shot.logits(features["pooled"][rows], asked.name),
        settings={},
        selection={},
        records=0,
    )
    return _answer(fitted, asked, split, "zero_shot", NO_LABELS, None)


def _unfitted(asked: Question, group: probes.Group) -> tuple[str, ...]:
    """Labels without a positive or a negative among the records fitted to in the end."""
    known = group.known & group.final[:, None]
    positive = (known & (group.labels == 1)).any(axis=0)
    negative = (known & (group.labels == 0)).any(axis=0)
    lacking = np.flatnonzero(~(positive & negative))
    return tuple(asked.classes[label] for label in lacking)


def _count(rows: np.ndarray) -> int:
    return int(np.count_nonzero(rows))


def _answer(
    fitted: _Fitted,
    asked: Question,
    split: Split,
    protocol: Protocol,
    budget: str,
    seed: int | None,
) -> Answer:
    reported = asked.only(split.report)
    logits = fitted.logits(reported.rows)
    return Answer(
        task=asked.name,
        protocol=protocol,
        budget=budget,
        seed=seed,
        logits=logits,
        scores=scored(logits, reported),
        settings=fitted.settings,
        selection={f"{key:g}": value for key, value in fitted.selection.items()},
        records=fitted.records,
        unfitted=fitted.unfitted,
        looks=_looks(fitted, logits, reported),
    )


def _looks(fitted: _Fitted, logits: np.ndarray, reported: Question) -> dict[str, Look]:
    if fitted.attention is None:
        return {}
    positive = reported.known & (reported.labels == 1)
    frequent = np.argsort(-positive.sum(axis=0), kind="stable")[:_LOOKS]
    found = {}
    for label in frequent:
        if positive[:, label].any():
            own = np.where(positive[:, label], logits[:, label], -np.inf)
            place = int(np.argmax(own))
            (attention,) = fitted.attention(reported.rows[[place]])
            found[reported.classes[label]] = Look(place, attention)
    return found


def scored(logits: np.ndarray, asked: Question) -> dict[str, metrics.MacroScore]:
    """The scores, by the names of `METRICS`, of logits [n, Y] of all its records."""
    return {
        name: metric(logits, asked.labels, asked.known, names=asked.classes)
        for name, metric in METRICS.items()
    }

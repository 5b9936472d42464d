"""Several evaluations of the same records, side by side."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ecgssl_jax.digest import digest_files
from ecgssl_jax.evaluation import predictions
from ecgssl_jax.evaluation.predictions import Predictions
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.scoring import NO_LABELS, Answer, scored
from ecgssl_jax.evaluation.settings import TUNING, Protocol
from ecgssl_jax.evaluation.standing import Standing
from ecgssl_jax.evaluation.summary import Cell, Key, Row
from ecgssl_jax.settings import ConfigError

# Of results.json.
_NEEDED = {
    "encoder",
    "seed",
    "notes",
    "standing",
    "folds",
    "test_folds_were_read",
    "settings",
}
# Of log-odds, or of the largest of them: no figure that is shown changes by so little.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """What an evaluation left in its folder.

    Attributes:
      folder: of its results.
      document: of results.json.
      predictions: of all encoders that it compared.
    """

    folder: Path
    document: Mapping[str, Any]
    predictions: Predictions

    @property
    def standing(self) -> Standing:
        """How far its figures can be believed."""
        return Standing(**self.document["standing"])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contestant:
    """A row of the comparison.

    Attributes:
      name: as the table has it.
      runs: evaluations that count as its seeds.
    """

    name: str
    runs: Sequence[Evaluated]


def read(folder: Path) -> Evaluated:
    """The evaluation whose results are in the folder.

    Raises:
      ConfigError: there are none, or they are damaged or of another version.
    """
    found = predictions.read(folder)
    path = folder / "results.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    known = {key.encoder for key in found.logits}
    of = document.get("predictions_sha256")
    if of is not None and of != digest_files([folder / predictions.FILE]):
        raise ConfigError(
            f"{path} is not of the predictions beside it, but of another evaluation in "
            "the same folder; evaluate the run again with python -m ecgssl_jax.evaluate"
        )
    if not _NEEDED <= document.keys() or document["encoder"] not in known:
        raise ConfigError(
            f"{path} and the predictions beside it are not of one version; evaluate the "
            "run again with python -m ecgssl_jax.evaluate"
        )
    return Evaluated(folder=folder, document=document, predictions=found)


def check_names(contestants: Sequence[Contestant]) -> None:
    """Raises ConfigError if a contestant is called as one of the encoders compared."""
    encoders = {
        key.encoder
        for contestant in contestants
        for run in contestant.runs
        for key in run.predictions.logits
    }
    for contestant in contestants:
        if contestant.name in encoders:
            raise ConfigError(
                f"a row cannot be called {contestant.name!r}, as a baseline or an encoder "
                "of the evaluations is; name it: NAME=RUN"
            )


def shared_questions(contestants: Sequence[Contestant]) -> list[Question]:
    """The tasks that all evaluations answered, of the same records.

    Raises:
      ConfigError: no such task, or other records or labels.
    """
    first, *others = (run for each in contestants for run in each.runs)
    questions = dict(first.predictions.questions)
    for other in others:
        theirs = other.predictions.questions
        questions = {task: asked for task, asked in questions.items() if task in theirs}
        for task, asked in questions.items():
            _check_same(task, asked, theirs[task], first, other)
    if not questions:
        known = "; ".join(
            f"{run.folder}: {', '.join(run.predictions.questions)}"
            for run in (first, *others)
        )
        raise ConfigError(f"the evaluations have no task in common ({known})")
    return list(questions.values())


def _check_same(
    task: str, asked: Question, theirs: Question, first: Evaluated, other: Evaluated
) -> None:
    """Raises ConfigError unless both are asked of the same records, with equal labels."""
    where = f"{other.folder} and {first.folder}, {task}:"
    sets = " and ".join(
        f"{each.document['data']}, folds {each.document['folds']['report']}"
        for each in (other, first)
    )
    if not np.array_equal(asked.record_id, theirs.record_id):
        raise ConfigError(
            f"{where} other records ({sets}); only figures of the same ones can be "
            "compared. Evaluate both alike"
        )
    for key in ("folds", "test_folds_were_read"):
        values = [each.document[key] for each in (other, first)]
        if values[0] != values[1]:
            raise ConfigError(
                f"{where} other folds ({key}: {values[0]} and {values[1]}); evaluate both "
                "alike"
            )
    same = asked.classes == theirs.classes and all(
        np.array_equal(getattr(asked, name), getattr(theirs, name))
        for name in ("labels", "known", "patient")
    )
    if not same:
        raise ConfigError(
            f"{where} other labels or patients of the same records ({sets}); was the "
            "set prepared again? Evaluate both on the same one"
        )


def rows_of(
    contestants: Sequence[Contestant], questions: Sequence[Question]
) -> list[Row]:
    """The baselines, then the contestants in their order.

    A baseline that is the same for several contestants, as the log spectrum is for all
    of them, is one row.

    Raises:
      ConfigError: runs of one row without a figure of as many seeds in common.
    """
    asked = {each.name: each for each in questions}
    baselines: dict[str, list[tuple[list[str], Row]]] = {}
    trained = []
    for contestant in contestants:
        for row in _rows(contestant, asked):
            if row.encoder == contestant.name:
                trained.append(row)
                continue
            for names, known in baselines.setdefault(row.encoder, []):
                if _is_same(known, row):
                    names.append(contestant.name)
                    break
            else:
                baselines[row.encoder].append(([contestant.name], row))
    found = []
    for encoder, variants in baselines.items():
        for names, row in variants:
            of = f" of {', '.join(names)}" if len(variants) > 1 else ""
            found.append(dataclasses.replace(row, encoder=encoder + of))
    return [*found, *trained]


def _rows(contestant: Contestant, asked: Mapping[str, Question]) -> Iterator[Row]:
    """One for each encoder that all of its evaluations have: the trained one's by its name."""
    by_run = [dict(_answers(run, asked)) for run in contestant.runs]
    _check_distinct(contestant, by_run)
    # As many answers of each run: otherwise they would not weigh the same in the mean.
    counts = [{key: len(found) for key, found in each.items()} for each in by_run]
    first, *others = counts
    shared = [k for k, n in first.items() if all(each.get(k) == n for each in others)]
    if not any(key.encoder == "" for key in shared):
        raise ConfigError(
            f"the evaluations of the row {contestant.name} have no figure in common, by "
            "the same protocol and budget and of as many seeds; evaluate them alike"
        )
    for encoder in dict.fromkeys(key.encoder for key in shared):
        answers: list[tuple[int | None, Answer]] = []
        for key in shared:
            if key.encoder != encoder:
                continue
            of_key: list[tuple[int | None, Answer]] = []
            for answer in (each for found in by_run for each in found[key]):
                # A baseline that the runs share is no seed more.
                known = encoder and any(
                    _are_close(answer[1], other) for _, other in of_key
                )
                if not known:
                    of_key.append(answer)
            answers += of_key
        yield Row(encoder=encoder or contestant.name, answers=answers)


def _check_distinct(
    contestant: Contestant,
    by_run: Sequence[Mapping[Key, Sequence[tuple[int | None, Answer]]]],
) -> None:
    """Raises ConfigError where a run is named twice, or a copy of it."""
    seen: dict[bytes, Path] = {}
    for run, found in zip(contestant.runs, by_run, strict=True):
        own = b"".join(
            np.ascontiguousarray(answer.logits).tobytes()
            for key, answers in found.items()
            if key.encoder == ""
            for _, answer in answers
        )
        same = seen.setdefault(own, run.folder)
        if same != run.folder:
            raise ConfigError(
                f"{same} and {run.folder} hold the same predictions, and count as two "
                f"seeds of the row {contestant.name}: name each run once"
            )


def _answers(
    run: Evaluated, asked: Mapping[str, Question]
) -> Iterator[tuple[Key, list[tuple[int | None, Answer]]]]:
    """The evaluation's cells; the trained encoder has no name there, and its run's seed."""
    trained = run.document["encoder"]
    for key, logits in run.predictions.logits.items():
        if key.task not in asked:
            continue
        own = key.encoder == trained
        answers = [
            (
                run.document["seed"] if own else encoder_seed,
                Answer(
                    task=key.task,
                    protocol=cast(Protocol, key.protocol),
                    budget=key.budget,
                    seed=seed,
                    logits=values,
                    scores=scored(values, asked[key.task]),
                ),
            )
            for (encoder_seed, seed), values in zip(
                logits.seeds, logits.values, strict=True
            )
        ]
        yield key._replace(encoder="" if own else key.encoder), answers


def _is_same(one: Row, other: Row) -> bool:
    return len(one.answers) == len(other.answers) and all(
        _are_close(first, second)
        for (_, first), (_, second) in zip(one.answers, other.answers, strict=True)
    )


def _are_close(one: Answer, other: Answer) -> bool:
    """Whether they differ by rounding at most, as of one encoder in two programs."""
    if one.logits.shape != other.logits.shape:
        return False
    scale = max(1.0, float(np.abs(one.logits).max(initial=0)))
    return np.allclose(one.logits, other.logits, rtol=0, atol=scale * _ROUNDING)


def notes_of(contestants: Sequence[Contestant], cells: Mapping[Key, Cell]) -> list[str]:
    """What the evaluations' readers must know; what is said of all of them once.

    Args:
      cells: of the comparison.
    """
    runs = [(each.name, run) for each in contestants for run in each.runs]
    said: dict[str, list[str]] = {}
    for name, run in runs:
        for note in run.document["notes"]:
            names = said.setdefault(note, [])
            if name not in names:
                names.append(name)
    notes = [
        note if len(names) == len(contestants) else f"{', '.join(names)}: {note}"
        for note, names in said.items()
    ]
    return [
        *notes,
        *_left_out(contestants, cells),
        *_not_shared(contestants, cells),
        *_other_settings([run for _, run in runs], cells),
    ]


def _other_settings(
    runs: Sequence[Evaluated], cells: Mapping[Key, Cell]
) -> Iterator[str]:
    """Settings that the evaluations do not share, and that figures compared depend on."""
    protocols = {key.protocol for key in cells}
    budgets = {key.budget for key in cells} - {"100 %", NO_LABELS}
    parts = {
        # Tasks are fitted together, and move each other's attention probes.
        "attention": {"attention"},
        "tasks": {"attention"},
        "finetuning": {*TUNING},
        "prompts": {"zero_shot"},
        "prompt_languages": {"zero_shot"},
        # Of budgets, whose records; of all labels, only an attention probe's start.
        "seeds": protocols if budgets else {"attention", *TUNING},
    }
    for part, concerned in parts.items():
        if not protocols & concerned:
            continue
        first, *others = (_settings(run, part) for run in runs)
        for run, other in zip(runs[1:], others, strict=True):
            listed = [
                f"{key} {other.get(key)} instead of {first.get(key)}"
                for key in {**first, **other}
                if first.get(key) != other.get(key)
            ]
            if listed:
                yield (
                    f"{run.folder} and {runs[0].folder} have other settings of {part}: "
                    f"{', '.join(listed)}. What differs may be due to that."
                )


def _settings(run: Evaluated, part: str) -> dict[str, Any]:
    """Of one part; a single value by the part's name. Without where things lie."""
    if part == "seeds":
        seeds = run.document["settings"]["seeds"]
        # By default the run's own: of another one there are others.
        return {} if seeds is None else {part: seeds}
    if part == "tasks":
        return {part: sorted(run.predictions.questions)}
    found = run.document["settings"].get(part)
    found = found if isinstance(found, Mapping) else {part: found}
    return {key: value for key, value in found.items() if key != "folder"}


def _not_shared(
    contestants: Sequence[Contestant], cells: Mapping[Key, Cell]
) -> Iterator[str]:
    """Of each row, what others have a figure of and it has none, so without a difference."""
    names = [each.name for each in contestants]
    have = {
        name: {key._replace(encoder="") for key in cells if key.encoder == name}
        for name in names
    }
    every = set().union(*have.values())
    for name in names:
        missing = sorted(every - have[name])
        if missing:
            listed = "; ".join(f"{k.task}, {k.protocol}, {k.budget}" for k in missing)
            yield (
                f"{name} has no figure of {listed}, which other rows have: evaluate all "
                "alike to see differences."
            )


def _left_out(
    contestants: Sequence[Contestant], cells: Mapping[Key, Cell]
) -> list[str]:
    """Of each row, what some of its runs were asked and others were not."""
    found = []
    for contestant in contestants:
        asked = [
            {
                key._replace(encoder=contestant.name)
                for key in run.predictions.logits
                if key.encoder == run.document["encoder"]
            }
            for run in contestant.runs
        ]
        missing = sorted(set().union(*asked) - set(cells))
        if missing:
            listed = "; ".join(f"{k.task}, {k.protocol}, {k.budget}" for k in missing)
            found.append(
                f"{contestant.name}: left out, since not all evaluations have them, of as "
                f"many seeds: {listed}."
            )
    return found

"""Evaluations for tests, as `evaluate` leaves them in their folders."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax.evaluation import predictions
from ecgssl_jax.evaluation.questions import Question, question
from ecgssl_jax.evaluation.scoring import Answer, scored
from ecgssl_jax.evaluation.settings import Evaluation
from ecgssl_jax.evaluation.split import validation_split
from ecgssl_jax.evaluation.standing import Standing
from ecgssl_jax.evaluation.summary import Row, summarise
from tests.evaluation.labelled import labelled_set

TRAINED = "pre-trained, step 3"
STANDING = Standing("neutral", "Validation folds", "They selected nothing.")


def reported(folds=(4,)) -> Question:
    """The question that is asked of these folds."""
    prepared, _ = labelled_set()
    return question(prepared, "labels", validation_split((1, 2), folds)).only(folds)


def logits(noise: float, seed: int = 0, asked: Question | None = None) -> np.ndarray:
    """[n, 2] float32: the labels, and noise."""
    labels = (asked or reported()).labels
    noisy = labels + noise * np.random.default_rng(seed).normal(size=labels.shape)
    return noisy.astype(np.float32)


def answer(values: np.ndarray, asked: Question, *, budget: str = "100 %") -> Answer:
    """A linear probe's."""
    return Answer(
        task=asked.name,
        protocol="linear",
        budget=budget,
        seed=None,
        logits=values,
        scores=scored(values, asked),
    )


def leave(
    folder: Path,
    given: dict[str, np.ndarray],
    *,
    seed: int = 0,
    asked: Question | None = None,
    notes: tuple[str, ...] = ("Read me.",),
    budget: str = "100 %",
    **more: Any,
) -> Path:
    """Writes an evaluation with these logits of encoders; returns its folder.

    Args:
      folder: the workdir.
      given: encoder -> logits [n, 2]; the one called `TRAINED` is the run's own.
      seed: of the run.
      asked: whose records these are.
      budget: of the probes.
      more: of results.json.
    """
    asked = asked or reported()
    rows = [
        Row(
            encoder=name,
            answers=[
                (
                    None if name == TRAINED else seed,
                    answer(values, asked, budget=budget),
                )
            ],
        )
        for name, values in given.items()
    ]
    cells = summarise(rows, [asked], pairs=[], draws=100, level=0.95)
    folder = folder / "evaluation"
    folder.mkdir(parents=True)
    predictions.write(folder, [asked], cells)
    document = {
        "encoder": TRAINED,
        "seed": seed,
        "data": "mine",
        "folds": {"report": sorted(set(asked.fold.tolist()))},
        "test_folds_were_read": False,
        "notes": list(notes),
        "standing": dataclasses.asdict(STANDING),
        "settings": dataclasses.asdict(Evaluation()),
        **more,
    }
    (folder / "results.json").write_text(json.dumps(document))
    return folder

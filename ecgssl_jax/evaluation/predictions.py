"""What every probe said of every reported record, kept beside the figures.

So that runs can be compared record by record, and curves drawn, without the encoders.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.summary import Cell, Key
from ecgssl_jax.output_folder import whole_file
from ecgssl_jax.settings import ConfigError

FILE = "predictions.npz"
_VERSION = 1
_BY_RECORD = ("rows", "record_id", "labels", "known", "fold", "patient")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Logits:
    """Of one cell of the tables.

    Attributes:
      seeds: of the encoder and of the probe; None where nothing was drawn.
      values: [K, n, Y] float32, for each of these seeds.
    """

    seeds: Sequence[tuple[int | None, int | None]]
    values: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Of one evaluation.

    Attributes:
      questions: task -> its reported records and their labels.
      logits: of each cell, in the order of its question's records.
    """

    questions: Mapping[str, Question]
    logits: Mapping[Key, Logits]


def write(
    folder: Path, questions: Sequence[Question], cells: Mapping[Key, Cell]
) -> Path:
    """Writes predictions.npz, whole or not at all; returns its path.

    Args:
      questions: of the reported records alone.
    """
    arrays: dict[str, np.ndarray] = {}
    for asked in questions:
        for name in _BY_RECORD:
            arrays[f"{asked.name}/{name}"] = np.asarray(getattr(asked, name))
    described: dict[str, Any] = {
        "version": _VERSION,
        "questions": [
            {
                "name": asked.name,
                "classes": list(asked.classes),
                "population": asked.population,
            }
            for asked in questions
        ],
        "cells": [],
    }
    for number, (key, cell) in enumerate(cells.items()):
        arrays[f"logits/{number}"] = np.stack([each.logits for each in cell.answers])
        described["cells"].append({**key._asdict(), "seeds": list(cell.seeds)})
    path = folder / FILE
    arrays["description"] = np.array(json.dumps(described))
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def read(folder: Path) -> Predictions:
    """The predictions in the folder of an evaluation's results.

    Raises:
      ConfigError: there are none, or the file is damaged or of another version.
    """
    path = folder / FILE
    again = "evaluate the run again with python -m ecgssl_jax.evaluate"
    try:
        with np.load(path) as file:
            described = json.loads(str(file["description"]))
            if described["version"] != _VERSION:
                raise ConfigError(f"{path} is of another version; {again}")
            return Predictions(
                questions={
                    each["name"]: _question(file, each)
                    for each in described["questions"]
                },
                logits={
                    Key(*(each[field] for field in Key._fields)): Logits(
                        seeds=[(one, two) for one, two in each["seeds"]],
                        values=file[f"logits/{number}"],
                    )
                    for number, each in enumerate(described["cells"])
                },
            )
    except FileNotFoundError as error:
        workdir = folder.parent
        others = sorted(each.parent.name for each in workdir.glob(f"*/{FILE}"))
        if not workdir.is_dir():
            again = "name the workdirs of runs that were evaluated"
        elif others:
            again = f"there is --evaluation={others[0]}, or {again}"
        raise ConfigError(f"there is no {path}; {again}") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is damaged ({error}); {again}") from error


def _question(file: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> Question:
    task = described["name"]
    return Question(
        name=task,
        classes=tuple(described["classes"]),
        population=described["population"],
        **{name: file[f"{task}/{name}"] for name in _BY_RECORD},
    )

"""Contenders asked one after the other, as rows of the tables."""

from collections.abc import Sequence

import numpy as np

from ecgssl_jax.evaluation.contenders import Contender
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.scoring import Answer, answers
from ecgssl_jax.evaluation.settings import Evaluation
from ecgssl_jax.evaluation.split import Split
from ecgssl_jax.evaluation.summary import Row
from ecgssl_jax.settings import ConfigError


def probed_rows(
    contenders: Sequence[Contender],
    questions: Sequence[Question],
    split: Split,
    settings: Evaluation,
    seeds: Sequence[int],
    *,
    names: np.ndarray,
) -> list[Row]:
    """All answers of the contenders, on frozen features; each is printed.

    Args:
      questions: with their rows by the places of the contenders' features.
      seeds: of probes and budgets, where an encoder has no seeds of its own.
      names: [n] of the features' records.

    Returns:
      In their order; the last row with its features.

    Raises:
      ConfigError: features that are not finite, or labels that cannot be probed.
    """
    found = []
    *_, last = contenders
    for contender in contenders:
        row, pooled = [], None
        for seed in contender.seeds or (None,):
            features = contender.features(seed)
            _check_finite(features["pooled"], names)
            try:
                for each in answers(
                    features,
                    questions,
                    split,
                    settings,
                    seeds if seed is None else (seed,),
                    own=contender.own,
                    zero_shot=contender.zero_shot,
                ):
                    say(each)
                    row.append((seed, each))
            except ValueError as error:
                raise ConfigError(f"{contender.name}: {error}") from error
            if contender is last:
                pooled = features["pooled"]
        found.append(Row(encoder=contender.name, answers=row, pooled=pooled))
    return found


def _check_finite(pooled: np.ndarray, names: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(pooled).all(axis=1))
    if len(wrong):
        raise ConfigError(
            f"the features of {len(wrong)} of {len(pooled)} records are not finite, the "
            f"first those of {names[wrong[0]]}; the checkpoint has diverged, or these "
            "records are not what it was trained on"
        )


def say(answer: Answer) -> None:
    """Prints its figure, so that one sees how far an evaluation is."""
    where = f"{answer.task}, {answer.protocol}, {answer.budget}"
    if answer.seed is not None:
        where += f", seed {answer.seed}"
    print(f"  {where}: {answer.scores['auroc'].value:.4f}", flush=True)

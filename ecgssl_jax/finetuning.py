"""Fine-tuning as a protocol of evaluation: a run of supervised training for each answer.

One model learns all tasks of the set at once, on the folds that probes are fitted to;
of its steps the one counts whose own predictions are best on the selecting folds. The
runs lie in a folder; what is there, of the same code, is not trained again, and what was
interrupted goes on. What a model said of the reported records is kept beside it.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ecgssl_jax import digest, reporting, runs
from ecgssl_jax.assembly import make_task
from ecgssl_jax.checkpoint_reading import saved_meta
from ecgssl_jax.code_digest import digest_code
from ecgssl_jax.config_completion import complete
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.budget import Budget, parse_budget
from ecgssl_jax.evaluation.kept_logits import KeptLogits
from ecgssl_jax.evaluation.labels import EVERY, columns_of
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.rows import say
from ecgssl_jax.evaluation.scoring import Answer, predicted
from ecgssl_jax.evaluation.settings import (
    SUPERVISED,
    TUNING,
    Evaluation,
    FineTuning,
    Protocol,
)
from ecgssl_jax.evaluation.split import Split
from ecgssl_jax.evaluation.summary import Row
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.train import TrainingDiverged, train
from ecgssl_jax.workdir_lock import WorkdirError, only_run

# Of this package, what a training depends on.
_CODE = (
    *("assembly.py", "config_completion.py", "data", "evaluation/online.py"),
    *("evaluation/probes", "finetuning.py", "methods", "models", "optim.py"),
    *("signals", "start.py", "state.py", "step.py", "train.py"),
)
# Shares of the steps that few labels take at least.
_LEAST, _LEAST_FROM_SCRATCH = 0.1, 0.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuner:
    """Trains models on the labels of a set, from an encoder or from nothing.

    Attributes:
      encoder: that they begin with, or whose model and signals they have.
      prepared: the labelled set.
      split: its folds.
      settings: how to train.
      folder: of the runs.
    """

    encoder: runs.FrozenEncoder
    prepared: PreparedSet
    split: Split
    settings: FineTuning
    folder: Path

    def answers(
        self,
        questions: Sequence[Question],
        budget: Budget,
        seed: int,
        protocols: Sequence[Protocol],
        *,
        scratch: bool,
    ) -> Iterator[Answer]:
        """Of the set's tasks, in the order protocol, question.

        From scratch there is nothing to probe first: all protocols have one answer.
        """
        reported = np.unique(
            np.concatenate([each.only(self.split.report).rows for each in questions])
        )
        columns = columns_of(self.prepared, EVERY)
        said = None
        for protocol in protocols:
            if said is None or not scratch:
                said = self.said(
                    reported,
                    budget,
                    seed,
                    probe_first=protocol == "two_stage",
                    scratch=scratch,
                )
            for each in questions:
                yield predicted(
                    said.logits,
                    each.only(self.split.report).within(reported),
                    self.split,
                    columns[each.name],
                    protocol=protocol,
                    budget=budget,
                    seed=seed,
                    settings={"step": said.step},
                    records=said.records,
                )

    def said(
        self,
        rows: np.ndarray,
        budget: Budget,
        seed: int,
        *,
        probe_first: bool = False,
        scratch: bool = False,
    ) -> KeptLogits:
        """Of these records of the set, by the model of `trained`.

        Kept in the model's folder: what is there needs no model.
        """
        config = self.config(budget, seed, probe_first=probe_first, scratch=scratch)
        workdir = self._workdir(config)
        found = KeptLogits.read(workdir, rows)
        if found is None:
            model = self.trained(budget, seed, probe_first=probe_first, scratch=scratch)
            # Of all reported records, for evaluations of other tasks.
            fold = self.prepared.index["fold"]
            reported = np.flatnonzero(np.isin(fold, self.split.report))
            every = np.union1d(reported, rows)
            kept = KeptLogits(
                rows=every,
                logits=model.encode(self.prepared, every)["logits"],
                step=model.run.step,
                records=model.run.records,
            )
            kept.write(workdir)
            found = kept.only(rows)
        return found

    def trained(
        self,
        budget: Budget,
        seed: int,
        *,
        probe_first: bool = False,
        scratch: bool = False,
    ) -> runs.FrozenEncoder:
        """The model that learns from these labels.

        Args:
          budget, seed: of the labels, a share; also the seed of the training.
          probe_first: whether the classifier begins as a linear probe.
          scratch: whether the encoder begins random instead.

        Raises:
          ConfigError, CheckpointError, OSError: as training does.
        """
        config = self.config(budget, seed, probe_first=probe_first, scratch=scratch)
        workdir = self._workdir(config)
        before = saved_meta(str(workdir / "checkpoints"))
        if before.get("step") != config["steps"]:
            kind = "from scratch" if scratch else "from the encoder"
            reporting.say(f"training on {budget} of the labels, {kind}: {workdir}")
            config = complete(config, before)
            experiment = parse(config)
            task = make_task(experiment, before)
            with only_run(workdir):
                train(experiment, task, workdir, meta={"config": config})
        return runs.load_encoder(workdir)

    def config(
        self, budget: Budget, seed: int, *, probe_first: bool, scratch: bool
    ) -> dict[str, Any]:
        """As configs/supervised.py would return it."""
        run, settings = self.encoder.run, self.settings
        data = run.experiment.data
        steps, rate = settings.steps, settings.learning_rate
        if scratch:
            steps, rate = settings.scratch_steps, settings.scratch_learning_rate
        if budget.share is None:
            raise ConfigError(
                "a model learns all tasks at once, whose classes differ: it takes shares "
                "of the patients, such as '10 %'"
            )
        # As many passes over fewer labels, though no fewer steps than it takes to learn.
        least = _LEAST_FROM_SCRATCH if scratch else _LEAST
        steps = max(round(steps * max(budget.share, least)), 1)
        every = max(round(steps / settings.looks), 1)
        place = self.prepared.directory.parent
        probe = {
            "kind": "probe",
            "every": every,
            "data": place.name,
            # The model's own predictions select, and nothing is probed.
            "train_folds": (),
            "valid_folds": self.split.select,
            "task": EVERY,
        }
        start = {}
        if not scratch:
            start = {
                "encoder": str(run.checkpoint.resolve()),
                "probe": probe_first,
            }
        return {
            "seed": seed,
            "steps": steps,
            "batch_size": settings.batch_size,
            "dtype": run.experiment.dtype,
            "start": start,
            "data": {
                "root": str(place.parent),
                "name": place.name,
                "folds": self.split.fit,
                "rate": self.prepared.rate,
                "crop": data.crop,
                "clip": data.clip,
                "cache": data.cache,
            },
            "model": dict(run.experiment.model),
            "method": {
                "name": "supervised",
                "task": EVERY,
                "num_labels": None,
                "budget": str(budget),
                "budget_seed": seed,
            },
            "optim": {
                "learning_rate": rate,
                "layer_decay": 1.0 if scratch else settings.layer_decay,
                "warmup": 0.1,
            },
            "evaluators": {"probe": probe},
            "checkpoint": {"every": every, "best": "probe/predictions_auroc"},
            "log_every": max(every // 5, 1),
        }

    def _workdir(self, config: Mapping[str, Any]) -> Path:
        """Told by all that the training depends on, wherever that lies."""
        start, data = dict(config["start"]), dict(config["data"])
        if "encoder" in start:
            kept = self.encoder.method.kept(*self.encoder.parameters)
            leaves = map(np.asarray, jax.tree.leaves(kept))
            start["encoder"] = [digest.digest_numpy(leaf) for leaf in leaves]
        data["root"] = self.prepared.metadata["content_hash"]
        described = {**config, "start": start, "data": data, "code": digest_code(_CODE)}
        text = json.dumps(described, sort_keys=True, default=list)
        number = hashlib.sha256(text.encode()).hexdigest()[:12]
        method = config["method"]
        budget = method["budget"].replace(" ", "")
        return self.folder / f"{self.prepared.name}-{budget}-{config['seed']}-{number}"


def with_tuned_rows(
    rows: Sequence[Row],
    tuner: FineTuner,
    questions: Sequence[Question],
    settings: Evaluation,
    seeds: Sequence[int],
) -> tuple[list[Row], list[str]]:
    """The rows, the last one with the trained encoder's answers of these protocols.

    Before it, if it is asked for, a row of models from scratch, whose answers, where no
    protocol trains, are their predictions. A model that cannot be trained costs its own
    figures alone.

    Returns:
      The rows, and a note on each model that could not be trained.

    Raises:
      ConfigError, TrainingDiverged, WorkdirError: no model could be trained, and there
        is no probe.
    """
    protocols: list[Protocol] = [each for each in TUNING if each in settings.protocols]
    failures: list[tuple[str, Exception]] = []

    def tuned(whose: str, *, scratch: bool) -> list[tuple[None, Answer]]:
        found = []
        together: list[list[Protocol]] = [[each] for each in protocols]
        if scratch:
            together = [protocols or ["predictions"]]
        for text, seed, some in itertools.product(settings.budgets, seeds, together):
            try:
                answers = list(
                    tuner.answers(
                        questions, parse_budget(text), seed, some, scratch=scratch
                    )
                )
            except (ConfigError, TrainingDiverged, WorkdirError) as error:
                which = f"{whose}, {' and '.join(some)}, {text}, seed {seed}"
                reporting.say(f"no figures of {which}: {error}")
                failures.append((which, error))
                continue
            for each in answers:
                say(each)
                found.append((None, each))
        return found

    *baselines, own = rows
    scratch = []
    if SUPERVISED in settings.baselines:
        scratch = tuned(SUPERVISED, scratch=True)
    own_answers = tuned(own.encoder, scratch=False)
    if failures and not scratch and not own_answers and not own.answers:
        raise failures[0][1]
    if scratch:
        baselines.append(Row(encoder=SUPERVISED, answers=scratch))
    own = dataclasses.replace(own, answers=[*own.answers, *own_answers])
    notes = [f"{which}: no figures, {error}." for which, error in failures]
    return [*baselines, own], notes

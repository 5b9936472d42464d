"""What an evaluation does: `configs/evaluate.py`, and flags --config.KEY=VALUE."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ecgssl_jax.evaluation.budget import parse_budget
from ecgssl_jax.evaluation.intervals import check_settings
from ecgssl_jax.number_list import numbers
from ecgssl_jax.settings import ConfigError, build

Protocol = Literal[
    "linear",
    "attention",
    "neighbours",
    "finetuned",
    "two_stage",
    "predictions",
    "zero_shot",
]
# Those of them that change the encoder.
TUNING: tuple[Protocol, ...] = ("finetuned", "two_stage")
SUPERVISED = "supervised model"
Baseline = Literal["log spectrum", "random encoder", "supervised model"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """Of the attention probe; `evaluation.probes.attention_probe` says more.

    Attributes:
      steps: of training, with all labels; fewer labels take fewer, though no less than
        a tenth.
      batch_size, learning_rate, weight_decay, num_heads: as there.
      evaluate_every: steps between looks at the selecting folds; of fewer steps, as
        many looks.
    """

    steps: int = 5000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    num_heads: int = 1
    evaluate_every: int = 250

    def __post_init__(self):
        for name in ("steps", "batch_size", "num_heads", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, found {getattr(self, name)}"
                )
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                "learning_rate must be above 0 and weight_decay 0 or above, found "
                f"{self.learning_rate:g} and {self.weight_decay:g}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Of the protocols that train the encoder too; `ecgssl_jax.finetuning`.

    Attributes:
      steps: of training, with all labels; fewer labels take fewer, though no less than
        a tenth.
      learning_rate: (first, peak, last), as `config.optim`'s.
      layer_decay: factor of the rate for each layer between a parameter and the head.
      scratch_steps, scratch_learning_rate: of the baseline 'supervised model', which begins
        random; its layers all have the same rate. Fewer labels take no less than four
        tenths of the steps: with a tenth of PTB-XL's, a tenth of the steps ends at an
        AUROC of .67, four tenths are beyond .80.
      batch_size: of both.
      looks: at the selecting folds, whose best one counts.
      folder: of the runs; None for the workdir's `finetuned`. Evaluations that share it
        share the runs from scratch.
    """

    steps: int = 1000
    learning_rate: tuple[float, float, float] = (1e-6, 3e-4, 1e-6)
    layer_decay: float = 0.75
    scratch_steps: int = 2500
    scratch_learning_rate: tuple[float, float, float] = (1e-5, 1e-3, 1e-5)
    batch_size: int = 128
    looks: int = 10
    folder: str | None = None

    def __post_init__(self):
        for name in ("steps", "scratch_steps", "batch_size", "looks"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, found {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A comparison of encoders by the labels of a prepared set.

    Attributes:
      data: name of the set; None for that of the run's online probe.
      root: folder of the prepared sets; None for the run's.
      tasks: 'labels', or PTB-XL's; 'every' for all that the set has, none for the main
        ones: superclasses and all statements of PTB-XL, the labels of other sets. They
        are fitted together, and move each other's attention probes a little.
      train_folds, valid_folds: None for those of the run's probe if that is on the same
        set, else 1-8 and 9.
      test_folds: read with --test alone.
      protocols: probes to fit; 'finetuned' and 'two_stage' train the encoder too, the
        latter after a probe; 'predictions' are those of a model trained on labels
        itself, 'zero_shot' is the similarity to prompts of a model trained on reports:
        each of these two is always among them where the model can.
      budgets: what labels to fit them to: '1 %' of the patients, '10 per class'.
      seeds: of random encoders, budgets and attention probes; None for the run's.
      baselines: rows beside the encoder's; a 'supervised model', trained from scratch
        for each budget and seed, stands under the protocols that train, or, where none
        does, under 'predictions'.
      prompts: JSON file of texts that say what a label means, label -> texts or
        language -> label -> texts; None for the package's own, of PTB-XL's statements.
      prompt_languages: to take of that file; none for all, as one ensemble.
      attention, finetuning: settings of these protocols.
      draws: of patients, for the intervals.
      level: nominal coverage of the intervals.
      cache: whether features are kept, in the workdir's `features`.
      report: whether report.html is written, with its figures.
    """

    data: str | None = None
    root: str | None = None
    tasks: tuple[str, ...] = ()
    train_folds: tuple[int, ...] | None = None
    valid_folds: tuple[int, ...] | None = None
    test_folds: tuple[int, ...] = (10,)
    protocols: tuple[Protocol, ...] = ("linear",)
    budgets: tuple[str, ...] = ("100 %",)
    seeds: tuple[int, ...] | None = None
    baselines: tuple[Baseline, ...] = ("log spectrum", "random encoder")
    prompts: str | None = None
    prompt_languages: tuple[str, ...] = ()
    attention: AttentionSettings = AttentionSettings()
    finetuning: FineTuning = FineTuning()
    draws: int = 1000
    level: float = 0.95
    cache: bool = True
    report: bool = True

    def __post_init__(self):
        for name in ("protocols", "budgets"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: there is nothing to do")
        budgets = [parse_budget(text) for text in self.budgets]
        named = {
            "protocols": self.protocols,
            "budgets": [str(each) for each in budgets],
            "seeds": self.seeds or (),
            "baselines": self.baselines,
        }
        for name, values in named.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names something twice: {list(values)}")
        if any(not 0 <= seed < 2**32 for seed in self.seeds or ()):
            raise ValueError(f"seeds must be from 0 to 2^32 - 1, found {self.seeds}")
        tuned = sorted(set(TUNING) & set(self.protocols))
        if tuned and any(budget.share is None for budget in budgets):
            raise ValueError(
                f"{' and '.join(tuned)} learn all tasks at once, whose classes differ: "
                "give budgets as shares of the patients, such as '10 %'"
            )
        check_settings(self.draws, self.level)

    def also(self, protocol: Protocol) -> "Evaluation":
        """With this protocol too, if it is not among them."""
        protocols = tuple(dict.fromkeys((*self.protocols, protocol)))
        return dataclasses.replace(self, protocols=protocols)


def parse(config: Mapping[str, Any]) -> Evaluation:
    """The checked settings. A text stands for a tuple: 'all,form', '1-8'.

    Raises:
      ConfigError: with the key and a near match.
    """
    values = dict(config)
    for field in dataclasses.fields(Evaluation):
        value, kind = values.get(field.name), str(field.type)
        if "tuple[int" in kind and isinstance(value, str | int):
            values[field.name] = _numbers(field.name, value)
        elif field.name == "budgets" and isinstance(value, int | float):
            raise ConfigError(
                f"config.budgets: {value}; of what? Of the patients, '{value} %', or "
                f"'{value} per class'"
            )
        elif "tuple" in kind and isinstance(value, str):
            parts = filter(None, map(str.strip, value.split(",")))
            values[field.name] = tuple(parts)
    return build(Evaluation, values, "config")


def _numbers(name: str, value: str | int) -> tuple[int, ...]:
    try:
        return numbers(str(value))
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"config.{name}: {error}") from error

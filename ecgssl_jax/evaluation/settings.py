"""What an evaluation does: `configs/evaluate.py`, and flags --config.KEY=VALUE."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ecgssl_jax.evaluation.budget import parse_budget
from ecgssl_jax.number_list import numbers
from ecgssl_jax.settings import ConfigError, build

Protocol = Literal["linear", "attention", "neighbours", "predictions", "zero_shot"]
Baseline = Literal["log spectrum", "random encoder"]


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A comparison of encoders by the labels of a prepared set.

    Attributes:
      data: name of the set; None for that of the run's online probe.
      root: folder of the prepared sets; None for the run's.
      tasks: 'labels', or PTB-XL's; 'every' for all that the set has, none for the main
        ones: superclasses and all statements of PTB-XL, the labels of other sets.
      train_folds, valid_folds: None for those of the run's probe if that is on the same
        set, else 1-8 and 9.
      test_folds: read with --test alone.
      protocols: probes to fit; 'predictions' are those of a model trained on labels
        itself, 'zero_shot' is the similarity to prompts of a model trained on reports:
        each is always among them where the model can.
      budgets: what labels to fit them to: '1 %' of the patients, '10 per class'.
      seeds: of random encoders, budgets and attention probes; None for the run's.
      baselines: rows beside the encoder's.
      prompts: JSON file of texts that say what a label means, label -> texts or
        language -> label -> texts; None for the package's own, of PTB-XL's statements.
      prompt_languages: to take of that file; none for all, as one ensemble.
      attention: settings of that probe.
      draws: of patients, for the intervals.
      level: nominal coverage of the intervals.
      cache: whether features are kept, in the workdir's `features`.
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
    draws: int = 1000
    level: float = 0.95
    cache: bool = True

    def __post_init__(self):
        for name in ("protocols", "budgets"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: there is nothing to do")
        for text in self.budgets:
            parse_budget(text)
        if self.draws < 100 or not 0.5 <= self.level < 1:
            raise ValueError(
                f"draws={self.draws} and level={self.level:g}: expected 100 draws at "
                "least, and a level of 0.5 or more, below 1"
            )

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
        elif "tuple" in kind and isinstance(value, str):
            parts = filter(None, map(str.strip, value.split(",")))
            values[field.name] = tuple(parts)
    return build(Evaluation, values, "config")


def _numbers(name: str, value: str | int) -> tuple[int, ...]:
    try:
        return numbers(str(value))
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"config.{name}: {error}") from error

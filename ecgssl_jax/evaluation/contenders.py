"""What is compared: the rows of the table, and how each of them is scored."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation import comparison
from ecgssl_jax.evaluation.report import Row
from ecgssl_jax.evaluation.spectrum import log_spectrum
from ecgssl_jax.runs import FrozenEncoder
from ecgssl_jax.settings import ConfigError

# Rows of the set -> their features, as `FrozenEncoder.encode` gives them.
Encode = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A row of the table.

    Attributes:
      name: as the table has it.
      seeds: of its encoders; empty where there is no randomness.
      encodes: one for each seed, or the one.
    """

    name: str
    seeds: tuple[int, ...]
    encodes: tuple[Encode, ...]


def make_contenders(
    encoder: FrozenEncoder,
    prepared: PreparedSet,
    *,
    seeds: Sequence[int],
    spectrum: bool,
) -> list[Contender]:
    """The log spectrum, if wanted, random encoders of these seeds, the trained one."""

    def random(seed: int) -> Encode:
        # Made when it is needed: only one at a time is in memory.
        return lambda rows: encoder.random(seed).encode(prepared, rows)

    run = encoder.run
    trained = "pre-trained" if encoder.method.labels is None else "trained on labels"
    found = [
        Contender(
            name="random encoder",
            seeds=tuple(seeds),
            encodes=tuple(map(random, seeds)),
        ),
        Contender(
            name=f"{trained}, step {run.step}",
            seeds=(run.experiment.seed,),
            encodes=(lambda rows: encoder.encode(prepared, rows),),
        ),
    ]
    if not spectrum:
        return found

    def encode(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"pooled": log_spectrum(prepared, rows)}

    return [Contender(name="log spectrum", seeds=(), encodes=(encode,)), *found]


def score(
    contender: Contender,
    questions: Sequence[comparison.Question],
    folds: comparison.Folds,
    *,
    protocol: comparison.Protocol,
    seed: int,
) -> Row:
    """Answers all questions from one pass over the records for each encoder.

    Args:
      seed: of the attention probe.

    Raises:
      ConfigError: features or labels that cannot be scored.
    """
    scores: dict[str, list[comparison.Score]] = {each.name: [] for each in questions}
    rows = comparison.rows_of(questions)
    for encode in contender.encodes:
        began = time.perf_counter()
        found = encode(rows)
        seconds = time.perf_counter() - began
        print(f"{contender.name}: {len(rows)} records encoded in {seconds:.1f} s")
        features = found["tokens" if protocol == "attention" else "pooled"]
        tokens_valid = found.get("tokens_valid")
        for asked in questions:
            chosen = np.searchsorted(rows, asked.rows)
            began = time.perf_counter()
            try:
                answer = comparison.answer(
                    asked,
                    features[chosen],
                    folds,
                    protocol=protocol,
                    tokens_valid=None if tokens_valid is None else tokens_valid[chosen],
                    seed=seed,
                )
            except ValueError as error:
                raise ConfigError(
                    f"task {asked.name!r}, {contender.name}: {error}"
                ) from error
            seconds = time.perf_counter() - began
            line = f"  {asked.name} {answer.macro.value:.4f} in {seconds:.1f} s"
            print(line, flush=True)
            scores[asked.name].append(answer)
    return Row(encoder=contender.name, seeds=contender.seeds, scores=scores)

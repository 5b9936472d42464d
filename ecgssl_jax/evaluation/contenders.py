"""What is compared: the trained encoder, and what it must beat."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.budget import parse_budget
from ecgssl_jax.evaluation.feature_cache import encode_cached
from ecgssl_jax.evaluation.labels import columns_of, labels_of
from ecgssl_jax.evaluation.scoring import Features, Own
from ecgssl_jax.evaluation.settings import Baseline
from ecgssl_jax.evaluation.spectrum import log_spectrum
from ecgssl_jax.evaluation.zero_shot import ZeroShot
from ecgssl_jax.runs import FrozenEncoder
from ecgssl_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A row of the table.

    Attributes:
      name: as the table has it.
      seeds: of its encoders; empty where it has but one.
      own: what it predicts itself of the set; None where that is nothing.
      zero_shot: what it makes of texts; None where it was not trained on any.
      features: of the records that are asked for, by one of these seeds.
    """

    name: str
    seeds: tuple[int, ...]
    own: Own | None = None
    zero_shot: ZeroShot | None = None
    features: Callable[[int | None], Features]


def make_contenders(
    encoder: FrozenEncoder,
    prepared: PreparedSet,
    rows: np.ndarray,
    *,
    baselines: Sequence[Baseline],
    seeds: Sequence[int],
    cache: Path | None,
    zero_shot: ZeroShot | None = None,
) -> list[Contender]:
    """The baselines, the random encoders with these seeds, and the trained encoder last.

    Args:
      rows: [n] of the set, the records to encode.
      cache: folder in which features are kept; None to keep none.
      zero_shot: of the trained encoder.
    """

    def encode(one: FrozenEncoder, name: str) -> Features:
        began = time.perf_counter()
        if cache is None:
            found = one.encode(prepared, rows)
        else:
            found = encode_cached(one, prepared, rows, cache)
        seconds = time.perf_counter() - began
        print(f"{name}: {len(rows)} records encoded in {seconds:.1f} s", flush=True)
        return found

    def spectrum(seed: int | None) -> Features:
        return {"pooled": log_spectrum(prepared, rows)}

    def random(seed: int | None) -> Features:
        # Made when it is needed: only one at a time is in memory.
        return encode(encoder.random(seed or 0), f"random encoder, seed {seed}")

    known = {
        "log spectrum": Contender(name="log spectrum", seeds=(), features=spectrum),
        "random encoder": Contender(
            name="random encoder", seeds=tuple(seeds), features=random
        ),
    }
    name = trained_name(encoder)
    trained = Contender(
        name=name,
        seeds=(),
        own=own_predictions(encoder, prepared),
        zero_shot=zero_shot,
        features=lambda seed: encode(encoder, name),
    )
    # A baseline that trains has no features to probe.
    return [*(known[each] for each in baselines if each in known), trained]


def own_predictions(encoder: FrozenEncoder, prepared: PreparedSet) -> Own | None:
    """Of a model that was trained on labels which this set has too, in their order.

    None for others, with a line where it learned from other labels.
    """
    asked, run = encoder.method.labels, encoder.run
    if asked is None:
        return None
    try:
        classes = labels_of(prepared, asked.task).classes
    except ConfigError:
        classes = ()
    if classes != run.labels:
        print(
            f"predictions are left out: the model was trained on {len(run.labels)} "
            f"labels that are not those of {prepared.name}",
            flush=True,
        )
        return None
    budget = parse_budget(asked.budget)
    return Own(
        columns=columns_of(prepared, asked.task),
        budget=budget,
        seed=None if budget.is_all else asked.budget_seed,
        records=run.records,
    )


def trained_name(encoder: FrozenEncoder) -> str:
    """'pre-trained, step 4000'."""
    kind = "pre-trained" if encoder.method.labels is None else "trained on labels"
    return f"{kind}, step {encoder.run.step}"

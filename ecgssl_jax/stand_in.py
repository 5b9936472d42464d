"""A task on made-up batches, for planning and timing what needs no recordings."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ecgssl_jax.assembly import make_masks
from ecgssl_jax.build_method import make_method
from ecgssl_jax.experiment import Experiment, parse
from ecgssl_jax.leads import LEADS
from ecgssl_jax.methods.base import Method
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.signals import Statistics, prepare_views
from ecgssl_jax.signals.views import build_views, check_views
from ecgssl_jax.step import check_shapes
from ecgssl_jax.task import Batch, Task

# Where a config leaves it open.
_RATE = 100.0
_LEADS = len(LEADS)
_SCALE = 1e-3  # mV
# Records of a patient, and of a text, that a batch holds on average.
_REPEATS = 4


def parse_without_data(config: Mapping[str, Any]) -> Experiment:
    """As `experiment.parse`.

    Raises:
      ConfigError: so it does, and for labels whose number only the data tell.
    """
    method = config.get("method") or {}
    if "num_labels" in method and method["num_labels"] is None:
        raise ConfigError(
            "config.method.num_labels: how many labels there are only the data tell; "
            "give their number, such as --config.method.num_labels=71"
        )
    return parse(config)


def stand_in_task(experiment: Experiment) -> Task:
    """The experiment's method on noise of the shapes that its data would have.

    Records are as long as `data.crop` at least, of 12 leads; signals are sent from the
    host, whatever `data.cache`. There are no evaluators.

    Raises:
      ConfigError: a config that cannot be run.
    """
    method = make_method(experiment)
    views = build_views(experiment.views)
    rate = experiment.data.rate or _RATE
    check_views(views, samples=experiment.data.crop, leads=_LEADS, rate=rate)
    one = np.ones((len(experiment.data.components), _LEADS), np.float32)
    task = Task(
        method=method,
        statistics=Statistics(scale=_SCALE * one, mean=0 * one, std=0.3 * one),
        example={
            name: np.broadcast_to(rows[:1], (experiment.batch_size, *rows.shape[1:]))
            for name, rows in _rows(experiment, method, 1).items()
        },
        batches=functools.partial(_batches, experiment, method),
        make_views=functools.partial(
            prepare_views, views, rate=rate, clip=experiment.data.clip
        )
        if views
        else None,
    )
    check_shapes(experiment, task)
    return task


def _batches(
    experiment: Experiment, method: Method, start: int, stop: int, rows: np.ndarray
) -> Iterator[Batch]:
    """The same batch for every step, made once."""
    batch = _rows(experiment, method, len(rows))
    for _ in range(start, stop):
        yield batch


def _rows(experiment: Experiment, method: Method, count: int) -> dict[str, Any]:
    """`count` rows of a batch."""
    rng = np.random.default_rng(0)
    crop = experiment.data.crop
    noise = rng.normal(0, 0.3 / _SCALE, (count, crop, _LEADS))
    identity = np.arange(count, dtype=np.int32)
    batch = {
        "ecg": noise.astype(np.int16),
        "source": np.zeros(count, np.int32),
        "lead_valid": np.ones((count, _LEADS), bool),
        "record": identity,
        "patient": identity // _REPEATS,
    }
    masks, num_patches = make_masks(experiment)
    if masks is not None:
        shape = (count, masks.num_uniforms(num_patches))
        uniforms = rng.random(shape, dtype=np.float32)
        batch |= masks.sample(uniforms, num_patches, np)
    if method.labels is not None:
        shape = (count, method.labels.num_labels)
        batch["labels"] = rng.integers(0, 2, shape).astype(np.int8)
        batch["labels_valid"] = np.ones(shape, bool)
    if method.text is not None:
        words = rng.integers(
            1, method.text.vocabulary_size, (count, method.text.length)
        )
        ids = identity // _REPEATS
        batch["text"] = words.astype(np.int32)[ids]
        batch["text_valid"] = np.ones(words.shape, bool)
        batch["text_ids"] = ids
    return batch

"""What a config may leave open, because the data or the encoder to begin with say it."""

from collections.abc import Mapping
from typing import Any

from ecgssl_jax import runs
from ecgssl_jax.assembly import open_set
from ecgssl_jax.evaluation.labels import labels_of
from ecgssl_jax.experiment import Data
from ecgssl_jax.settings import ConfigError, build

# Of config.data, what an encoder cannot do without.
_OF_ENCODER = ("rate", "crop", "clip")


def complete(
    config: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The config with what it leaves open filled in.

    `method.num_labels`, where it is None, is the number of labels of `method.task` in
    the data. With `start.encoder`, what a `model` without a name does not say, and of
    `data` the rate, crop and clip that are not there, are those of that run.

    Args:
      before: of a run that is continued, its checkpoint's `meta`: the run that it began
        with need not be there any more.

    Raises:
      ConfigError, OSError: no such run, set or task.
    """
    config = {**config}
    start = config.get("start") or {}
    if start.get("encoder") is not None:
        model, known = _of_encoder(start, (before or {}).get("config") or {})
        own = config.get("model") or {}
        config["model"] = own if "name" in own else {**model, **own}
        config["data"] = {**known, **(config.get("data") or {})}
    method = config.get("method") or {}
    if "num_labels" in method and method["num_labels"] is None:
        count = _num_labels(config.get("data") or {}, method.get("task", "labels"))
        config["method"] = {**method, "num_labels": count}
    return config


def _of_encoder(
    start: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> config.model, and what of config.data comes with it."""
    if (before.get("start") or {}).get("encoder") == start["encoder"]:
        model, data = before["model"], before["data"]
        return dict(model), {name: data[name] for name in _OF_ENCODER if name in data}
    run = runs.saved_run(start["encoder"], start.get("checkpoint", "best"))
    known = {name: getattr(run.experiment.data, name) for name in _OF_ENCODER}
    return dict(run.experiment.model), known


def _num_labels(values: Mapping[str, Any], task: str) -> int:
    data = build(Data, values, "config.data")
    prepared = open_set(data, data.components[0].name)
    try:
        return len(labels_of(prepared, task).classes)
    except ConfigError as error:
        raise ConfigError(f"config.method.task: {error}") from error

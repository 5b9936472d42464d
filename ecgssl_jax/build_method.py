"""The method that a config names, ours or one of somebody's own."""

import importlib
import inspect
import pkgutil
from typing import Any

from ecgssl_jax import methods, settings
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.methods.base import Method
from ecgssl_jax.models.encoders import compute_dtype, make_encoder
from ecgssl_jax.settings import ConfigError, near

_CONTRACT = [name for name in dir(Method) if not name.startswith("_")]


def make_method(experiment: Experiment) -> Method:
    """The method that `config.method.name` names, on the config's encoder.

    Raises:
      ConfigError: no such method, or settings that it does not have.
    """
    values = dict(experiment.method)
    name = values.pop("name", None)
    module = _method_module(name)
    method_settings = settings.build(module.Settings, values, "config.method")
    encoder = make_encoder(experiment.model, dtype=compute_dtype(experiment.dtype))
    build = {"steps": experiment.steps, "masks": experiment.masks}
    try:
        inspect.signature(module.build).bind(method_settings, encoder, **build)
    except TypeError as error:
        raise ConfigError(
            f"config.method.name: build of {name} is called as build(settings, encoder, "
            f"steps=..., masks=...): {error}"
        ) from error
    try:
        method = module.build(method_settings, encoder, **build)
    except ValueError as error:
        raise ConfigError(f"config.method: {error}") from error
    missing = [each for each in _CONTRACT if not hasattr(method, each)]
    if missing:
        raise ConfigError(
            f"config.method.name: {name} makes a method without {', '.join(missing)}; "
            "ecgssl_jax/methods/base.py has the contract"
        )
    if len(experiment.views) not in method.num_views:
        raise ConfigError(
            f"config.views: {name} takes {' or '.join(map(str, method.num_views))} "
            f"views of a record, found {len(experiment.views)}; "
            + (
                "leave config.views out"
                if method.num_views == (0,)
                else "list the transforms of each"
            )
        )
    divided = hasattr(method, "embed") and hasattr(method, "compare")
    if method.couples_rows and experiment.optim.accumulate > 1 and not divided:
        raise ConfigError(
            f"config.optim.accumulate: {name} compares all rows of a batch, which can be "
            "split into micro-batches only by a method with embed and compare "
            "(ecgssl_jax/methods/base.py); leave it at 1 and save memory with "
            "config.model.remat='full', or by more devices"
        )
    return method


def _method_module(name: Any) -> Any:
    """The module of a method of ours, or one of somebody's own: 'package.module'."""
    known = [
        module.name
        for module in pkgutil.iter_modules(methods.__path__)
        if module.name not in ("all_pairs", "base", "ema", "embeddings")
    ]
    if name in known:
        return importlib.import_module(f"ecgssl_jax.methods.{name}")
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(
            f"config.method.name: unknown method {name!r}{near(str(name), known)}; one "
            "of your own is named as a module, such as 'my_package.my_method'"
        )
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # The module is there, and lacks something itself.
        raise ConfigError(
            f"config.method.name: {name} cannot be imported ({error}); is its folder "
            "in PYTHONPATH?"
        ) from error
    missing = [part for part in ("Settings", "build") if not hasattr(module, part)]
    if missing:
        raise ConfigError(
            f"config.method.name: {name} has no {' and no '.join(missing)}; "
            "ecgssl_jax/methods/base.py says what a method's module holds"
        )
    return module

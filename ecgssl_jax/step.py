"""The jitted step of a run: its mesh and shardings, its first state and its update."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ecgssl_jax import sharding
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.methods.base import CouplingMethod, Method
from ecgssl_jax.optim import make_optimiser, schedules
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.signals import prepare
from ecgssl_jax.state import TrainState, abstract_state, make_init
from ecgssl_jax.task import Batch, Task

STOP = "stop_requested"  # the metric that says whether any entry of `stop` is set

Update = Callable[..., tuple[TrainState, dict[str, jax.Array]]]

_GOLDEN = (5**0.5 - 1) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """A task on the devices, before there is a state.

    Attributes:
      mesh: of all devices.
      abstract: shapes, dtypes and shardings of the state.
      batch: and of a global batch.
      rows: [b] of the global batch, those that this process provides, ascending.
      first: () -> the state of step 0, laid out as `abstract` says.
      update: as `make_update` has it.
      put: rows of a batch, by name -> the global batch on the devices.
    """

    mesh: jax.sharding.Mesh
    abstract: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    rows: np.ndarray
    first: Callable[[], TrainState]
    update: Update
    put: Callable[[Batch], dict[str, jax.Array]]


def set_up(
    experiment: Experiment, task: Task, devices: Sequence[Any] | None = None
) -> Setup:
    """Shapes, then shardings, then what makes arrays of them; computes nothing yet.

    Args:
      devices: of the mesh; None for all there are.

    Raises:
      ConfigError: a batch or rules that do not fit the mesh.
    """
    mesh = sharding.make_mesh(experiment.mesh, devices)
    batch_size, accumulate = experiment.batch_size, experiment.optim.accumulate
    sharding.check_batch(batch_size, mesh.shape, accumulate=accumulate)
    batch_sharding = sharding.batch_sharding(mesh)
    rows = sharding.process_rows(batch_sharding, batch_size)
    optimiser = make_optimiser(experiment.optim, experiment.steps)
    init = make_init(task.method, optimiser, task.statistics, clip=experiment.data.clip)
    example = jax.eval_shape(dict, task.example)
    rules = experiment.rules or sharding.DEFAULT_RULES
    abstract = abstract_state(init, example, mesh, rules)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)

    def make_first(rng):
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in example.items()}
        return init(rng, zeros)

    # With the step's own shardings, or the second step would compile again.
    jitted = jax.jit(make_first, out_shardings=shardings)
    return Setup(
        mesh=mesh,
        abstract=abstract,
        batch={
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding)
            for name, x in example.items()
        },
        rows=rows,
        first=lambda: jitted(jax.random.key(experiment.seed)),
        update=make_update(experiment, task, mesh, shardings),
        put=lambda batch: sharding.to_devices(batch, batch_sharding, batch_size, rows),
    )


def make_update(
    experiment: Experiment, task: Task, mesh: jax.sharding.Mesh, shardings: Any
) -> Update:
    """The jitted step: (state, batch, resident, stop=None) -> state, metrics.

    It donates the state. With `stop` [devices] bool, the metrics say whether any of
    its entries is set.
    """
    method, settings = task.method, experiment.optim
    optimiser = make_optimiser(settings, experiment.steps)
    learning_rate, weight_decay = schedules(settings, experiment.steps)

    def update(state: TrainState, batch: Batch, resident: Any, stop=None):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return on_mesh(state, batch, resident, stop)

    def on_mesh(state: TrainState, batch: Batch, resident: Any, stop):
        rng = jax.random.fold_in(jax.random.key(experiment.seed), state.step)
        if task.materialise is not None:
            batch = task.materialise(batch, resident)
        batch, rng = _shown(experiment, task, batch, state.statistics, rng)
        loss, extra, metrics, gradient = _accumulate(
            method, state, batch, rng, settings.accumulate
        )
        gradient_norm = optax.tree.norm(gradient)
        updates, optimiser_state = optimiser.update(
            gradient, state.optimiser, state.params
        )
        params = optax.apply_updates(state.params, updates)
        extra = method.after_update(params, extra, state.step + 1)
        healthy = state.healthy & jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            extra=extra,
            optimiser=optimiser_state,
        )
        new = jax.tree.map(functools.partial(jnp.where, healthy), new, state)
        metrics = {
            **metrics,
            "loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate(state.step),
            "weight_decay": weight_decay(state.step),
            "healthy": healthy,
        }
        if stop is not None:
            metrics[STOP] = stop.any()
        return dataclasses.replace(new, healthy=healthy), metrics

    everywhere = sharding.replicated(mesh)
    return jax.jit(update, donate_argnums=0, out_shardings=(shardings, everywhere))


def _shown(experiment, task, batch, statistics, rng):
    """-> the batch as the method sees it, and the key that is left for the method."""
    batch = dict(batch)
    if task.make_views is not None:
        views_rng, rng = jax.random.split(rng)
        batch["views"] = task.make_views(views_rng, batch, statistics)
    batch["ecg"] = prepare(batch, statistics, clip=experiment.data.clip)
    return batch, rng


def check_shapes(experiment: Experiment, task: Task) -> None:
    """Follows the shapes of a batch through the method; computes nothing.

    Raises:
      ConfigError: views, crop and encoder that do not fit each other, or a method
        that does not return what `methods.base` says.
    """
    name = experiment.method.get("name")

    def expect(holds: bool, function: str, expected: str) -> None:
        if not holds:
            raise ConfigError(
                f"config.method.name: {function} of {name} must return {expected}; "
                "ecgssl_jax/methods/base.py has the contract"
            )

    def is_pair(value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == 2

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

    def follow(rng, batch):
        batch, rng = _shown(experiment, task, batch, task.statistics, rng)
        made = task.method.init(rng, batch)
        expect(is_pair(made), "init", "params and extra")
        params, extra = made
        result = task.method.loss(params, extra, batch, rng)
        expect(is_pair(result) and is_pair(result[1]), "loss", "loss, (extra, metrics)")
        loss, (changed, metrics) = result
        values = {"the loss": loss, **metrics}
        for key, value in values.items():
            expect(jnp.shape(value) == (), "loss", f"scalars; {key} is none")
        updated = task.method.after_update(params, changed, jnp.zeros((), jnp.int32))
        for function, tree in (("loss", changed), ("after_update", updated)):
            same = shapes(tree) == shapes(extra)
            expect(
                same, function, "an extra of the structure, shapes and dtypes of init's"
            )
        features = task.method.features(params, extra, batch)
        rows = {key: jnp.shape(x)[:1] for key, x in dict(features).items()}
        for key in ("pooled", "tokens"):
            expect(rows.get(key) == (len(batch["ecg"]),), "features", f"{key} [B, ...]")
        return loss

    jax.eval_shape(follow, jax.random.key(0), task.example)


def micro_batches(batch: Any, parts: int) -> Any:
    """[B, ...] -> [parts, B / parts, ...]; every device keeps its own rows.

    Each part takes one of every `parts` rows, which one follows multiples of the golden
    ratio: no pattern in which the sets of a mixture take turns keeps step with that, so
    each part holds them as the batch does.
    """

    def split(x):
        groups = x.reshape(len(x) // parts, parts, *x.shape[1:])
        number = np.arange(len(groups))
        first = (number * _GOLDEN % 1 * parts).astype(int)
        turns = (first[:, None] + np.arange(parts)) % parts
        turns = turns.reshape(*turns.shape, *[1] * (x.ndim - 1))
        return jnp.take_along_axis(groups, turns, axis=1).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def _join(x: jax.Array) -> jax.Array:
    """[parts, B / parts, ...] -> [B, ...]; every device keeps its own rows."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _split(x: jax.Array, parts: int) -> jax.Array:
    """What `_join` joined."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


def _accumulate(method: Method, state: TrainState, batch: Any, rng: Any, parts: int):
    """-> loss, extra, metrics, gradient, of micro-batches one after the other."""
    if parts == 1:
        (loss, (extra, metrics)), gradient = jax.value_and_grad(
            method.loss, has_aux=True
        )(state.params, state.extra, batch, rng)
        return loss, extra, metrics, gradient
    numbered = micro_batches(batch, parts), jnp.arange(parts)
    if method.couples_rows:
        return _cached(cast(CouplingMethod, method), state, numbered, rng, parts)
    return _mean(method, state, numbered, rng, parts)


def _mean(method: Method, state: TrainState, numbered: Any, rng: Any, parts: int):
    """The means over the micro-batches."""

    def one(carry, inputs):
        extra, total = carry
        part, number = inputs
        (loss, (extra, metrics)), gradient = jax.value_and_grad(
            method.loss, has_aux=True
        )(state.params, extra, part, jax.random.fold_in(rng, number))
        total = jax.tree.map(lambda t, g: t + g / parts, total, gradient)
        return (extra, total), (loss, metrics)

    zero = jax.tree.map(jnp.zeros_like, state.params)
    (extra, gradient), (losses, metrics) = jax.lax.scan(
        one, (state.extra, zero), numbered
    )
    return losses.mean(), extra, jax.tree.map(jnp.mean, metrics), gradient


def _cached(
    method: CouplingMethod, state: TrainState, numbered: Any, rng: Any, parts: int
):
    """Of all rows compared with each other, by cached gradients (arXiv 2101.06983).

    Micro-batches are embedded, all are compared, and each is embedded once more for the
    gradient of its part. So only one at a time is differentiated.
    """

    def embed(params, extra, inputs):
        part, number = inputs
        return method.embed(params, extra, part, jax.random.fold_in(rng, number))

    def forward(extra, inputs):
        embedded, extra = embed(state.params, extra, inputs)
        return extra, embedded

    extra, embedded = jax.lax.scan(forward, state.extra, numbered)
    joined, batch = jax.tree.map(_join, (embedded, numbered[0]))
    (loss, metrics), (gradient, cached) = jax.value_and_grad(
        method.compare, argnums=(0, 1), has_aux=True
    )(state.params, joined, batch)

    def backward(total, inputs):
        part, cotangent = inputs
        _, pull = jax.vjp(
            lambda params: embed(params, state.extra, part)[0], state.params
        )
        (found,) = pull(cotangent)
        return jax.tree.map(jnp.add, total, found), None

    cached = jax.tree.map(lambda x: _split(x, parts), cached)
    gradient, _ = jax.lax.scan(backward, gradient, (numbered, cached))
    return loss, extra, metrics, gradient

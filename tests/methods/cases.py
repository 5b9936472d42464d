"""Every method on a small encoder: its config, its batches, and its jitted step."""

import contextlib
import functools

import jax
import numpy as np

from ecgssl_jax import assembly, sharding
from ecgssl_jax.data import masks
from ecgssl_jax.experiment import parse
from ecgssl_jax.optim import make_optimiser
from ecgssl_jax.signals import Statistics, prepare_views
from ecgssl_jax.signals.views import build_views
from ecgssl_jax.state import abstract_state, make_init
from ecgssl_jax.step import make_update
from ecgssl_jax.task import Task

B, SAMPLES, LEADS, PATCH, WORDS, S = 16, 160, 12, 20, 30, 6
VIT = dict(name="vit", width=16, depth=1, num_heads=2, patch_size=PATCH)
RESNET = dict(name="resnet", blocks=(1, 1), bottleneck=False, features=8)
VIEW = (
    ("random_resized_crop", 1.0, dict(scale=(0.5, 1.0))),
    ("gaussian_noise", 0.5, dict(deviation=(0.0, 0.1))),
)
TWO_VIEWS = dict(views=(VIEW, VIEW))
HEAD = dict(hidden=(8,), out=4)
TEXT = dict(width=8, depth=1, num_heads=2)
MECLIP = dict(
    name="meclip",
    projector=HEAD,
    text=TEXT,
    text_length=S,
    vocabulary_size=WORDS,
)
BLOCKS = dict(kind="blocks", keep=(0.3, 0.5), min_block=1)
JEPA = dict(name="jepa", predictor_width=8, predictor_depth=1, predictor_num_heads=2)
CASES = {
    "jepa": dict(method=JEPA, model=VIT, masks=BLOCKS),
    "simclr": dict(
        method=dict(name="simclr", projector=HEAD), model=RESNET, **TWO_VIEWS
    ),
    "simclr-vit": dict(
        method=dict(name="simclr", projector=HEAD), model=VIT, **TWO_VIEWS
    ),
    "byol": dict(
        method=dict(name="byol", projector=HEAD, predictor=HEAD),
        model=RESNET,
        **TWO_VIEWS,
    ),
    "meclip": dict(method=MECLIP | dict(learn_temperature=True), model=RESNET),
    "meclip-vit": dict(
        method=MECLIP | dict(mode="multi_positive"), model=VIT, views=(VIEW,)
    ),
    "supervised": dict(method=dict(name="supervised", num_labels=3), model=RESNET),
    "clocs": dict(method=dict(name="clocs", mode="cmsc", projector=HEAD), model=RESNET),
    "clocs-vit": dict(
        method=dict(name="clocs", mode="cmsmlc", projector=HEAD), model=VIT
    ),
}


def experiment_of(case, **changes):
    settings = dict(
        steps=10,
        batch_size=B,
        dtype="float32",
        optim=dict(learning_rate=(2e-3, 2e-3, 2e-3)),
        checkpoint=dict(every=4),
        log_every=1,
    )
    return parse(settings | CASES[case] | changes)


def batch_of(step, experiment):
    """One of 16 records of 10 patients, with texts of which some repeat or are none."""
    rng = np.random.default_rng(step)
    ids = rng.integers(-1, 6, B).astype(np.int32)
    table = np.random.default_rng(5).integers(3, WORDS, (7, S)).astype(np.int32)
    lengths = np.arange(7) % (S - 1) + 2
    batch = {
        "ecg": rng.integers(-500, 500, (B, SAMPLES, LEADS)).astype(np.int16),
        "source": np.zeros(B, np.int32),
        "lead_valid": rng.random((B, LEADS)) < 0.9,
        "patient": rng.integers(0, 10, B).astype(np.int32),
        "labels": rng.integers(0, 2, (B, 3)).astype(np.int8),
        "labels_valid": rng.random((B, 3)) < 0.7,
        "text": table[ids],
        "text_ids": ids,
        "text_valid": (np.arange(S) < lengths[ids, None]) & (ids >= 0)[:, None],
    }
    if experiment.masks is None:
        return batch
    mask = masks.build(num_patches=SAMPLES // PATCH, **experiment.masks)
    uniforms = rng.random((B, mask.num_uniforms(SAMPLES // PATCH)), dtype=np.float32)
    return batch | mask.sample(uniforms, SAMPLES // PATCH, np)


def task_of(experiment, batches=None):
    tables = np.full((1, LEADS), 1e-3, np.float32)
    views = build_views(experiment.views)
    make_views = functools.partial(prepare_views, views, rate=100.0, clip=5.0)

    def source(start, stop, rows):
        for step in range(start, stop):
            batch = batch_of(step, experiment)
            yield {name: array[rows] for name, array in batch.items()}

    return Task(
        method=assembly.make_method(experiment),
        statistics=Statistics(scale=tables, mean=0 * tables, std=0.3 + tables),
        example=batch_of(0, experiment),
        batches=batches or source,
        make_views=make_views if views else None,
    )


@contextlib.contextmanager
def compiled_once(folder):
    """Most of the time is compiling: what is alike is compiled once."""
    former = {
        name: getattr(jax.config, name)
        for name in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
        )
    }
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    yield
    for name, value in former.items():
        jax.config.update(name, value)


class Run:
    """A method's jitted step on a mesh of so many devices, and its first state.

    They are all on the data axis, unless the experiment's mesh says otherwise.
    """

    def __init__(self, experiment, devices):
        self.experiment = experiment
        self.task = task_of(experiment)
        self.mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:devices])
        optimiser = make_optimiser(experiment.optim, experiment.steps)
        init = make_init(self.task.method, optimiser, self.task.statistics, clip=5.0)
        example = batch_of(0, experiment)
        rules = sharding.DEFAULT_RULES
        abstract = abstract_state(init, example, self.mesh, rules)
        self.shardings = jax.tree.map(lambda x: x.sharding, abstract)
        first = jax.jit(init, out_shardings=self.shardings)
        self._first = jax.tree.map(np.asarray, first(jax.random.key(0), example))
        self.update = make_update(experiment, self.task, self.mesh, self.shardings)

        def loss_and_gradient(params, extra, batch):
            (loss, (extra, metrics)), gradient = jax.value_and_grad(
                self.task.method.loss, has_aux=True
            )(params, extra, batch, jax.random.key(3))
            return loss, extra, metrics, gradient

        self.loss_and_gradient = jax.jit(
            loss_and_gradient, out_shardings=sharding.replicated(self.mesh)
        )

    def first(self):
        """The first state, in buffers that may be donated."""
        return jax.device_put(self._first, self.shardings)

    def put(self, batch):
        return sharding.to_devices(batch, sharding.batch_sharding(self.mesh), B, 0)

    def steps(self, batches):
        """-> the losses of these batches, and the state after them."""
        state, losses = self.first(), []
        for batch in batches:
            state, metrics = self.update(state, self.put(batch), None)
            losses.append(float(metrics["loss"]))
        return np.array(losses), state

"""Every method trains alike on every mesh, whatever is computed again.

`make test-all` takes all combinations; without it, each method and each mesh is in one.
"""

import functools
import itertools

import jax
import numpy as np
import pytest

from tests.methods.cases import CASES, Run, batch_of, compiled_once, experiment_of

STEPS = 10
MESHES = ((8, 1, 1), (1, 8, 1), (2, 4, 1), (2, 2, 2))
REMAT = ("none", "full")
GRID = list(itertools.product(CASES, MESHES, REMAT))
COVERING = [
    (case, MESHES[number % 4], REMAT[number // 2 % 2])
    for number, case in enumerate(CASES)
]


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    with compiled_once(tmp_path_factory.mktemp("compiled")):
        yield


def run_of(case, axes, remat, **changes):
    mesh = dict(zip(("data", "fsdp", "tensor"), axes, strict=True))
    model = CASES[case]["model"] | dict(remat=remat) | changes
    method = dict(CASES[case]["method"])
    if "text" in method:
        method["text"] = method["text"] | dict(remat=remat)
    # A small one, because every step amplifies what rounding makes different.
    optim = dict(learning_rate=(5e-4,) * 3)
    experiment = experiment_of(case, mesh=mesh, model=model, method=method, optim=optim)
    return Run(experiment, int(np.prod(axes)))


@functools.cache
def losses(case, axes, remat, **changes):
    run = run_of(case, axes, remat, **changes)
    return run.steps(batch_of(step, run.experiment) for step in range(STEPS))[0]


@pytest.mark.parametrize(
    ("case", "axes", "remat"),
    [
        pytest.param(*each, marks=[] if each in COVERING else pytest.mark.slow)
        for each in GRID
    ],
)
def test_losses_are_those_of_one_device(case, axes, remat):
    expected = losses(case, (1, 1, 1), "none")
    assert len(np.unique(expected)) == STEPS
    np.testing.assert_allclose(losses(case, axes, remat), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "axes", [(8, 1, 1), pytest.param((1, 8, 1), marks=pytest.mark.slow), (2, 2, 2)]
)
def test_scanned_layers_have_the_losses_of_one_device(axes):
    changes = dict(scan=True, depth=2)
    expected = losses("jepa", (1, 1, 1), "none", **changes)
    found = losses("jepa", axes, "products", **changes)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_covering_part_has_each_method_and_each_mesh():
    cases, axes, remat = map(set, zip(*COVERING, strict=True))
    assert (cases, axes, remat) == (set(CASES), set(MESHES), set(REMAT))
    assert jax.device_count() == 8

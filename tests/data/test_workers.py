import os

import pytest

from ecgssl_jax.data.publishing import PrepareError
from ecgssl_jax.data.workers import run_tasks


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    arguments = [(2, k) for k in range(20)]
    assert list(run_tasks(pow, arguments, workers=workers)) == [2**k for k in range(20)]


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_made_as_results_are_taken(workers):
    made = []

    def arguments():
        for k in range(100):
            made.append(k)
            yield (2, k)

    results = run_tasks(pow, arguments(), workers=workers)
    assert [next(results), next(results)] == [1, 2]
    assert len(made) <= 4 * workers + 1
    assert len(list(results)) == 98


def test_a_worker_that_dies_is_a_failure_that_says_so():
    with pytest.raises(PrepareError, match="killed.*memory; use fewer workers"):
        list(run_tasks(os._exit, [(1,), (1,)], workers=2))

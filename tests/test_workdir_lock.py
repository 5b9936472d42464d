import pytest

from ecgssl_jax.workdir_lock import WorkdirError, only_run


def test_a_workdir_is_for_one_run_at_a_time(tmp_path):
    workdir = tmp_path / "runs" / "one"
    twice = pytest.raises(WorkdirError, match="another run is in it")
    with only_run(workdir), twice, only_run(workdir):
        pass
    with only_run(workdir):
        pass


def test_a_workdir_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(WorkdirError, match="cannot write there")
    with refused, only_run(tmp_path / "file" / "run"):
        pass

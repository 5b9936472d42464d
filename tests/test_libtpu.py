"""Settings for machines without a TPU, and none for those with one."""

import os

import pytest

from ecgssl_jax import libtpu


@pytest.fixture(autouse=True)
def without(monkeypatch):
    for name in libtpu._SETTINGS:
        # Twice, so that it is as before afterwards.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_without_a_chip_it_asks_nobody(tmp_path):
    libtpu.keep_quiet(tmp_path)
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"


@pytest.mark.parametrize("chip", ["accel0", "vfio/2"])
def test_with_a_chip_it_is_left_alone(chip, tmp_path):
    (tmp_path / chip).parent.mkdir(exist_ok=True)
    (tmp_path / chip).touch()
    (tmp_path / "null").touch()
    libtpu.keep_quiet(tmp_path)
    assert "TPU_SKIP_MDS_QUERY" not in os.environ


def test_what_somebody_set_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    libtpu.keep_quiet(tmp_path)
    assert os.environ["TPU_WORKER_HOSTNAMES"] == "a,b"

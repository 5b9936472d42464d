"""What launchers tell the processes that they start."""

import os

import pytest

from ecgssl_jax import launched


def test_devices_that_were_asked_for_and_are_not_there_are_named(monkeypatch):
    launched.check_platform("cpu")
    monkeypatch.setenv(launched.PLATFORM, "gpu")
    launched.check_platform("gpu")
    with pytest.raises(
        launched.DevicesError, match="asked for GPUs, but .* only a CPU"
    ):
        launched.check_platform("cpu")


def test_a_process_that_another_one_started_does_not_wait_for_its_end(monkeypatch):
    monkeypatch.setenv(launched.LAUNCHER, str(os.getppid() + 1))
    monkeypatch.setattr(launched.threading, "Thread", None)
    launched.end_with_launcher()

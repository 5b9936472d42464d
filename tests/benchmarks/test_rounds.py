"""Contenders measured in turn, each in a process of its own."""

import os

import pytest

from benchmarks.rounds import Contender, alternate


def make(name):
    """The figures are the process's number and how often it has measured."""
    measured = iter(range(100))
    return lambda: (os.getpid(), next(measured), name)


def fail():
    raise ValueError("no such contender")


def test_each_contender_measures_once_a_round_in_its_own_process():
    contenders = {
        name: Contender(make, (name,), keeps_memory=False) for name in ("one", "other")
    }
    figures = alternate(contenders, rounds=3)
    for name, found in figures.items():
        assert [figure[1:] for figure in found] == [(i, name) for i in (1, 2, 3)]
    processes = {figure[0] for found in figures.values() for figure in found}
    assert len(processes) == 2 and os.getpid() not in processes


def test_a_contender_that_fails_is_named(capfd):
    with pytest.raises(RuntimeError, match="broken ended early"):
        alternate({"broken": Contender(fail, (), keeps_memory=False)}, rounds=1)
    assert "no such contender" in capfd.readouterr().err

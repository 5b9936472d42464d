"""The records to train on in memory: which are read, and when there is no room."""

import numpy as np
import pytest

from ecgssl_jax.data import host_cache
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.settings import ConfigError

GB = 2**30


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, make_record, make_source):
    """Two of four records, out of their order."""
    folder = tmp_path_factory.mktemp("sets") / "set"
    source = make_source([make_record(i) for i in range(4)])
    prepared = prepare_dataset(source, folder, report=lambda line: None)
    return Mixture(sets=(prepared,), rows=(np.array([3, 1]),))


@pytest.fixture
def machine(tmp_path):
    """-> a function that writes files below a folder that stands for the root."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    write({"proc/meminfo": f"MemFree: 1 kB\nMemAvailable:  {8 * 2**20} kB\n"})
    write({"proc/self/cgroup": "0::/jobs/a\n"})
    return write


def _group(folder, limit, used, *, old=False):
    """The files of a control group in which cached files take 1 GB of what is used."""
    names = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
    prefix = "total_" if old else ""
    top = "sys/fs/cgroup/memory" if old else "sys/fs/cgroup"
    return {
        f"{top}/{folder}/memory.{names[0]}": f"{limit}\n",
        f"{top}/{folder}/memory.{names[1]}": f"{used}\n",
        f"{top}/{folder}/memory.stat": f"{prefix}active_file {GB // 4}\n"
        f"{prefix}inactive_file {3 * GB // 4}\nshmem {GB}\n",
    }


def test_only_the_records_to_train_on_are_read_in_their_order(mixture):
    signals = host_cache.load_records(mixture)
    np.testing.assert_array_equal(signals, mixture.sets[0].load()[[3, 1]])


def test_records_beyond_the_free_memory_are_refused_with_the_way_out(
    mixture, monkeypatch
):
    needed = 2 * 1000 * 12 * 2
    for free, fits in ((needed * 2, True), (needed, False)):
        monkeypatch.setattr(host_cache, "available_memory", lambda free=free: free)
        if fits:
            assert len(host_cache.load_records(mixture)) == 2
            continue
        message = r"config\.data\.cache: 'host' reads 2 records .*data\.cache=none"
        with pytest.raises(ConfigError, match=message):
            host_cache.load_records(mixture)


def test_a_system_that_does_not_tell_its_memory_is_trusted(
    mixture, monkeypatch, tmp_path
):
    assert host_cache.available_memory(tmp_path) is None
    monkeypatch.setattr(host_cache, "available_memory", lambda: None)
    assert len(host_cache.load_records(mixture)) == 2


def test_free_memory_is_the_kernel_s_estimate(machine):
    assert host_cache.available_memory(machine({})) == 8 * GB


def test_a_group_s_limit_counts_less_what_it_uses_apart_from_files(machine):
    root = machine(_group("jobs/a", 4 * GB, 3 * GB))
    assert host_cache.available_memory(root) == 2 * GB


def test_the_narrowest_of_the_groups_above_counts(machine):
    files = _group("jobs/a", "max", GB) | _group("jobs", 6 * GB, 4 * GB)
    assert host_cache.available_memory(machine(files)) == 3 * GB


def test_groups_of_the_old_kind_count_too(machine):
    files = {"proc/self/cgroup": "4:cpu,memory:/a\n3:cpuset:/b\n0::/\n"}
    files |= _group("a", 4 * GB, 3 * GB, old=True)
    assert host_cache.available_memory(machine(files)) == 2 * GB


def test_a_group_that_cannot_be_seen_limits_nothing(machine):
    root = machine({"proc/self/cgroup": "0::/../elsewhere\n"})
    assert host_cache.available_memory(root) == 8 * GB

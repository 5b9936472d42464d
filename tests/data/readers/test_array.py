import numpy as np
import pytest

from ecgssl_jax.data.readers.array import array_source
from ecgssl_jax.data.readers.signals import Signals
from ecgssl_jax.data.readers.source import SourceError
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.leads import LEADS

PLAIN = Signals(rate=100.0, unit="mV", leads=LEADS)


@pytest.fixture
def ecgs(make_ecg):
    return np.stack([make_ecg(seed) for seed in range(5)])


def test_both_layouts_and_both_containers_give_the_same_set(tmp_path, ecgs):
    turned = np.ascontiguousarray(ecgs.transpose(0, 2, 1))
    np.save(tmp_path / "ntc.npy", ecgs)
    np.save(tmp_path / "nct.npy", turned)
    np.savez(tmp_path / "two.npz", x=ecgs, y=np.zeros(3))
    channels_first = Signals(rate=100.0, unit="mV", leads=LEADS, layout="CT")
    sources = [
        array_source(tmp_path / "ntc.npy", PLAIN),
        array_source(tmp_path / "nct.npy", channels_first),
        array_source(tmp_path / "two.npz", PLAIN, key="x"),
    ]
    for number, source in enumerate(sources):
        prepared = prepare_dataset(source, tmp_path / f"out{number}")
        np.testing.assert_array_equal(
            prepared.load(), np.rint(ecgs.astype(np.float64) * 1000)
        )
        assert prepared.index["record_id"].tolist() == ["0", "1", "2", "3", "4"]


def test_what_an_array_does_not_say_is_asked_for(tmp_path, ecgs):
    np.save(tmp_path / "a.npy", ecgs)
    with pytest.raises(SourceError, match="--source-rate, --leads"):
        array_source(tmp_path / "a.npy", Signals(unit="mV"))


def test_a_file_that_is_no_such_array_is_an_error(tmp_path, ecgs):
    np.save(tmp_path / "flat.npy", ecgs[0])
    with pytest.raises(SourceError, match="expected records x samples x leads"):
        array_source(tmp_path / "flat.npy", PLAIN)
    np.savez(tmp_path / "two.npz", x=ecgs, y=np.zeros(3))
    with pytest.raises(SourceError, match="holds the arrays x, y; choose with --key"):
        array_source(tmp_path / "two.npz", PLAIN)
    with pytest.raises(SourceError, match="no array 'z'"):
        array_source(tmp_path / "two.npz", PLAIN, key="z")
    (tmp_path / "half.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:999])
    for name in ("half.npy", "absent.npy", "absent.npz"):
        with pytest.raises(SourceError, match=name):
            array_source(tmp_path / name, PLAIN)


def test_a_lead_name_with_a_typo_is_an_error_before_the_array_is_read(tmp_path):
    typo = Signals(rate=100.0, unit="mV", leads=("I", "IIl"))
    with pytest.raises(SourceError, match="'IIl'.*did you mean II"):
        array_source(tmp_path / "absent.npy", typo)

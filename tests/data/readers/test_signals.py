import numpy as np
import pytest

from ecgssl_jax.data.readers.signals import (
    Signals,
    check_signals,
    load_npy,
    read_array,
    split_leads,
)
from ecgssl_jax.data.readers.source import SourceError
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.leads import LEADS


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"leads": ("I", "II", "aVRR")}, "'aVRR'.*did you mean aVR"),
        ({"leads": ("-", "-")}, "is a standard lead"),
        ({"leads": ("I", "DI")}, "both lead I"),
        ({"unit": "cm"}, "unit 'cm'"),
        ({"rate": 0.0}, "sampling rate of 0 Hz"),
        ({"rate": float("nan")}, "sampling rate of nan Hz"),
        ({"layout": "TCN"}, "layout 'TCN' is none of TC, CT"),
    ],
)
def test_a_wrong_description_is_an_error_for_all_or_for_one(mistake, message):
    signals = Signals(**{"rate": 100.0, "unit": "mV", "leads": LEADS, **mistake})
    with pytest.raises(SourceError, match=message):
        check_signals(signals)
    with pytest.raises(RecordError, match=f"x.npy: .*{message}"):
        read_array(np.zeros((10, 12)), signals, "x.npy")


@pytest.mark.parametrize("name", ["rate", "unit", "leads"])
def test_what_nothing_says_is_an_error(name):
    signals = {"rate": 100.0, "unit": "mV", "leads": LEADS, name: None}
    check_signals(Signals(**signals))
    with pytest.raises(RecordError, match=f"x.npy: no {name}"):
        read_array(np.zeros((10, 12)), Signals(**signals), "x.npy")


def test_columns_are_taken_by_name_and_left_out_on_request():
    array = np.arange(40, dtype=np.int16).reshape(10, 4)
    signals = Signals(rate=50.0, unit="uV", leads=("-", "DII", "-", "avr"))
    fields = read_array(array, signals, "x.npy")
    assert fields["leads"] == ("II", "aVR") and fields["rate"] == 50.0
    assert fields["ecg"].dtype == np.float32
    expected = array[:, [1, 3]].astype(np.float64) / 1000
    np.testing.assert_allclose(fields["ecg"], expected, rtol=3e-7)


def test_complex_numbers_are_no_signal():
    signals = Signals(rate=50.0, unit="mV", leads=("I", "II"))
    with pytest.raises(RecordError, match="expected real numbers"):
        read_array(np.zeros((10, 2), complex), signals, "x.npy")


def test_an_array_that_was_given_is_not_changed():
    array = np.ones((10, 2), np.float32)
    read_array(array, Signals(rate=50.0, unit="V", leads=("I", "II")), "x.npy")
    assert (array == 1).all()


def test_a_file_that_holds_no_single_array_is_an_error(tmp_path):
    np.save(tmp_path / "whole.npy", np.zeros((10, 12)))
    np.savez(tmp_path / "archive.npz", np.zeros((10, 12)))
    whole = (tmp_path / "whole.npy").read_bytes()
    archive = (tmp_path / "archive.npz").read_bytes()
    damaged = {
        "header.npy": whole.replace(b"{'descr'", b"{'descr\n"),
        "half.npy": whole[: len(whole) // 2],
        "half.npz": archive[: len(archive) // 2],
        "empty.npy": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    for name in (*damaged, "absent.npy", "null\0.npy", "x" * 300):
        with pytest.raises(RecordError, match="not a readable .npy file"):
            load_npy(tmp_path / name)
    with pytest.raises(RecordError, match="archive.npz: a .npz archive, expected one"):
        load_npy(tmp_path / "archive.npz")


def test_lead_lists_may_be_separated_by_anything_usual():
    for text in ("I,II,V1", "I II V1", "I; II; V1", "I, II, V1"):
        assert split_leads(text) == ("I", "II", "V1")
    assert split_leads("Lead I,Lead II") == ("Lead I", "Lead II")

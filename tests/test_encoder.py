"""The library call against the prepared set of the same recordings."""

import itertools
import re
import runpy
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

import ecgssl_jax
from ecgssl_jax import assembly, runs
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.checkpoint_reading import load_params
from ecgssl_jax.data.readers.source import Source
from ecgssl_jax.data.record import Record
from ecgssl_jax.data.resample import resample
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.evaluation.features import statistics_of
from ecgssl_jax.experiment import parse
from ecgssl_jax.leads import LEADS
from ecgssl_jax.settings import ConfigError

RATE, CROP, RECORDS = 100.0, 200, 6
CONFIG = {
    "steps": 10,
    "batch_size": 2,
    "data": {"crop": CROP},
    "model": {"width": 8, "depth": 1, "num_heads": 1, "patch_size": 10},
    "masks": {"kind": "random"},
    "method": {
        "name": "jepa",
        "predictor_width": 8,
        "predictor_depth": 1,
        "predictor_num_heads": 1,
    },
}


def recording(seed: int, seconds: float = 10.0, rate: float = RATE) -> np.ndarray:
    """[T, 12] mV in whole microvolts: slow waves that obey Einthoven."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    waves = [
        random.normal() * np.sin(2 * np.pi * (f * time + random.random()))
        for f in range(1, 13)
        for _ in range(8)
    ]
    independent = 0.1 * np.array(waves).reshape(12, 8, -1).sum(axis=0).T
    i, ii = independent[:, 0], independent[:, 1]
    limb = [i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2]
    return np.round(np.column_stack([*limb, independent[:, 2:]]), 3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    def read():
        for seed in range(RECORDS):
            ecg = recording(seed).astype(np.float32)
            yield str(seed), Record(id=str(seed), ecg=ecg, rate=RATE, leads=LEADS)

    source = Source(
        description="waves",
        tasks=[read],
        num_records=RECORDS,
        rates=(RATE,),
        labels=(),
    )
    folder = tmp_path_factory.mktemp("encoder") / "waves"
    return prepare_dataset(source, folder, report=lambda text: None)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, prepared):
    """A checkpoint as a run on that set leaves it, after a set of other statistics."""
    folder = tmp_path_factory.mktemp("run")
    method = assembly.make_method(parse(CONFIG))
    example = {"ecg": np.zeros((2, CROP, 12), np.float32)}
    params, extra = runs.random_parameters(method, example, 0)
    own = statistics_of([prepared])
    tables = {
        name: np.concatenate([2 * getattr(own, name), getattr(own, name)])
        for name in ("scale", "mean", "std")
    }
    state = {"params": params, "extra": extra, "statistics": tables}
    sets = {name: {"rate": RATE, "source": n} for n, name in enumerate("ab")}
    meta = {"config": CONFIG, "data": sets, "evaluated": {}, "tokens": {}}
    with Checkpointer(str(folder / "checkpoints")) as checkpoints:
        checkpoints.save(5, jax.tree.map(jax.numpy.asarray, state), meta)
    return folder


@pytest.fixture(scope="module")
def encoder(workdir):
    return ecgssl_jax.load(workdir, statistics="b")


@pytest.fixture(scope="module")
def expected(workdir, prepared):
    return runs.load_encoder(workdir, tokens=np.float32).encode(prepared)


def call(encoder, ecg, rate=RATE, leads=LEADS, unit="mV"):
    return encoder(ecg, rate=rate, leads=leads, unit=unit)


def test_arrays_have_the_features_of_the_prepared_set(encoder, expected):
    found = call(encoder, np.stack([recording(seed) for seed in range(RECORDS)]))
    assert found.keys() == expected.keys() == {"pooled", "tokens"}
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_one_recording_has_no_axis_of_recordings(encoder, expected):
    found = call(encoder, recording(3))
    assert found["pooled"].shape == (8,) and found["tokens"].shape == (5 * 20, 8)
    np.testing.assert_allclose(found["pooled"], expected["pooled"][3], atol=1e-5)


def test_units_orders_and_spellings_are_the_callers(encoder, expected):
    order = np.random.default_rng(0).permutation(12)
    ecg = np.column_stack([recording(2)[:, order], np.full(1000, 7.0)])
    names = [*(f"lead {LEADS[k]}".upper() for k in order), "-"]
    for unit, factor in (("uV", 1000), ("0.5 uV", 2000)):
        steps = np.rint(factor * ecg).astype(np.int32)
        found = call(encoder, steps, leads=names, unit=unit)
        np.testing.assert_allclose(found["pooled"], expected["pooled"][2], atol=1e-5)


def test_other_rates_are_resampled(encoder):
    fast = recording(1, rate=500.0)
    found = call(encoder, fast, rate=500.0)["pooled"]
    slow = resample(fast.astype(np.float32), 500.0, RATE)
    same = call(encoder, slow)["pooled"]
    np.testing.assert_allclose(found, same, atol=1e-3)
    assert np.abs(found - call(encoder, fast[:1000])["pooled"]).max() > 0.01


def test_absent_flat_and_empty_leads_are_missing(encoder, expected):
    ecg = recording(4)
    absent = call(encoder, ecg[:, 1:], leads=LEADS[1:])["pooled"]
    assert np.abs(absent - expected["pooled"][4]).max() > 0.01
    for value in (0.3, np.nan):
        ecg[:, 0] = value
        found = call(encoder, ecg)["pooled"]
        np.testing.assert_allclose(found, absent, atol=1e-6)


def test_features_of_a_recording_do_not_depend_on_the_others(encoder):
    ecg = np.stack([recording(0), recording(1)])
    ecg[1, 450:] = np.nan
    found = call(encoder, ecg)
    # Two windows of 20 tokens; what remains is less than half of a third.
    assert found["tokens_valid"].sum(axis=1).tolist() == [100, 40]
    for end in (450, 1000):
        alone = call(encoder, ecg[1, :end])
        np.testing.assert_allclose(found["pooled"][1], alone["pooled"], atol=1e-6)
        tokens = found["tokens"][1, :40], alone["tokens"][:40]
        np.testing.assert_allclose(*tokens, atol=1e-6)


def test_recordings_shorter_than_a_window_are_padded(encoder):
    found = call(encoder, recording(0)[:150])
    assert found["tokens_valid"].sum() == 15
    mean = found["tokens"][:15].mean(axis=0)
    np.testing.assert_allclose(found["pooled"], mean, atol=1e-5)


def test_short_gaps_are_interpolated(encoder, expected):
    ecg = recording(5)
    ecg[500:502, 3] = np.nan
    found = call(encoder, ecg)["pooled"]
    np.testing.assert_allclose(found, expected["pooled"][5], atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(ecg=np.zeros((12, 1000))), r"\(12, 1000\).*12 leads: expected .*swap it"),
        (dict(ecg=np.zeros((0, 1000, 12))), r"\(0, 1000, 12\)"),
        (dict(ecg=[recording(0), recording(0, 5)]), "lengthen the shorter ones by NaN"),
        (dict(ecg=np.full((1000, 12), "x")), "dtype <U1: expected real numbers"),
        (dict(leads="II"), "expected a list of names"),
        (dict(leads=["I"] * 12), "both lead I"),
        (dict(leads=[*LEADS[:11], "V9"]), "'V9': no standard lead"),
        (dict(rate=0), "rate=0: expected the sampling rate in Hz"),
        (dict(rate="100"), "rate='100'"),
        (dict(rate=1e9), "rate=1000000000.0"),
        (dict(unit=None), "unit=None: expected a name"),
        (dict(leads=None), "leads=None: expected a list"),
        (dict(leads=list(range(12))), "expected a list of names"),
        (dict(ecg=np.ma.masked_array(recording(0))), "a masked array; give NaN"),
        (dict(unit="volts"), "unit 'volts' is none of"),
        (dict(unit="V"), "recording 0: implausible"),
        (dict(ecg=recording(0)[:90]), "recording 0: too short: 0.90 s, expected 2 s"),
        (dict(ecg=np.zeros((1000, 12))), "0 of 12 leads .*; flat lead: I, II, .*V6"),
        (dict(ecg=np.full((1000, 12), np.nan)), "recording 0"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(encoder, change, message):
    arguments = dict(ecg=recording(0), rate=RATE, leads=LEADS, unit="mV") | change
    with pytest.raises(ValueError, match=message):
        encoder(arguments.pop("ecg"), **arguments)


def test_a_checkpoint_without_statistics_is_named(workdir, tmp_path):
    state, meta = load_params(workdir)
    del state["statistics"]
    with Checkpointer(str(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(5, jax.tree.map(jax.numpy.asarray, state), meta)
    with pytest.raises(ConfigError, match="5 holds no statistics to normalise"):
        ecgssl_jax.load(tmp_path)


def test_it_is_described_in_a_line(encoder):
    assert re.fullmatch(
        r"<Encoder .*jepa, .*: windows of \d+ samples at 100 Hz>", repr(encoder)
    )
    assert encoder.labels == ()


def test_a_long_gap_is_refused(encoder):
    ecg = np.stack([recording(0), recording(1)])
    ecg[1, 300:340] = np.nan
    with pytest.raises(ValueError, match="recording 1: .*gap"):
        call(encoder, ecg)


def test_the_example_of_the_readme_runs(workdir, tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Use the encoder\n")[2]
    lines = itertools.dropwhile(lambda line: line[:4] != "    ", section.splitlines())
    lines = itertools.takewhile(lambda line: line[:4] in ("", "    "), lines)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "jepa-ptbxl").symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(textwrap.dedent("\n".join(lines)))
    ecg = 1000 * np.stack([recording(n, rate=500.0) for n in range(3)])
    names = runpy.run_path("example.py", {"ecg": ecg[..., [0, 1, 6, 10]]})
    assert names["found"]["pooled"].shape == (3, 8)


def test_the_statistics_are_those_of_a_set_of_the_run(workdir, encoder):
    other = ecgssl_jax.load(workdir)
    np.testing.assert_array_equal(other.statistics.std, 2 * encoder.statistics.std)
    with pytest.raises(ConfigError, match="not trained on a set 'c'"):
        ecgssl_jax.load(workdir, statistics="c")
    assert (encoder.rate, encoder.crop) == (RATE, CROP)

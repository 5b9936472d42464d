"""The synthetic records keep the definitions of their labels, measured on the signal.

Definitions: Surawicz & Knilans, "Chou's Electrocardiography in Clinical Practice", and
the AHA/ACCF/HRS recommendations of 2009.
"""

import collections

import numpy as np
import pytest
from scipy.signal import find_peaks

from ecgssl_jax.data import synthetic
from ecgssl_jax.data.synthetic import LABELS, synthesise, synthetic_record
from ecgssl_jax.data.synthetic_heart import SINUS, VENTRICULAR
from ecgssl_jax.leads import LEADS

RATE = 500.0
LEAD = {name: index for index, name in enumerate(LEADS)}
BLOCKS = {"right_bundle_branch_block", "left_bundle_branch_block"}
PREMATURE = {"atrial_premature_beats", "ventricular_premature_beats"}


@pytest.fixture(scope="module")
def truths():
    return [synthesise(k, seed=3, rate=RATE) for k in range(400)]


@pytest.fixture(scope="module")
def records():
    return [synthetic_record(k, seed=1, rate=100.0) for k in range(800)]


def with_label(truths, label, *, without=frozenset()):
    found = [
        t for t in truths if label in t.conditions and not t.conditions & set(without)
    ]
    assert len(found) >= 4, f"only {len(found)} records show {label}"
    return found


def sinus_beats(truth, before, after):
    """[beats, samples, 12] of the clean signal around each onset of a sinus QRS, each
    beat against its level just before QRS."""
    beats = []
    for onset, kind in zip(truth.rhythm.onset, truth.rhythm.kind, strict=True):
        first = round((onset - before) * RATE)
        last = first + round((before + after) * RATE)
        level = round((onset - 0.008) * RATE)
        whole = first >= 0 and level >= 0 and max(level, last) < len(truth.clean)
        if kind == SINUS and whole:
            beats.append(truth.clean[first:last] - truth.clean[level])
    return np.stack(beats)


def qrs_width(truth):
    """Time around its fastest movement in which the mean beat, all leads together,
    never rests for 16 ms; rest is a 20th of the fastest."""
    beat = np.median(sinus_beats(truth, 0.05, 0.25), axis=0)
    speed = np.linalg.norm(np.diff(beat, axis=0), axis=1)
    moving = np.flatnonzero(speed > 0.05 * speed.max())
    runs = np.split(moving, np.flatnonzero(np.diff(moving) > 0.016 * RATE) + 1)
    run = next(run for run in runs if speed.argmax() in run)
    return float(run[-1] + 1 - run[0]) / RATE


def detected_rate(clean):
    """Beats per minute from peaks of the leads' speed: knows nothing of the model."""
    speed = np.square(np.diff(clean, axis=0)).sum(axis=1)
    speed = np.sqrt(np.convolve(speed, np.ones(15) / 15.0, mode="same"))
    height = 0.5 * np.quantile(speed, 0.985)
    peaks, _ = find_peaks(speed, height=height, distance=0.33 * RATE)
    return 60.0 * RATE / float(np.median(np.diff(peaks)))


def test_the_rate_seen_in_the_signal_agrees_with_bradycardia_and_tachycardia(truths):
    checked = 0
    for truth in truths:
        if truth.conditions & {*PREMATURE, "atrial_fibrillation", "sinus_arrhythmia"}:
            continue
        rate = detected_rate(truth.clean)
        assert rate == pytest.approx(60.0 / np.median(truth.rhythm.rr), rel=0.02)
        if min(abs(rate - 60), abs(rate - 100)) > 3:
            assert ("sinus_bradycardia" in truth.conditions) == (rate < 60)
            assert ("sinus_tachycardia" in truth.conditions) == (rate > 100)
            checked += 1
    assert checked > 200


def test_limb_leads_fulfil_einthoven_and_goldberger_with_and_without_noise(truths):
    for truth in truths[:50]:
        for ecg in (truth.clean, truth.noise, truth.clean + truth.noise):
            one, two, three, avr, avl, avf = ecg[:, :6].T
            np.testing.assert_allclose(one + three, two, atol=3e-6)
            np.testing.assert_allclose(avr, -(one + two) / 2, atol=3e-6)
            np.testing.assert_allclose(avl, (one - three) / 2, atol=3e-6)
            np.testing.assert_allclose(avf, (two + three) / 2, atol=3e-6)


def test_qrs_is_broad_in_bundle_branch_block_and_only_there(truths):
    for label in BLOCKS:
        for truth in with_label(truths, label):
            assert qrs_width(truth) >= 0.118, label
    # An elevated ST hides the end of QRS, the P of a fast heart its beginning.
    narrow = [
        qrs_width(t)
        for t in truths
        if not any("bundle" in name or "st_" in name for name in t.conditions)
        and t.rhythm.heart_rate < 100
    ]
    assert np.mean(np.array(narrow) < 0.120) > 0.95
    assert 0.075 < np.median(narrow) < 0.105


def test_right_bundle_branch_block_has_a_late_r_in_v1_and_a_broad_s_in_v6(truths):
    for truth in with_label(truths, "right_bundle_branch_block", without=PREMATURE):
        beats = np.median(sinus_beats(truth, 0.0, truth.heart.qrs), axis=0)
        late = beats[len(beats) // 2 :]
        assert late[:, LEAD["V1"]].max() > 0.1
        assert late[:, LEAD["V6"]].min() < -0.05


def test_left_bundle_branch_block_is_negative_in_v1_and_upright_without_q_in_v6(truths):
    for truth in with_label(truths, "left_bundle_branch_block", without=PREMATURE):
        beats = np.median(sinus_beats(truth, 0.0, truth.heart.qrs), axis=0)
        v1, v6 = beats[:, LEAD["V1"]], beats[:, LEAD["V6"]]
        assert -v1.min() > 3 * max(v1.max(), 0.0)
        assert v6[: v6.argmax()].min() > -0.06
        # ST and T are opposite to QRS.
        late = np.median(sinus_beats(truth, 0.0, 0.36), axis=0)[-50:].mean(axis=0)
        assert late[[LEAD["V1"], LEAD["V2"]]].max() > 0.0 > late[LEAD["V6"]]


def test_left_anterior_fascicular_block_turns_the_axis_up_to_the_left(truths):
    for truth in with_label(
        truths, "left_anterior_fascicular_block", without=BLOCKS | PREMATURE
    ):
        net = sinus_beats(truth, 0.0, truth.heart.qrs).sum(axis=(0, 1))
        axis = np.degrees(np.arctan2(2.0 * net[LEAD["aVF"]], np.sqrt(3) * net[0]))
        assert -100 < axis < -27
        assert truth.heart.qrs < 0.12


def coherence(truth):
    """Share of the signal before QRS, in I to V6, that every beat repeats."""
    beats = sinus_beats(truth, 0.22, -0.03)
    beats = beats - beats.mean(axis=1, keepdims=True)
    return np.square(beats.mean(axis=0)).sum() / np.square(beats).mean(axis=0).sum()


def test_atrial_fibrillation_is_irregular_and_repeats_no_p_wave(truths):
    for truth in with_label(truths, "atrial_fibrillation", without=PREMATURE):
        rr = truth.rhythm.rr
        assert rr.std() / rr.mean() > 0.08
        assert coherence(truth) < 0.6
    sinus = [
        coherence(t)
        for t in truths
        if not t.conditions & {"atrial_fibrillation", *PREMATURE}
        and t.rhythm.heart_rate < 90
    ]
    assert np.quantile(sinus, 0.02) > 0.9


def test_fibrillatory_waves_are_clearest_in_v1(truths):
    size = []
    for truth in with_label(truths, "atrial_fibrillation"):
        quiet = []
        for before, onset in zip(
            truth.rhythm.onset[:-1], truth.rhythm.onset[1:], strict=True
        ):
            if before >= 0 and onset < 10 and onset - before > 0.75:
                part = truth.clean[round((before + 0.5) * RATE) : round(onset * RATE)]
                quiet.append(part[:-10].std(axis=0))
        if quiet:
            size.append(np.mean(quiet, axis=0))
    mean = np.mean(size, axis=0)
    assert mean[LEAD["V1"]] > 1.3 * mean[LEAD["I"]]
    assert 0.01 < mean[LEAD["V1"]] < 0.15


def test_hypertrophy_exceeds_the_sokolow_lyon_limit_and_other_hearts_do_not(truths):
    def sokolow(truth):
        beats = sinus_beats(truth, 0.0, truth.heart.qrs)
        high = np.maximum(beats[..., LEAD["V5"]], beats[..., LEAD["V6"]]).max(axis=1)
        return float(np.median(high - beats[..., LEAD["V1"]].min(axis=1)))

    for truth in with_label(truths, "left_ventricular_hypertrophy"):
        assert sokolow(truth) > 3.45
    others = [
        sokolow(t)
        for t in truths
        if not t.conditions & {*BLOCKS, "left_ventricular_hypertrophy"}
    ]
    assert max(others) < 3.6


def test_low_voltage_means_limb_leads_below_half_a_millivolt(truths):
    for truth in truths:
        if truth.conditions & {"atrial_fibrillation"}:
            continue
        beats = sinus_beats(truth, 0.0, truth.heart.qrs)
        voltage = np.median(np.ptp(beats[..., :6], axis=1), axis=0).max()
        if abs(voltage - 0.5) > 0.05:
            assert ("low_voltage" in truth.conditions) == (voltage < 0.5)


@pytest.mark.parametrize(
    ("label", "leads", "opposite"),
    [
        ("st_elevation_anterior", ("V1", "V2", "V3", "V4"), None),
        ("st_elevation_inferior", ("II", "III", "aVF"), "aVL"),
        ("st_elevation_lateral", ("I", "aVL", "V5", "V6"), "III"),
    ],
)
def test_st_is_elevated_over_its_territory(truths, label, leads, opposite):
    for truth in with_label(truths, label):
        beats = sinus_beats(truth, 0.0, truth.heart.qrs + 0.06)
        st = np.median(beats, axis=0)[-20:].mean(axis=0)
        elevated = sum(st[LEAD[lead]] > 0.09 for lead in leads)
        assert elevated >= 2
        if opposite:
            assert st[LEAD[opposite]] < 0.02


def test_old_infarcts_begin_with_a_q_over_their_territory(truths):
    def start(truth):
        return np.median(sinus_beats(truth, 0.0, 0.32 * truth.heart.qrs), axis=0)

    def largest(truths, sign, lead):
        return [(sign * start(t)[:, LEAD[lead]]).max() for t in truths]

    without = {*BLOCKS, "left_ventricular_hypertrophy", "low_voltage"}
    normal = with_label(truths, "normal")
    inferior = with_label(truths, "old_inferior_infarct", without=without)
    anterior = with_label(truths, "old_anterior_infarct", without=without)
    for lead in ("II", "III", "aVF"):
        assert np.median(largest(inferior, -1, lead)) > 0.12
        assert np.median(largest(normal, -1, lead)) < 0.07
    assert np.median(largest(anterior, 1, "V2")) < 0.05
    assert np.median(largest(normal, 1, "V2")) > 0.25


def test_first_degree_block_delays_qrs_after_p(truths):
    for truth in truths:
        if truth.conditions & {"atrial_fibrillation", *PREMATURE}:
            continue
        assert ("first_degree_av_block" in truth.conditions) == (truth.heart.pr > 0.2)
    for truth in with_label(truths, "first_degree_av_block", without=PREMATURE):
        if truth.rhythm.heart_rate > 70:
            continue  # P lies on T
        beats = sinus_beats(truth, 0.34, -0.06)
        size = np.linalg.norm(np.median(beats, axis=0), axis=1)
        peak = 0.34 - size.argmax() / RATE
        # P lasts about 110 ms: its peak comes 55 ms after its onset.
        assert peak > 0.13
        assert peak == pytest.approx(truth.heart.pr - 0.055, abs=0.035)


def test_ventricular_beats_are_early_broad_and_followed_by_a_compensatory_pause(truths):
    pauses = []
    for truth in with_label(
        truths, "ventricular_premature_beats", without={"atrial_fibrillation"}
    ):
        onset, kind = truth.rhythm.onset, truth.rhythm.kind
        places = np.flatnonzero((kind == VENTRICULAR) & truth.rhythm.inside)
        assert len(places)
        for i in places:
            assert onset[i] - onset[i - 1] < 0.85 * (onset[i + 1] - onset[i])
            if kind[i - 2] == SINUS:
                usual = onset[i - 1] - onset[i - 2]
                pauses.append((onset[i + 1] - onset[i - 1]) / usual)
    assert np.median(pauses) == pytest.approx(2.0, abs=0.06)


def test_the_end_of_t_follows_the_cube_root_of_the_interval(truths):
    ends, intervals = [], []
    for truth in truths:
        if truth.conditions & {*BLOCKS, *PREMATURE, "atrial_fibrillation"}:
            continue
        if truth.conditions & {"prolonged_qt", "t_wave_changes"}:
            continue
        interval = 60.0 / truth.rhythm.heart_rate
        beats = np.median(sinus_beats(truth, 0.0, min(0.5, 0.6 * interval)), axis=0)
        size = np.linalg.norm(beats[round(0.16 * RATE) :], axis=1)
        # T ends 80 ms after its peak.
        ends.append(0.16 + size.argmax() / RATE + 0.08)
        intervals.append(interval)
    slope = np.polyfit(np.log(intervals), np.log(ends), 1)[0]
    assert slope == pytest.approx(1 / 3, abs=0.08)


def test_r_grows_and_s_shrinks_across_the_chest_of_normal_hearts(truths):
    normal = with_label(truths, "normal")
    beats = np.stack(
        [np.median(sinus_beats(t, 0.0, t.heart.qrs), axis=0).max(axis=0)
         for t in normal]
    )  # fmt: skip
    r = np.median(beats, axis=0)[6:]
    assert r[0] < r[1] < r[2] < r[3]
    assert r[3] > r[5]


def test_a_record_is_a_function_of_seed_and_index_alone(records):
    synthetic._patient.cache_clear()
    synthetic._shuffled.cache_clear()
    for k in (511, 3, 200):
        alone = synthetic.synthetic_record(k, seed=1, rate=100.0)
        assert alone.ecg.tobytes() == records[k].ecg.tobytes()
        assert (alone.id, alone.patient, alone.fold, alone.text, alone.labels) == (
            records[k].id,
            records[k].patient,
            records[k].fold,
            records[k].text,
            records[k].labels,
        )
    other = synthetic.synthetic_record(3, seed=2, rate=100.0)
    assert np.abs(other.ecg - records[3].ecg).max() > 0.1


@pytest.mark.parametrize("rate", [100.0, 257.0, 500.0])
def test_every_rate_samples_the_same_signal(rate):
    def spectrum(rate):
        truth = synthesise(17, seed=5, rate=rate)
        ecg = truth.clean + truth.noise
        window = np.hanning(len(ecg) + 1)[:-1, None]
        # 0.1 Hz per bin; up to 38 Hz every recorder's filter lets pass.
        return np.fft.rfft(ecg * window, axis=0)[:380] / rate

    fine = spectrum(1000.0)
    difference = np.abs(spectrum(rate) - fine).max()
    assert difference < 2e-3 * np.abs(fine).max()


def test_nothing_is_left_at_half_the_sampling_rate(truths):
    ecg = synthesise(0, seed=0, rate=100.0)
    total = (ecg.clean + ecg.noise) * np.hanning(1000)[:, None]
    power = np.square(np.abs(np.fft.rfft(total, axis=0)))
    assert power[-5:].max() < 1e-4 * power.max()


def test_folds_are_split_by_patient_and_some_patients_have_several_records(records):
    folds = collections.defaultdict(set)
    for record in records:
        folds[record.patient].add(record.fold)
    assert all(len(of_patient) == 1 for of_patient in folds.values())
    assert set().union(*folds.values()) == set(range(1, 11))
    assert 0.6 < len(folds) / len(records) < 0.8
    sizes = collections.Counter(record.fold for record in records)
    assert min(sizes.values()) > 0.6 * len(records) / 10


def test_records_of_one_patient_share_age_and_sex(records):
    people = collections.defaultdict(set)
    for record in records:
        people[record.patient].add((record.attributes["age"], record.attributes["sex"]))
    assert all(len(person) == 1 for person in people.values())


def test_every_label_is_known_and_neither_absent_nor_everywhere(records):
    for record in records:
        assert set(record.labels) == set(LABELS)
        assert set(record.labels.values()) <= {0.0, 1.0}
    shares = {n: np.mean([r.labels[n] for r in records]) for n in LABELS}
    assert all(0.01 < share < 0.45 for share in shares.values()), shares
    assert shares["normal"] > 0.25


def test_normal_excludes_every_other_label_and_an_unusual_axis(records):
    for record in records:
        others = sum(record.labels.values()) - record.labels["normal"]
        axis = record.attributes["axis_degrees"]
        if axis in (-30, 100):
            continue  # rounded: on either side
        usual = -30 < axis < 100
        assert (record.labels["normal"] == 1.0) == (others == 0 and usual)
        assert ("axis" in record.text) <= (not usual)


def test_records_are_ten_seconds_of_twelve_leads_in_millivolts(records):
    for record in records[:100]:
        assert record.ecg.shape == (1000, 12)
        assert record.ecg.dtype == np.float32
        assert record.leads == LEADS
        assert np.isfinite(record.ecg).all()
        assert 0.2 < np.ptp(record.ecg, axis=0).max() < 12.0


def test_many_reports_are_alike_and_name_what_the_labels_say(records):
    counts = collections.Counter(record.text for record in records)
    assert counts.most_common(1)[0][1] > 0.1 * len(records)
    assert 30 < len(counts) < 0.5 * len(records)
    for record in records:
        assert ("fibrillation" in record.text) == bool(
            record.labels["atrial_fibrillation"]
        )
        if record.labels["normal"]:
            assert "normal" in record.text


@pytest.mark.parametrize("rate", [49.0, 100.3, 8000.0])
def test_a_rate_that_cannot_be_sampled_is_named(rate):
    with pytest.raises(ValueError, match=f"{rate:g}"):
        synthetic.synthetic_record(0, rate=rate)


def test_negative_indices_are_refused():
    with pytest.raises(ValueError, match="-1"):
        synthetic.synthetic_record(-1)

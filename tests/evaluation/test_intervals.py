"""Intervals against published figures, direct counts and simulated truths."""

import numpy as np
import pytest

from benchmarks import interval_coverage
from ecgssl_jax.evaluation import intervals

NAMES = ("frequent", "perfect", "rare", "absent")


def macro_interval(scores, labels, patients, *, level=0.95, **draws):
    return intervals.resample(scores, labels, patients, **draws).macro(level)


def paired_interval(scores, others, labels, patients, **draws):
    one, other = (
        intervals.resample(each, labels, patients, **draws) for each in (scores, others)
    )
    return other.minus(one)


def problem(patients: int = 200):
    """One record for each patient; one label is ranked perfectly, one has no positive."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(patients, 4))
    labels = np.zeros(scores.shape, bool)
    labels[::3, 0] = labels[:40, 1] = labels[:3, 2] = True
    scores[:, 0] += labels[:, 0]
    scores[:40, 1] += 10
    return scores, labels, np.arange(patients)


def test_model_is_exact_for_exponential_scores():
    # Positives live four times as long: they outlive a negative in 4 of 5 pairs.
    random = np.random.default_rng(0)
    positive = random.exponential(4, size=(20_000, 10, 1))
    negative = random.exponential(1, size=(20_000, 1, 15))
    simulated = (positive > negative).mean(axis=(1, 2)).var()
    # Five standard deviations of so many draws' variance.
    assert intervals.hanley_mcneil(0.8, 10, 15) == pytest.approx(simulated, rel=0.06)


def test_interval_of_a_frequent_label_has_the_width_of_delong():
    scores, labels, patients = problem(20_000)
    found = intervals.label_intervals(
        scores[:, :1], labels[:, :1], patients, names=["frequent"]
    )["frequent"]
    positive, negative = (scores[labels[:, 0] == kind, 0] for kind in (True, False))
    # The variances of both kinds' placements, counted pair by pair.
    over = np.array([(negative < each).mean() for each in positive])
    under = np.array([(positive > each).mean() for each in negative])
    variance = over.var(ddof=1) / len(over) + under.var(ddof=1) / len(under)
    width = 2 * 1.959964 * np.sqrt(variance)
    assert found.high - found.low == pytest.approx(width, rel=0.01)
    assert found.low < over.mean() < found.high


def test_labels_are_marked_by_their_positive_patients_and_perfect_ones_have_a_width():
    found = intervals.label_intervals(*problem(), names=NAMES)
    assert list(found) == ["frequent", "perfect", "rare"]
    assert [found[name].patients for name in found] == [67, 40, 3]
    assert [found[name].trusted for name in found] == [True, True, False]
    perfect = found["perfect"]
    assert 0.85 < perfect.low < 0.99 and perfect.high == pytest.approx(1, abs=1e-9)
    rare = found["rare"]
    assert rare.high - rare.low > 3 * (perfect.high - perfect.low)


def test_a_perfect_label_alone_is_no_certainty():
    scores, labels, patients = (x[..., 1:2] if x.ndim > 1 else x for x in problem())
    (found,) = intervals.label_intervals(scores, labels, patients, names=["a"]).values()
    assert 0.85 < found.low < 0.99 and found.high == pytest.approx(1, abs=1e-9)
    macro = macro_interval(scores, labels, patients)
    assert 1e-4 < macro.high - macro.low < 0.1
    assert macro.high == 1


def test_a_record_that_its_patient_has_twice_tells_nothing_new():
    scores, labels, patients = problem()
    once = (labels, patients)
    twice = [np.repeat(x, 2, axis=0) for x in (scores, labels, patients)]
    assert intervals.label_intervals(
        scores, *once, names=NAMES
    ) == intervals.label_intervals(*twice, names=NAMES)
    assert macro_interval(scores, *once) == macro_interval(*twice)


def test_paired_interval_is_that_of_a_difference():
    scores, labels, patients = problem()
    random = np.random.default_rng(1)
    near = scores + 0.3 * random.normal(size=scores.shape)
    same = paired_interval(scores, scores, labels, patients)
    assert same.low == same.high == 0
    there = paired_interval(scores, near, labels, patients)
    back = paired_interval(near, scores, labels, patients, draws=1000)
    assert there.low < 0 < there.high
    # But for the noise of either.
    assert [back.low, back.high] == pytest.approx([-there.high, -there.low], abs=0.01)
    alone = macro_interval(scores, labels, patients)
    assert there.high - there.low < alone.high - alone.low


def test_seeds_are_averaged():
    scores, labels, patients = problem()
    random = np.random.default_rng(1)
    seeds = [scores + 2 * random.normal(size=scores.shape) for _ in range(4)]
    single = [macro_interval(each, labels, patients) for each in seeds]
    found = macro_interval(np.stack(seeds), labels, patients)
    middle = np.mean([(each.low + each.high) / 2 for each in single])
    assert (found.low + found.high) / 2 == pytest.approx(middle, abs=0.02)
    # What differs between the seeds averages out, what the records share does not.
    widths = [each.high - each.low for each in single]
    assert 0.5 * np.mean(widths) < found.high - found.low < np.mean(widths)
    same = macro_interval(np.stack([scores] * 3), labels, patients)
    alone = macro_interval(scores, labels, patients)
    assert [same.low, same.high] == pytest.approx([alone.low, alone.high], abs=1e-9)
    paired = paired_interval(scores, np.stack(seeds), labels, patients)
    assert paired.high < 0


def test_higher_levels_are_wider_and_seeds_repeat():
    arguments = problem()
    narrow, wide = (macro_interval(*arguments, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert narrow == macro_interval(*arguments, level=0.8)
    assert narrow != macro_interval(*arguments, level=0.8, seed=1)


def test_unknown_labels_are_absent_records():
    scores, labels, patients = problem()
    known = np.random.default_rng(2).random(labels.shape) < 0.7
    found = intervals.label_intervals(scores, labels, patients, known, names=NAMES)
    rows = known[:, 0]
    expected = intervals.label_intervals(
        scores[rows, :1], labels[rows, :1], patients[rows], names=NAMES[:1]
    )
    # The other labels calibrate as well, and it is one of two.
    assert found["frequent"].patients == expected["frequent"].patients
    assert found["frequent"].low == pytest.approx(expected["frequent"].low, abs=0.02)


def test_inputs_that_do_not_fit_are_refused():
    scores, labels, patients = problem()
    with pytest.raises(ValueError, match=r"patients \(199,\) of 200 records"):
        macro_interval(scores, labels, patients[1:])
    with pytest.raises(ValueError, match="3 names for labels"):
        intervals.label_intervals(scores, labels, patients, names=NAMES[:3])
    with pytest.raises(ValueError, match="no label has both"):
        macro_interval(scores, np.zeros_like(labels), patients)
    assert not intervals.label_intervals(scores, labels * 0, patients, names=NAMES)


def test_coverage_of_a_small_set_with_rare_labels():
    found = interval_coverage.coverage(
        interval_coverage.SCENARIOS["small"], 40, draws=200, seed=0
    )
    share = {name: np.mean(held) for name, held in found.items()}
    # The usual bootstrap's interval of the mean holds in 70 to 80 % of such samples.
    assert share["macro"] >= 0.9 and share["paired"] >= 0.9
    assert 0.93 <= share["30-99"] <= 0.98 and 0.92 <= share["1-4"] <= 0.98


def test_a_label_that_varies_too_much_makes_up_for_one_that_varies_too_little():
    random = np.random.default_rng(0)
    drawn = 0.8 + 0.01 * random.normal(size=(2000, 2))
    found = drawn.var(axis=0)
    moved = np.array([0.5, -0.5]) * found.min()
    plain = np.quantile(drawn.mean(axis=1), [0.025, 0.975])

    def bounds(wanted):
        interval = intervals._percentiles(drawn, wanted, seed=0, level=0.95)
        return interval.low, interval.high

    np.testing.assert_array_equal(bounds(found + moved - 1e-12), plain)
    low, high = bounds(found + np.abs(moved))
    assert low < plain[0] and high > plain[1]


def test_few_cases_without_an_error_are_no_certainty_of_no_difference():
    random = np.random.default_rng(0)
    labels = np.zeros((200, 1), bool)
    labels[:3] = True
    one, other = (random.normal(size=(200, 1)) + 10 * labels for _ in range(2))
    found = paired_interval(one, other, labels, np.arange(200))
    assert found.low < -0.02 and found.high > 0.02
    # Of scores that rank alike there is none all the same.
    found = paired_interval(one, 2 * one, labels, np.arange(200))
    assert found.high - found.low < 1e-6


def test_a_difference_is_from_minus_one_to_one():
    labels = np.array([[1], [1], [0], [0], [0]], bool)
    one = np.array([[2.0], [0.0], [1.0], [1.5], [0.5]])
    found = paired_interval(one, -one, labels, np.arange(5))
    assert -1 <= found.low <= found.high <= 1


def test_patients_with_most_of_the_records_count_as_few():
    scores, labels, patients = problem()
    many = np.concatenate([np.repeat([0], 300), np.arange(200)])
    found = intervals.label_intervals(
        scores[many], labels[many], patients[many], names=NAMES
    )
    assert found["frequent"].patients == 67 and not found["frequent"].trusted
    alike = intervals.label_intervals(scores, labels, patients, names=NAMES)
    assert alike["frequent"].trusted

import numpy as np

from ecgssl_jax.data import stretches


def test_interpolate_draws_straight_lines():
    ecg = np.array([[np.nan, 0], [1, 1], [np.nan, 2], [3, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(
        stretches.interpolate(ecg), [[1, 0], [1, 1], [2, 2], [3, 2], [3, 2]]
    )


def test_longest_runs_match_a_loop():
    rng = np.random.default_rng(0)
    mask = rng.random((200, 12)) < 0.7
    expected = []
    for column in mask.T:
        words = "".join("x" if value else " " for value in column).split()
        expected.append(max(map(len, words)))
    np.testing.assert_array_equal(stretches.longest_runs(mask), expected)


def test_gap_lengths_match_a_loop():
    rng = np.random.default_rng(1)
    missing = rng.random((200, 5)) < [0, 0.1, 0.5, 0.9, 1]
    expected = np.zeros(missing.shape, int)
    for lead in range(5):
        for time in np.nonzero(missing[:, lead])[0]:
            start = stop = time
            while start > 0 and missing[start - 1, lead]:
                start -= 1
            while stop < 200 and missing[stop, lead]:
                stop += 1
            expected[time, lead] = stop - start
    np.testing.assert_array_equal(stretches.gap_lengths(missing), expected)


def test_present_length_ends_with_the_last_sample_of_any_lead():
    ecg = np.full((10, 3), np.nan)
    assert stretches.present_length(ecg) == 0
    ecg[2, 0] = ecg[6, 2] = 0.0
    assert stretches.present_length(ecg) == 7


def test_quiet_stretches_match_a_loop():
    rng = np.random.default_rng(2)
    ecg = rng.uniform(0, 1, (300, 6)) * (rng.random((300, 6)) < 0.02)
    for window in (7, 20, 100):
        expected = []
        for lead in ecg.T:
            quiet = [np.ptp(lead[k : k + window]) < 0.1 for k in range(301 - window)]
            words = "".join("x" if value else " " for value in quiet).split()
            longest = max(map(len, words), default=0)
            expected.append(longest + window - 1 if longest else 0)
        found = stretches.quiet_stretches(ecg, window, 0.1)
        np.testing.assert_array_equal(found, expected)
    assert stretches.quiet_stretches(ecg, 301, 2.0).tolist() == [0] * 6
    assert stretches.quiet_stretches(ecg, 300, 2.0).tolist() == [300] * 6

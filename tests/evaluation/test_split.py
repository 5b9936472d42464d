import pytest

from ecgssl_jax.evaluation.split import final_split, shown, validation_split
from ecgssl_jax.settings import ConfigError


def test_the_last_training_fold_selects_for_the_validation_folds():
    split = validation_split((1, 2, 5), (9,))
    assert (split.fit, split.select, split.report) == ((1, 2), (5,), (9,))
    assert split.fitted == (1, 2, 5) and split.folds == (1, 2, 5, 9)


def test_the_validation_folds_select_for_the_test_folds_and_nothing_else():
    split = final_split((1, 2, 5), (9,), (10,))
    assert (split.fit, split.select, split.report) == ((1, 2, 5), (9,), (10,))
    assert split.fitted == (1, 2, 5)


@pytest.mark.parametrize(
    ("make", "folds", "message"),
    [
        (
            validation_split,
            ((1, 2), (2,)),
            r"folds \[2\] have two parts: .*report \[2\]",
        ),
        (validation_split, ((1,), (2,)), "at least two"),
        (validation_split, ((1, 2), ()), "no fold to report"),
        (final_split, ((1, 2), (3,), (3,)), r"folds \[3\] have two parts"),
        (final_split, ((1, 2), (3,), (1,)), r"folds \[1\] have two parts"),
    ],
)
def test_folds_that_would_mislead_are_refused(make, folds, message):
    with pytest.raises(ConfigError, match=message):
        make(*folds)


def test_folds_are_shown_as_ranges():
    assert shown((3, 1, 2)) == "1-3"
    assert shown((5, 1)) == "1, 5" and shown((-1,)) == "-1 (none)"

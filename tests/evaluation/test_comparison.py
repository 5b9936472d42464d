import dataclasses
import json
import re

import numpy as np
import pytest

from ecgssl_jax.evaluation import comparison
from ecgssl_jax.evaluation.comparison import Contestant
from ecgssl_jax.evaluation.settings import Evaluation
from ecgssl_jax.evaluation.summary import Key
from ecgssl_jax.settings import ConfigError
from tests.evaluation.evaluated import TRAINED, answer, leave, logits, reported

SPECTRUM = logits(2, seed=7)


def contestants(tmp_path, **given) -> list[Contestant]:
    """Name -> the trained logits of its seeds; all with the same spectrum."""
    found = []
    for name, of_seeds in given.items():
        runs = []
        for seed, values in enumerate(of_seeds):
            random = logits(3, seed=100 * len(found) + seed)
            rows = {"log spectrum": SPECTRUM, "random": random, TRAINED: values}
            folder = leave(tmp_path / f"{name}-{seed}", rows, seed=seed)
            runs.append(comparison.read(folder))
        found.append(Contestant(name=name, runs=runs))
    return found


def test_runs_that_are_named_together_are_seeds_of_one_row(tmp_path):
    values = [logits(1, seed=1), logits(1, seed=2)]
    given = contestants(tmp_path, a=values)
    *_, row = comparison.rows_of(given, comparison.shared_questions(given))
    assert row.encoder == "a" and [seed for seed, _ in row.answers] == [0, 1]
    for (_, found), expected in zip(row.answers, values, strict=True):
        np.testing.assert_array_equal(found.logits, expected)
        assert found.scores["auroc"].value > 0.6


def test_a_baseline_that_all_share_is_one_row_and_others_say_whose_they_are(tmp_path):
    given = contestants(tmp_path, a=[logits(1)], b=[logits(2)])
    rows = comparison.rows_of(given, comparison.shared_questions(given))
    names = [row.encoder for row in rows]
    assert names == ["log spectrum", "random of a", "random of b", "a", "b"]


def test_baselines_that_differ_by_rounding_are_the_same(tmp_path):
    rounded = SPECTRUM + np.float32(1e-5)
    given = []
    for name, spectra in (("a", (SPECTRUM, rounded)), ("b", (rounded, SPECTRUM))):
        folders = [
            leave(
                tmp_path / f"{name}{i}",
                {"log spectrum": x, TRAINED: logits(1, seed=i)},
                seed=i,
            )
            for i, x in enumerate(spectra)
        ]
        given.append(Contestant(name=name, runs=list(map(comparison.read, folders))))
    rows = comparison.rows_of(given, comparison.shared_questions(given))
    # Nor is a baseline that the runs of a row share another seed of it.
    assert [(row.encoder, len(row.answers)) for row in rows] == [
        ("log spectrum", 1),
        ("a", 2),
        ("b", 2),
    ]


@pytest.mark.parametrize(("size", "same"), [(100, True), (1, False)])
def test_rounding_is_judged_by_the_largest_logit(size, same):
    one, other = (
        answer(size * SPECTRUM / np.abs(SPECTRUM).max() + x, reported())
        for x in (0, 0.03)
    )
    assert comparison._are_close(one, other) == same


def test_other_records_are_refused(tmp_path):
    one = leave(tmp_path / "one", {TRAINED: logits(1)})
    asked = reported((5,))
    two = leave(tmp_path / "two", {TRAINED: logits(1, asked=asked)}, asked=asked)
    given = [
        Contestant(name=folder.parent.name, runs=[comparison.read(folder)])
        for folder in (one, two)
    ]
    with pytest.raises(
        ConfigError, match=r"other records \(mine, folds \[5\] and mine, folds \[4\]\)"
    ):
        comparison.shared_questions(given)


def changed(asked, name):
    value = getattr(asked, name)
    if name == "classes":
        return dataclasses.replace(asked, classes=tuple(f"{x}2" for x in value))
    return dataclasses.replace(asked, **{name: (1 - value).astype(value.dtype)})


@pytest.mark.parametrize("what", ["labels", "known", "patient", "classes"])
def test_other_labels_or_patients_are_refused(tmp_path, what):
    asked = reported()
    # Of all that is stored of a task, one thing.
    runs = [
        comparison.read(leave(tmp_path / name, {TRAINED: logits(1)}, asked=each))
        for name, each in (("one", asked), ("two", changed(asked, what)))
    ]
    with pytest.raises(ConfigError, match="was the set prepared again"):
        comparison.shared_questions([Contestant(name="both", runs=runs)])


@pytest.mark.parametrize(
    "more",
    [{"folds": {"report": [4], "fit": [1]}}, {"test_folds_were_read": True}],
    ids=["folds", "test"],
)
def test_other_folds_are_refused(tmp_path, more):
    runs = [
        comparison.read(leave(tmp_path / name, {TRAINED: logits(1)}, **each))
        for name, each in (("one", {}), ("two", more))
    ]
    with pytest.raises(ConfigError, match=rf"other folds \({next(iter(more))}: "):
        comparison.shared_questions([Contestant(name="both", runs=runs)])


def test_a_copy_of_a_run_is_no_seed(tmp_path):
    given = contestants(tmp_path, a=[logits(1), logits(1)])
    with pytest.raises(
        ConfigError, match="a-0.* and .*a-1.* hold the same predictions"
    ):
        comparison.rows_of(given, comparison.shared_questions(given))


def test_other_settings_of_what_is_compared_are_told(tmp_path):
    settings = dataclasses.asdict(Evaluation())
    other = {**settings, "finetuning": {**settings["finetuning"], "steps": 7}}
    other["finetuning"]["folder"] = "elsewhere"
    given = [
        Contestant(
            name=name,
            runs=[
                comparison.read(
                    leave(tmp_path / name, {TRAINED: logits(1)}, settings=each)
                )
            ],
        )
        for name, each in (("a", settings), ("b", other))
    ]

    def notes(protocol):
        cells = {Key(name, protocol, "100 %", "labels"): None for name in "ab"}
        return " ".join(comparison.notes_of(given, cells))  # type: ignore[arg-type]

    assert "settings" not in notes("linear")
    expected = "have other settings of finetuning: steps 7 instead of 1000. What"
    assert expected in notes("two_stage")


@pytest.mark.parametrize(
    ("changed", "protocol", "budget", "text"),
    [
        ({"prompt_languages": ["german"]}, "zero_shot", "0 %", "prompt_languages"),
        ({"seeds": [3, 4]}, "linear", "1 %", r"seeds: seeds \[3, 4\] instead of None"),
        ({"seeds": [3, 4]}, "linear", "100 %", None),
        ({"prompt_languages": ["german"]}, "linear", "1 %", None),
    ],
)
def test_settings_are_told_where_figures_depend_on_them(
    tmp_path, changed, protocol, budget, text
):
    settings = dataclasses.asdict(Evaluation())
    given = []
    for name, each in (("a", settings), ("b", settings | changed)):
        folder = leave(tmp_path / name, {TRAINED: logits(1)}, settings=each)
        given.append(Contestant(name=name, runs=[comparison.read(folder)]))
    cells = {Key(name, protocol, budget, "labels"): None for name in "ab"}
    notes = " ".join(comparison.notes_of(given, cells))  # type: ignore[arg-type]
    if text is None:
        assert "other settings" not in notes
    else:
        assert re.search(f"other settings of {text}", notes)


def test_predictions_of_another_evaluation_are_told(tmp_path):
    folder = leave(tmp_path / "a", {TRAINED: logits(1)}, predictions_sha256="0" * 64)
    with pytest.raises(ConfigError, match="of another evaluation in the same folder"):
        comparison.read(folder)


def test_no_common_task_is_named(tmp_path):
    asked = reported()
    other = dataclasses.replace(asked, name="others")
    runs = [
        comparison.read(leave(tmp_path / name, {TRAINED: logits(1)}, asked=each))
        for name, each in (("one", asked), ("two", other))
    ]
    with pytest.raises(ConfigError, match="no task in common .*one.*labels; .*others"):
        comparison.shared_questions([Contestant(name="both", runs=runs)])


def test_notes_that_hold_for_all_are_said_once(tmp_path):
    given = [
        Contestant(
            name=name,
            runs=[
                comparison.read(leave(tmp_path / name, {TRAINED: logits(1)}, notes=x))
            ],
        )
        for name, x in (("a", ("all", "some")), ("b", ("all",)))
    ]
    asked = set(given[0].runs[0].predictions.logits)
    cells = dict.fromkeys(key._replace(encoder=x) for key in asked for x in "ab")
    assert comparison.notes_of(given, cells) == ["all", "a: some"]
    # Nor is anything left out in silence.
    *_, last = comparison.notes_of(given, {})
    assert last == (
        "b: left out, since not all evaluations have them, of as many seeds: labels, "
        "linear, 100 %."
    )


def test_results_of_another_version_are_explained(tmp_path):
    folder = leave(tmp_path, {TRAINED: logits(1)})
    whole = json.loads((folder / "results.json").read_text())
    # Or predictions of another step, as after a kill between the two files.
    for content in ({}, whole | {"encoder": "pre-trained, step 4"}):
        (folder / "results.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match="not of one version; evaluate the run"):
            comparison.read(folder)


def test_figures_of_other_numbers_of_seeds_make_no_row(tmp_path):
    (given,) = contestants(tmp_path, a=[logits(1, seed=1), logits(1, seed=2)])
    first, second = given.runs
    (key,) = (x for x in second.predictions.logits if x.encoder == TRAINED)
    found = second.predictions.logits[key]
    twice = dataclasses.replace(
        found, seeds=[(1, 0), (1, 1)], values=np.repeat(found.values, 2, axis=0)
    )
    predictions = dataclasses.replace(
        second.predictions, logits={**second.predictions.logits, key: twice}
    )
    runs = [first, dataclasses.replace(second, predictions=predictions)]
    given = [dataclasses.replace(given, runs=runs)]
    with pytest.raises(ConfigError, match="row a have no figure in common"):
        comparison.rows_of(given, comparison.shared_questions(given))


def test_a_row_that_is_called_as_a_baseline_is_refused(tmp_path):
    given = contestants(tmp_path, random=[logits(1)])
    with pytest.raises(ConfigError, match="cannot be called 'random'.*NAME=RUN"):
        comparison.check_names(given)
    comparison.check_names([Contestant(name="a", runs=given[0].runs)])

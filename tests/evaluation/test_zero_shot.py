"""Scores by texts, against NumPy on vectors of tokens."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.data.text import Vocabulary, train_vocabulary
from ecgssl_jax.evaluation.prompts import MissingPromptsError, read_prompts
from ecgssl_jax.evaluation.settings import Evaluation
from ecgssl_jax.evaluation.zero_shot import (
    class_log_odds,
    find_prompts,
    make_zero_shot,
    mean_directions,
)
from ecgssl_jax.methods.base import TextShape
from tests.evaluation.labelled import labelled_set

WORDS = [
    "sinus",
    "rhythm",
    "atrial",
    "fibrillation",
    "left",
    "right",
    "block",
    "vorhofflimmern",
]
STATEMENTS = {
    "NORM": {"diagnostic": 1.0, "diagnostic_class": "NORM"},
    "IMI": {"diagnostic": 1.0, "diagnostic_class": "MI"},
    "AMI": {"diagnostic": 1.0, "diagnostic_class": "MI"},
    "SR": {"rhythm": 1.0},
}


class Method:
    """Texts are the sum of their tokens' vectors, ECGs what they are."""

    text = TextShape(length=12, vocabulary_size=200)

    def embed_ecg(self, params, extra, pooled):
        return pooled

    def embed_text(self, params, batch):
        return (params[batch["text"]] * batch["text_valid"][..., None]).sum(1)

    def temperature(self, params):
        return jnp.float32(0.25)


@pytest.fixture(scope="module")
def encoder():
    model = train_vocabulary(WORDS * 3, 200)
    assert model is not None
    vocabulary = Vocabulary(model=model)
    table = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    return SimpleNamespace(
        method=Method(),
        parameters=(table, None),
        run=SimpleNamespace(vocabulary=vocabulary),
    )


def direction(encoder, *texts) -> np.ndarray:
    """The mean of unit vectors, text by text, of length 1."""
    vocabulary, total = encoder.run.vocabulary, 0
    for text in texts:
        tokens, valid = vocabulary.encode([text], 12)
        vector = encoder.parameters[0][tokens[valid]].sum(0)
        total = total + vector / np.linalg.norm(vector)
    return total / np.linalg.norm(total)


def as_prompts(folder, content):
    file = folder / "prompts.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return read_prompts(file)


def test_a_direction_is_the_mean_of_unit_vectors_whatever_their_lengths():
    texts = np.array([[1, 0], [0, 0.1], [0, 7], [-5, 0], [-1, 0]])
    found = mean_directions(texts, np.array([0, 0, 1, 2, 2]), 3)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[half, half], [0, 1], [-1, 0]], atol=1e-12)


def test_a_class_has_the_probabilities_of_its_labels():
    scores = np.random.default_rng(0).normal(size=(20, 3))
    probability = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    held = np.stack([probability[:, 2], probability[:, :2].sum(axis=1)], axis=1)
    found = class_log_odds(scores, [[2], [0, 1]])
    np.testing.assert_allclose(found, np.log(held / (1 - held)))
    # What all labels share counts for nothing, and large scores do not overflow.
    np.testing.assert_allclose(class_log_odds(scores + 5, [[2], [0, 1]]), found)
    assert np.isfinite(class_log_odds(1e4 * scores, [[2], [0, 1]])).all()


def test_the_only_label_has_its_score():
    scores = np.array([[0.3], [-0.1]])
    np.testing.assert_array_equal(class_log_odds(scores, [[0]]), scores)


def test_logits_are_of_cosines_to_the_prompts_by_the_temperature(
    encoder, tmp_path, capsys
):
    prepared, _ = labelled_set()
    prompts = {
        "a": ["atrial fibrillation", "fibrillation", "vorhofflimmern"],
        "b": ["left block"],
    }
    found = make_zero_shot(encoder, prepared, ["labels"], as_prompts(tmp_path, prompts))
    pooled = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    a, b = (unit @ direction(encoder, *texts) / 0.25 for texts in prompts.values())
    logits = found.logits(pooled, "labels")
    assert logits.dtype == np.float32
    # Of two labels, the log-odds of a softmax are the difference.
    np.testing.assert_allclose(logits, np.stack([a - b, b - a], axis=1), atol=1e-5)
    assert "zero-shot: 4 prompts of 2 labels" in capsys.readouterr().out
    # The other records do not count.
    for row in (0, 299):
        alone = found.logits(pooled[row : row + 1], "labels")
        np.testing.assert_allclose(alone[0], logits[row], atol=1e-6)


def statements_set():
    prepared, _ = labelled_set()
    return dataclasses.replace(
        prepared, labels=tuple(STATEMENTS), label_table=STATEMENTS
    )


def test_classes_of_statements_have_those_of_the_label_table(encoder, tmp_path):
    texts = {"NORM": "sinus", "IMI": "left block", "AMI": "right", "SR": "rhythm"}
    prompts = as_prompts(tmp_path, {name: [text] for name, text in texts.items()})
    tasks = ["superdiagnostic", "rhythm"]
    found = make_zero_shot(encoder, statements_set(), tasks, prompts)
    ecg = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    unit = ecg / np.linalg.norm(ecg, axis=1, keepdims=True)
    cosine = {name: unit @ direction(encoder, text) for name, text in texts.items()}
    share = {name: np.exp(value / 0.25) for name, value in cosine.items()}
    total = sum(share.values())
    infarct = share["IMI"] + share["AMI"]
    held = np.stack([infarct, share["NORM"]], axis=1) / total[:, None]
    logits = found.logits(ecg, tasks[0])
    np.testing.assert_allclose(logits, np.log(held / (1 - held)), atol=1e-5)
    rhythm = found.logits(ecg, tasks[1])[:, 0]
    held = share["SR"] / total
    np.testing.assert_allclose(rhythm, np.log(held / (1 - held)), atol=1e-5)
    # The labels of tasks that are not asked for count as well.
    alone = make_zero_shot(encoder, statements_set(), tasks[:1], prompts)
    np.testing.assert_array_equal(alone.logits(ecg, tasks[0]), logits)


def test_only_the_labels_of_the_tasks_need_prompts(encoder, tmp_path):
    prompts = as_prompts(tmp_path, {"SR": ["sinus rhythm"]})
    make_zero_shot(encoder, statements_set(), ["rhythm"], prompts)
    with pytest.raises(MissingPromptsError, match="for 3 of 4 labels: NORM, IMI, AMI"):
        make_zero_shot(encoder, statements_set(), ["all"], prompts)


def test_what_two_languages_have_in_common_counts_once(encoder, tmp_path):
    one = {"a": ["atrial fibrillation", "left"], "b": ["block"]}
    both = {"english": one, "german": {"a": ["Atrial  fibrillation."], "b": ["Block"]}}
    prepared, _ = labelled_set()
    single, double = (
        make_zero_shot(encoder, prepared, ["labels"], as_prompts(tmp_path, content))
        for content in (one, both)
    )
    np.testing.assert_allclose(single.directions, double.directions, atol=1e-6)


def test_prompts_that_the_vocabulary_does_not_know_are_named(encoder, tmp_path):
    prompts = as_prompts(tmp_path, {"a": ["心房細動"], "b": ["block"]})
    message = "knows nothing of 1 of the 2 prompts of .*, the first '心房細動'"
    with pytest.raises(MissingPromptsError, match=message):
        make_zero_shot(encoder, labelled_set()[0], ["labels"], prompts)


def test_prompts_are_those_of_the_settings_or_of_the_family(tmp_path):
    as_prompts(tmp_path, {"a": ["one"], "b": ["two"]})
    own = Evaluation(prompts=str(tmp_path / "prompts.json"))
    assert find_prompts(statements_set(), own).texts["a"] == ("one",)
    shipped = find_prompts(statements_set(), Evaluation())
    assert set(STATEMENTS) < set(shipped.texts)
    german = find_prompts(statements_set(), Evaluation(prompt_languages=("german",)))
    assert german.languages == ("german",)
    message = "no prompts for the labels of mine; name a JSON"
    with pytest.raises(MissingPromptsError, match=message):
        find_prompts(labelled_set()[0], Evaluation())

"""The package's prompts, and the checks of files of prompts."""

import json
from pathlib import Path

import pytest

from ecgssl_jax.data.reports import canonical_text
from ecgssl_jax.evaluation import ptbxl
from ecgssl_jax.evaluation.prompts import MissingPromptsError, read_prompts
from ecgssl_jax.settings import ConfigError

SHIPPED = Path(ptbxl.__file__).with_name(ptbxl.PROMPTS)
GOLDEN = Path(__file__).parents[1] / "golden" / "ptbxl_tasks.json"


@pytest.mark.parametrize("language", ["english", "german"])
def test_every_statement_of_ptbxl_has_some_texts_in_both_languages(language):
    statements = json.loads(GOLDEN.read_text())["all"]["classes"]
    texts = read_prompts(SHIPPED, [language]).texts
    assert sorted(texts) == sorted(statements) and len(statements) == 71
    assert {len(own) for own in texts.values()} <= {2, 3, 4}


def test_prompts_of_ptbxl_are_canonical_and_each_says_one_statement():
    texts = [text for own in read_prompts(SHIPPED).texts.values() for text in own]
    assert [canonical_text(text) for text in texts] == texts
    assert len(set(texts)) == len(texts) > 400


def write(folder, content) -> Path:
    file = folder / "prompts.json"
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text, encoding="utf-8")
    return file


LANGUAGES = {
    "english": {"a": ["one", "two"], "b": ["three"]},
    "german": {"a": ["eins"]},
}


def test_languages_are_one_ensemble_unless_some_are_named(tmp_path):
    file = write(tmp_path, LANGUAGES)
    found = read_prompts(file)
    assert found.texts == {"a": ("one", "two", "eins"), "b": ("three",)}
    assert found.languages == ("english", "german")
    assert read_prompts(file, ["german"]).texts == {"a": ("eins",)}


def test_a_file_need_not_tell_languages_apart(tmp_path):
    found = read_prompts(write(tmp_path, {"a": ["one"], "b": ["two"]}))
    assert found.texts == {"a": ("one",), "b": ("two",)} and found.languages == ()


def test_labels_without_prompts_are_named(tmp_path):
    found = read_prompts(write(tmp_path, {"AFIB": ["one"], "SR": ["two"]}))
    assert found.of(["SR"]) == {"SR": ("two",)}
    message = "no prompts for 2 of 3 labels: AFIBB, X; did you mean 'AFIB'"
    with pytest.raises(MissingPromptsError, match=message):
        found.of(["AFIBB", "SR", "X"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "prompts cannot be read from .*prompts.json: Expecting"),
        ('{"a": ["one"], "a": ["two"]}', "'a' is there twice"),
        ([], "holds no prompts; expected JSON such as"),
        ({}, "holds no prompts"),
        ({"a": []}, r"a is \[\]; expected a list of one text or more"),
        ({"a": "one"}, "a is 'one'; expected a list"),
        ({"a": ["one", " ?"]}, "a: ' \\?' is no text with a word"),
        ({"a": [1]}, "a: 1 is no text"),
        ({"english": {"a": []}}, "english: a is"),
        ({"english": {"a": ["one"]}, "b": ["two"]}, "english is {'a': "),
    ],
)
def test_files_that_are_no_prompts_are_explained(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        read_prompts(write(tmp_path, content))


def test_a_file_or_language_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nothing.json"):
        read_prompts(tmp_path / "nothing.json")
    file = write(tmp_path, LANGUAGES)
    with pytest.raises(ConfigError, match="no 'germn'; did you mean 'german'"):
        read_prompts(file, ["germn"])
    file = write(tmp_path, {"a": ["one"]})
    with pytest.raises(ConfigError, match="does not tell languages apart"):
        read_prompts(file, ["english"])

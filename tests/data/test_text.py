"""Reports as tokens: the vocabulary, tokens in sets and in batches."""

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from ecgssl_jax.data import text
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.pipeline import Pipeline
from ecgssl_jax.data.prepared import DamagedSetError, open_prepared, write_metadata
from ecgssl_jax.data.reports import canonical_texts
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.settings import ConfigError

REPORTS = [
    "Sinusrhythmus, Linkstyp. Normales EKG.",
    "sinusrhythmus; linkstyp; normales ekg",
    "",
    "Vorhofflimmern mit schneller Überleitung, ST-Senkung in V4 - V6",
    "Normales EKG. Sinusrhythmus. Linkstyp.",
    "  ...  ",
    "Sinusbradykardie",
]


# ---- Vocabulary ----


def _train(texts, size):
    model = text.train_vocabulary(texts, size)
    assert model is not None
    return text.Vocabulary(model=model)


def _pieces(vocabulary):
    """The tokens as they are spelt; U+2581 stands for a space."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    return processor.id_to_piece(list(range(vocabulary.size)))


_TRAIN = """
import sys
from ecgssl_jax.data.text import train_vocabulary
words = "sinus rhythm left axis normal ecg atrial flutter block st".split()
texts = [f"{a} {b} {a}{c}" for a in words for b in words for c in words]
sys.stdout.buffer.write(train_vocabulary(texts[::int(sys.argv[1])], 120))
"""


def test_equal_texts_give_equal_bytes_whatever_their_order_and_the_process():
    def train(step):
        command = [sys.executable, "-c", _TRAIN, str(step)]
        return subprocess.run(command, capture_output=True, check=True).stdout

    model = train(1)
    assert train(-1) == model
    assert text.Vocabulary(model=model).size == 120


def test_a_vocabulary_of_words_that_occur_often_spells_them_in_one_piece():
    texts = ["sinus rhythm"] * 5 + ["sinus arrest"] * 3
    vocabulary = _train(texts, 60)
    tokens, valid = vocabulary.encode(["Sinus rhythm", "arrest."], 6)
    spelt = [[_pieces(vocabulary)[i] for i in row] for row in tokens]
    assert spelt[0][:3] == ["<s>", "\u2581sinus", "\u2581rhythm"]
    assert spelt[1][:2] == ["<s>", "\u2581arrest"]
    assert tokens[0].tolist()[3:] == [0, 0, 0] and tokens[1].tolist()[2:] == [0] * 4
    assert valid.tolist() == [[True] * 3 + [False] * 3, [True] * 2 + [False] * 4]
    assert tokens.dtype == np.int32 and valid.dtype == np.bool_


def test_special_tokens_have_their_numbers():
    vocabulary = _train(["ab ba"], 20)
    assert _pieces(vocabulary)[:3] == ["<pad>", "<unk>", "<s>"]
    assert (text.PAD, text.UNKNOWN, text.BEGIN) == (0, 1, 2)
    tokens, _ = vocabulary.encode(["xyz"], 4)
    assert tokens[0, 0] == text.BEGIN and text.UNKNOWN in tokens[0]


def test_long_texts_are_cut_and_count():
    texts = ["ab " * 9, "ab", "a" * 9000]
    vocabulary = _train(texts, 8)
    whole, _ = vocabulary.encode(texts[:1], 40)
    cut, valid = vocabulary.encode(texts[:1], 5)
    assert (whole[0] != 0).sum() > 5 and valid.all()
    np.testing.assert_array_equal(cut[0], whole[0, :5])


@pytest.mark.parametrize("size", [6, 30, 2000])
@pytest.mark.parametrize(
    "texts",
    [
        ["a"],
        ["normal"],
        ["1"],
        ["心电图 正常"],
        ["नमस्ते"],
        ["a \u2585 \u2581", "\u2585"],
        ["x" * 9000],
        ["", "normal ecg", ""],
    ],
)
def test_small_corpora_have_vocabularies(texts, size):
    vocabulary = _train(canonical_texts(texts), size)
    assert vocabulary.size <= size
    tokens, valid = vocabulary.encode(texts, 16)
    assert tokens.min() >= 0 and tokens.max() < vocabulary.size
    # The corpus's own characters are known, where there is room for all.
    if size == 2000:
        assert (tokens[0] != text.UNKNOWN).all() or "\u2585" in texts[0]
    assert valid[:, 0].tolist() == [any(map(str.isalnum, each)) for each in texts]


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_gives_no_vocabulary(texts):
    assert text.train_vocabulary(texts, 100) is None


def test_more_characters_than_pieces_leave_the_rare_ones_unknown():
    many = [chr(0x4E00 + i) for i in range(500)]
    texts = ["ab ab", *many]
    vocabulary = _train(texts, 50)
    tokens, _ = vocabulary.encode(["ab", many[-1]], 6)
    assert text.UNKNOWN not in tokens[0] and text.UNKNOWN in tokens[1]


def test_a_vocabulary_tells_what_it_knows_nothing_of():
    vocabulary = _train(["sinus rhythm", "qt"] * 5, 40)
    assert vocabulary.knows("Sinus") and vocabulary.knows("\u5fc3 t")
    assert not vocabulary.knows("\u5fc3\u623f \u623f") and not vocabulary.knows(" . ")


def test_a_vocabulary_travels_between_processes():
    vocabulary = _train(["ab ba"], 20)
    expected = vocabulary.encode(["ab"], 4)[0]
    again = pickle.loads(pickle.dumps(vocabulary))
    np.testing.assert_array_equal(again.encode(["ab"], 4)[0], expected)


# ---- Prepared sets ----


@pytest.fixture(scope="module")
def make_set(tmp_path_factory, make_record, make_source):
    """A prepared set of these reports."""

    def make(reports, report=lambda line: None, **settings):
        records = [make_record(i, text=each) for i, each in enumerate(reports)]
        return prepare_dataset(
            make_source(records),
            tmp_path_factory.mktemp("sets") / "set",
            settings=Settings(**settings),
            report=report,
        )

    return make


@pytest.fixture(scope="module")
def prepared(make_set):
    return make_set(REPORTS)


def test_preparing_prints_and_stores_the_figures(make_set):
    lines = []
    prepared = make_set(REPORTS, lines.append, sort_phrases=True, vocabulary_size=60)
    expected = {"num_texts": 5, "num_distinct": 4, "share_repeated": 0.4}
    assert prepared.metadata["texts"] == {**expected, "vocabulary_size": 60}
    assert prepared.metadata["settings"]["sort_phrases"] is True
    assert lines[-1] == (
        "5 of 7 records have a report, 4 distinct; 40.0% of the reports are repeated; "
        "vocabulary of 60 pieces"
    )
    assert text.open_vocabulary(prepared).sort_phrases


def test_the_order_of_phrases_counts_unless_asked_otherwise(prepared):
    assert prepared.metadata["texts"]["num_distinct"] == 4


def test_a_set_prepared_twice_has_the_same_vocabulary(prepared, make_set):
    again = make_set(REPORTS)
    assert text.open_vocabulary(again) == text.open_vocabulary(prepared)
    assert again.metadata["content_hash"] == prepared.metadata["content_hash"]


def test_a_set_without_reports_has_no_vocabulary(make_set):
    lines = []
    prepared = make_set(["", " . "], lines.append)
    assert not (prepared.directory / "vocabulary.model").exists()
    assert prepared.metadata["texts"]["num_texts"] == 0
    assert not any("report" in line for line in lines)
    with pytest.raises(ConfigError, match=r"config\.data: .* none of its"):
        text.open_vocabulary(prepared)


def test_a_set_from_before_vocabularies_opens_and_says_so_when_asked(make_set):
    prepared = make_set(REPORTS)
    metadata = dict(prepared.metadata)
    for key in ("vocabulary_sha256", "texts"):
        del metadata[key]
    (prepared.directory / "vocabulary.model").unlink()
    write_metadata(prepared.directory, metadata)
    old = open_prepared(prepared.directory)
    assert len(old) == len(REPORTS)
    with pytest.raises(ConfigError, match="Prepare it again, with --overwrite"):
        text.open_vocabulary(old)


def test_a_changed_vocabulary_is_damage(make_set):
    prepared = make_set(REPORTS)
    path = prepared.directory / "vocabulary.model"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedSetError, match=r"vocabulary\.model is missing or does"):
        text.open_vocabulary(prepared)
    path.unlink()
    with pytest.raises(DamagedSetError, match=r"vocabulary\.model is missing or does"):
        text.open_vocabulary(open_prepared(prepared.directory))


def test_the_hash_of_the_set_covers_its_vocabulary(prepared):
    content = json.loads((prepared.directory / "metadata.json").read_text())
    changed = {**content, "vocabulary_sha256": "0"}
    assert len(content["vocabulary_sha256"]) == 64
    (prepared.directory / "metadata.json").write_text(json.dumps(changed))
    try:
        with pytest.raises(DamagedSetError, match="was changed"):
            open_prepared(prepared.directory)
    finally:
        (prepared.directory / "metadata.json").write_text(json.dumps(content))


def test_reports_become_tokens_by_their_ids(prepared):
    vocabulary = text.open_vocabulary(prepared)
    reports = [*REPORTS, "linkstyp", "Sinusbradykardie!", ""]
    encoded = text.encode_texts(reports, vocabulary, 24)
    assert encoded.ids.tolist() == [0, 0, -1, 1, 2, -1, 3, 4, 3, -1]
    expected, _ = vocabulary.encode(reports, 24)
    np.testing.assert_array_equal(encoded.tokens[encoded.ids + 1], expected)
    assert encoded.tokens.dtype.itemsize <= 2


# ---- Several sets ----


def test_several_sets_share_a_vocabulary_of_all_their_reports(prepared, make_set):
    other = make_set(["atrial fibrillation", "sinus rhythm", ""])
    silent = make_set(["", "..."])
    shared = text.shared_vocabulary([prepared, silent, other])
    reports = [*REPORTS, "atrial fibrillation", "sinus rhythm"]
    expected = text.train_vocabulary(canonical_texts(reports), 2000)
    assert shared.model == expected
    for own in (prepared, other):
        assert text.open_vocabulary(own).model != shared.model
    assert text.shared_vocabulary([silent, other]) == text.open_vocabulary(other)
    with pytest.raises(ConfigError, match="none of its records has a report"):
        text.shared_vocabulary([silent])


def test_sets_of_different_canonical_forms_are_refused(prepared, make_set):
    other = make_set(["atrial fibrillation"], sort_phrases=True)
    with pytest.raises(ConfigError, match="without, .* with --sort-phrases"):
        text.shared_vocabulary([prepared, other])


def test_a_vocabulary_survives_json(prepared):
    vocabulary = text.open_vocabulary(prepared)
    values = json.loads(json.dumps(vocabulary.as_json()))
    assert text.Vocabulary.from_json(values) == vocabulary


def test_the_share_cut_counts_records_with_a_text(prepared):
    vocabulary = text.open_vocabulary(prepared)
    _, valid = vocabulary.encode(REPORTS, 200)
    lengths = valid.sum(axis=1)
    lengths = lengths[lengths > 0]
    for length in (2, 5, 9, 200):
        encoded = text.encode_texts(REPORTS, vocabulary, length)
        everything = np.arange(len(REPORTS))
        assert encoded.share_cut(everything) == pytest.approx((lengths > length).mean())
    with pytest.raises(ValueError, match="at least 2 tokens, found a length of 1"):
        text.encode_texts(REPORTS, vocabulary, 1)


# ---- Batches ----


def _pipeline(prepared, *, texts=True, **fields):
    vocabulary = text.open_vocabulary(prepared)
    pipeline = Pipeline(
        mixture=Mixture(sets=(prepared,), rows=(np.arange(len(prepared)),)),
        crop=500,
        cache="none",
        masks=None,
        num_patches=1,
        seed=0,
        batch_size=5,
        texts=text.encode_texts(REPORTS, vocabulary, 12) if texts else None,
    )
    return dataclasses.replace(pipeline, **fields)


def test_batches_carry_the_text_of_their_records(prepared):
    expected, valid = text.open_vocabulary(prepared).encode(REPORTS, 12)
    ids = np.array([0, 0, -1, 1, 2, -1, 3])
    for batch in _pipeline(prepared).batches(0, 4):
        record = batch["record"]
        assert batch["text"].dtype == batch["text_ids"].dtype == np.int32
        np.testing.assert_array_equal(batch["text"], expected[record])
        np.testing.assert_array_equal(batch["text_valid"], valid[record])
        np.testing.assert_array_equal(batch["text_ids"], ids[record])


def test_text_leaves_the_rest_of_the_batch_alone(prepared):
    with_text = next(_pipeline(prepared).batches(3, 4))
    without = next(_pipeline(prepared, texts=False).batches(3, 4))
    assert with_text.keys() - without.keys() == {"text", "text_valid", "text_ids"}
    for name, values in without.items():
        np.testing.assert_array_equal(with_text[name], values)


def test_text_is_sliced_and_resumed_with_the_batch(prepared):
    whole = list(_pipeline(prepared).batches(0, 4))[2:]
    parts = list(_pipeline(prepared).batches(2, 4, np.arange(1, 4)))
    for one, part in zip(whole, parts, strict=True):
        for name in ("text", "text_valid", "text_ids"):
            np.testing.assert_array_equal(one[name][1:4], part[name])


@pytest.mark.parametrize("cache", ["host", "device"])
def test_shapes_tell_of_text_whatever_the_cache(prepared, cache):
    pipeline = _pipeline(prepared, cache=cache)
    shapes = pipeline.shapes()
    assert shapes["text"].shape == shapes["text_valid"].shape == (5, 12)
    batch = next(pipeline.batches(0, 1))
    for name in ("text", "text_valid", "text_ids"):
        assert batch[name].dtype == shapes[name].dtype

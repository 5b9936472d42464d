"""Reports as tokens of a sub-word vocabulary.

The vocabulary is trained on the canonical forms (`reports`) of all reports of a set
when the set is prepared and lies beside its records, and in the checkpoints of methods
that read reports. Its pieces are parts of the reports' words, up to whole words: where
reports are confidential, so is the vocabulary.
"""

import base64
import dataclasses
import functools
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ecgssl_jax.data.prepared import VOCABULARY, DamagedSetError, PreparedSet
from ecgssl_jax.data.reports import (
    NO_TEXT,
    canonical_text,
    canonical_texts,
    distinct_texts,
    number_texts,
)
from ecgssl_jax.settings import ConfigError

# Tokens with a meaning of their own; the pieces of the vocabulary follow. Every text
# begins with BEGIN, whose embedding stands for the whole where texts are pooled by it.
PAD, UNKNOWN, BEGIN = 0, 1, 2
# The special tokens, the mark of a word's beginning, one character, and one merge.
SMALLEST_VOCABULARY = 6

# SentencePiece writes these for a space and for an unknown piece, and leaves out of
# its training whole texts that hold them.
_RESERVED = "\u2581\u2585"
_TEXTS_PER_CALL = 65536


# ---- Vocabulary ----


def train_vocabulary(texts: Iterable[str], size: int) -> bytes | None:
    """A vocabulary of byte-pair merges (arXiv 1508.07909), by SentencePiece.

    Merges are decided by whole numbers alone, and the order of the texts does not
    count: equal texts give equal bytes, on any machine.

    Args:
      texts: canonical texts; a text counts as often as it occurs.
      size: of the vocabulary, special tokens included, at most: texts of few
        different words have fewer pieces. Characters get at most half of it, the
        most frequent ones; the others are unknown to the vocabulary.

    Returns:
      SentencePiece's model file, None if there is no text.

    Raises:
      ValueError: a size below `SMALLEST_VOCABULARY`.
    """
    import sentencepiece

    if size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"a vocabulary of {size} pieces holds no text; expected at least "
            f"{SMALLEST_VOCABULARY}"
        )
    texts = _with_frequent_characters(sorted(texts), (size - 4) // 2)
    if not texts:
        return None
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        # Long enough for the compounds of German reports.
        max_sentencepiece_length=32,
        # Longer texts would be left out without a word.
        max_sentence_length=2**30,
        # The texts are normalised already.
        normalization_rule_name="identity",
        pad_id=PAD,
        unk_id=UNKNOWN,
        bos_id=BEGIN,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _with_frequent_characters(texts: Sequence[str], most: int) -> list[str]:
    """What the `most` frequent characters leave of the texts, where that is any."""
    distinct, counts = Counter(texts), Counter()
    for text, count in distinct.items():
        for character, times in Counter(text).items():
            counts[character] += count * times
    for character in (" ", *_RESERVED):
        del counts[character]
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    table = {ord(character): " " for character in (*frequent[most:], *_RESERVED)}
    shortened = {text: text.translate(table).strip() for text in distinct}
    return [shortened[text] for text in texts if shortened[text]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Turns reports into tokens.

    Attributes:
      model: SentencePiece's model file.
      sort_phrases: of the canonical form that it was trained on.
    """

    model: bytes
    sort_phrases: bool = False

    @property
    def size(self) -> int:
        """The number of tokens, special ones included."""
        return self._processor.get_piece_size()

    def encode(
        self, texts: Sequence[str], length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of reports, in any form; the canonical one is made here.

        Args:
          length: S, tokens of a text; what is longer is cut (see `count_tokens`).

        Returns:
          tokens [n, S] int32, BEGIN first and PAD after the last; valid [n, S] bool,
          false for PAD, so for all of a text without words.
        """
        texts = canonical_texts(texts, sort_phrases=self.sort_phrases)
        tokens, _ = self._encode_canonical(texts, length)
        return tokens, tokens != PAD

    def knows(self, text: str) -> bool:
        """Whether a report has anything that the vocabulary holds, but for spaces."""
        text = canonical_text(text, sort_phrases=self.sort_phrases)
        pieces = set(self._processor.encode(text, out_type=int))
        return bool(pieces - {UNKNOWN, self._processor.piece_to_id(_RESERVED[0])})

    def _encode_canonical(
        self, texts: Sequence[str], length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """[n, S] int32 tokens; [n] int32 tokens that each has uncut."""
        tokens = np.full((len(texts), length), PAD, np.int32)
        counts = np.zeros(len(texts), np.int32)
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            part = list(texts[start : start + _TEXTS_PER_CALL])
            pieces = self._processor.encode(part, out_type=int)
            here = np.fromiter(map(len, pieces), np.int32, len(part))
            here = np.where([bool(text) for text in part], here + 1, 0)
            flat = np.concatenate(
                [
                    np.array([BEGIN, *each][: min(count, length)], np.int32)
                    for each, count in zip(pieces, here, strict=True)
                ]
            )
            kept = np.arange(length) < here[:, None]
            tokens[start : start + len(part)][kept] = flat
            counts[start : start + len(part)] = here
        return tokens, counts

    @functools.cached_property
    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    def as_json(self) -> dict[str, Any]:
        """What `from_json` makes a vocabulary of again."""
        model = base64.b64encode(self.model).decode()
        return {"model": model, "sort_phrases": self.sort_phrases}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """A vocabulary that a checkpoint holds."""
        model = base64.b64decode(values["model"])
        return cls(model=model, sort_phrases=values["sort_phrases"])

    def __getstate__(self):
        return {"model": self.model, "sort_phrases": self.sort_phrases}


def open_vocabulary(prepared: PreparedSet) -> Vocabulary:
    """The vocabulary that was trained on the reports of the set.

    Raises:
      ConfigError: the set has no reports, or was prepared without a vocabulary.
      DamagedSetError: its file is missing or was changed.
    """
    expected = prepared.metadata.get("vocabulary_sha256")
    if expected is None:
        old = "texts" not in prepared.metadata and any(prepared.index["text"])
        raise ConfigError(
            f"config.data: {prepared.directory} holds no vocabulary of reports, which the "
            "method asks for: "
            + (
                "it was prepared by an earlier version. Prepare it again, with "
                "--overwrite"
                if old
                else "none of its records has a report with words. Choose another set "
                "or method"
            )
        )
    file = prepared.directory / VOCABULARY
    model = file.read_bytes() if file.exists() else b""
    if hashlib.sha256(model).hexdigest() != expected:
        raise DamagedSetError(
            f"{file} is missing or does not match its hash. Prepare the set again, or "
            "restore this file from a copy."
        )
    sort_phrases = prepared.metadata["settings"]["sort_phrases"]
    return Vocabulary(model=model, sort_phrases=sort_phrases)


def shared_vocabulary(sets: Sequence[PreparedSet]) -> Vocabulary:
    """The vocabulary of a set; of several, one trained on all of their reports.

    Sets without any report count nothing then. Pieces are as many, at most, as the
    largest number that one of the sets was prepared with.

    Raises:
      ConfigError: no set has reports, one was prepared without a vocabulary, or they
        were prepared with different `sort_phrases`.
      DamagedSetError: as `open_vocabulary`.
    """
    with_reports = [prepared for prepared in sets if _has_reports(prepared)]
    vocabularies = [open_vocabulary(each) for each in with_reports or sets[:1]]
    if len(vocabularies) == 1:
        return vocabularies[0]
    if len({each.sort_phrases for each in vocabularies}) > 1:
        told = ", ".join(
            f"{prepared.name} {'with' if each.sort_phrases else 'without'}"
            for prepared, each in zip(with_reports, vocabularies, strict=True)
        )
        raise ConfigError(
            f"config.data.mixture: {told} --sort-phrases; prepare these sets alike"
        )
    sort_phrases = vocabularies[0].sort_phrases
    reports = [report for each in with_reports for report in each.index["text"]]
    model = train_vocabulary(
        canonical_texts(reports, sort_phrases=sort_phrases),
        max(each.metadata["settings"]["vocabulary_size"] for each in with_reports),
    )
    assert model is not None  # Each of them has a vocabulary, so words.
    return Vocabulary(model=model, sort_phrases=sort_phrases)


def _has_reports(prepared: PreparedSet) -> bool:
    if "texts" in prepared.metadata:
        return prepared.metadata["texts"]["num_texts"] > 0
    return any(prepared.index["text"])  # prepared by an earlier version


# ---- Texts of records ----


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """The texts of N records as tokens, each distinct text once.

    Attributes:
      tokens: [U + 1, S] int32 or smaller; row i + 1 is the text of id i, and row 0,
        all PAD, that of a record without text.
      ids: [N] int32, `NO_TEXT` for a record without text.
      num_tokens: [U + 1] int32, tokens of each text before it was cut to S.
    """

    tokens: np.ndarray
    ids: np.ndarray
    num_tokens: np.ndarray

    def share_cut(self, records: np.ndarray) -> float:
        """Of those of the records that have a text, the share whose text was cut."""
        ids = self.ids[records]
        counts = self.num_tokens[ids[ids != NO_TEXT] + 1]
        return float((counts > self.tokens.shape[1]).mean()) if len(counts) else 0.0


def encode_texts(reports: Sequence[str], vocabulary: Vocabulary, length: int) -> Texts:
    """Reports of N records, in any form, as texts of S = `length` tokens.

    Raises:
      ValueError: a length below 2, which leaves no room beside BEGIN.
    """
    if length < 2:
        raise ValueError(f"texts need at least 2 tokens, found a length of {length}")
    distinct, places = distinct_texts(reports)
    texts = canonical_texts(distinct, sort_phrases=vocabulary.sort_phrases)
    different = dict.fromkeys(text for text in texts if text)
    tokens, counts = vocabulary._encode_canonical(["", *different], length)
    return Texts(
        tokens=tokens.astype(np.min_scalar_type(vocabulary.size - 1)),
        ids=number_texts(texts)[places],
        num_tokens=counts,
    )

"""Reports as text: canonical form, identity, a sub-word vocabulary, and tokens.

One string stands for a report wherever its meaning counts, its canonical form:
reports of equal canonical form have equal ids and equal tokens. The vocabulary is
trained on the canonical forms of all reports of a set when the set is prepared and
lies beside its records. Its pieces are parts of the reports' words, up to whole
words: where reports are confidential, so is the vocabulary.
"""

import dataclasses
import functools
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ecgssl_jax.data.prepared import VOCABULARY, DamagedSetError, PreparedSet
from ecgssl_jax.leads import LEADS
from ecgssl_jax.settings import ConfigError

# Tokens with a meaning of their own; the pieces of the vocabulary follow. Every text
# begins with BEGIN, whose embedding stands for the whole where texts are pooled by it.
PAD, UNKNOWN, BEGIN = 0, 1, 2
# The id of a record without a text.
NO_TEXT = -1
# The special tokens, the mark of a word's beginning, one character, and one merge.
SMALLEST_VOCABULARY = 6

# SentencePiece writes these for a space and for an unknown piece, and leaves out of
# its training whole texts that hold them.
_RESERVED = "\u2581\u2585"
_TEXTS_PER_CALL = 65536


# ---- Canonical form ----

_STOPS = {".": ".", "\u3002": ".", ",": ",", "\u3001": ",", ":": ":"}
_STOPS |= dict.fromkeys(";!\n\r\v\f\x85\u2028\u2029", ";")
# Doubt, shares, alternatives and 'and' are part of what a report says.
_KEPT = "?%/&"
# The full stop of 'AV-block I. degree' or '1. degree' ends no phrase.
_ORDINAL = re.compile(r"(?<![\w.,/-])(\d+|[ivx]+|[^\W\d_])\.(?!\d)")
# Between digits these belong to a number or a ratio: 0.12, 0,12, 2:1.
_STOP = re.compile(r"[.,:](?:(?<!\d.)|(?!\d))")
_COMMA = re.compile(r",(?:(?<!\d.)|(?!\d))")
# 'ST- depression', 'V1 - V6' and 'V4 -V6' are written tight; in 'by -0.2' it is a sign.
_LOOSE_JOIN = r"(?<=\w) *{0} +(?=\w)|(?<=\w) +{0}(?=[^\W\d])"
_LOOSE_HYPHEN = re.compile(_LOOSE_JOIN.format("-"))
_LOOSE_SLASH = re.compile(_LOOSE_JOIN.format("/"))
_STRAY_HYPHEN = re.compile(r"-(?:(?<!\w-)(?!\d)|(?<=\w-)(?!\w)|(?<=[^\w\s]-))")
# '..., V5, 6 and aVF' goes on with the leads of the finding before it.
_LEAD = "|".join(name.lower() for name in LEADS)
_CONTINUES = re.compile(rf"\s*(?:(?:and|und|&)\s+)?(?:{_LEAD}|[rlf]|v?\d+)(?!\w)")


def canonical_text(text: str, *, sort_phrases: bool = False) -> str:
    """The report in its canonical form: phrases joined by '; ', '' for no text.

    Compatible characters are one (NFKC), and so are capitals and small letters. A
    phrase ends at a full stop, semicolon, exclamation mark, line end or comma, but
    a comma before a lead or a number goes on with a list: 'T inverted in II, III,
    aVF' is one phrase. Spaces around hyphens and slashes, brackets, quotation marks
    and other punctuation do not count; '?', '%', '&', '/', hyphens and symbols such
    as '+' and '<' do.

    Args:
      sort_phrases: sort the phrases, so that their order does not count either.
    """
    # Folding case can leave characters that are not in normal form.
    text = unicodedata.normalize("NFKC", text).casefold()
    text = unicodedata.normalize("NFKC", text)
    text = "".join(map(_simplify, text))
    text = _ORDINAL.sub(r"\1 ", text)
    text = _STOP.sub(lambda found: {".": ";", ":": " "}.get(found[0], ","), text)
    text = _LOOSE_HYPHEN.sub("-", text)
    text = _STRAY_HYPHEN.sub(" ", text)
    text = _LOOSE_SLASH.sub("/", text)
    phrases = []
    for sentence in text.split(";"):
        phrases += _split_commas(sentence)
    return "; ".join(sorted(phrases) if sort_phrases else phrases)


@functools.cache
def _simplify(character: str) -> str:
    """What a character of normalised text stands for."""
    if character in _STOPS:
        return _STOPS[character]
    category = unicodedata.category(character)
    if category == "Pd" or character == "\u2212":
        return "-"
    if category[0] in "LMNS" or character in _KEPT:
        return character
    # Joiners and other invisible characters stand inside words.
    return "" if category == "Cf" else " "


def _split_commas(sentence: str) -> list[str]:
    """The phrases of a sentence, without those that hold no word."""
    phrases: list[str] = []
    for part in _COMMA.split(sentence):
        continues = bool(phrases) and _CONTINUES.match(part) is not None
        words = " ".join(part.split()).replace(" ?", "?")
        if not any(map(str.isalnum, words)):
            continue
        if continues:
            phrases[-1] += f", {words}"
        else:
            phrases.append(words)
    return phrases


def canonical_texts(texts: Iterable[str], *, sort_phrases: bool = False) -> list[str]:
    """`canonical_text` of each; works out repeated texts once."""
    texts = list(texts)
    known = {text: canonical_text(text, sort_phrases=sort_phrases) for text in {*texts}}
    return [known[text] for text in texts]


def number_texts(*sets: Sequence[str]) -> list[np.ndarray]:
    """Ids of canonical texts: equal exactly for equal ones, in one set or in several.

    Texts are numbered as they first occur, set after set: no hash, so no collision,
    and a set that joins at the end leaves the ids of the others alone.

    Returns:
      for each set, [N] int32 from 0; `NO_TEXT` for an empty text.
    """
    numbers: dict[str, int] = {"": NO_TEXT}
    for texts in sets:
        for text in texts:
            # Without the empty text that is there already.
            numbers.setdefault(text, len(numbers) - 1)
    return [np.array([numbers[text] for text in texts], np.int32) for texts in sets]


def summarise(texts: Sequence[str]) -> dict[str, Any]:
    """Figures of canonical texts, for the metadata of a set.

    Returns:
      num_texts: how many are not empty; num_distinct; share_repeated: of those that
      are not empty, the share whose text another one has too.
    """
    counts = Counter(text for text in texts if text)
    total = counts.total()
    repeated = sum(count for count in counts.values() if count > 1)
    return {
        "num_texts": total,
        "num_distinct": len(counts),
        "share_repeated": repeated / total if total else 0.0,
    }


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
    counts = Counter()
    for text, count in Counter(texts).items():
        for character, times in Counter(text).items():
            counts[character] += count * times
    for character in (" ", *_RESERVED):
        del counts[character]
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    table = {ord(character): " " for character in (*frequent[most:], *_RESERVED)}
    shortened = (text.translate(table).strip() for text in texts)
    return [text for text in shortened if text]


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

    def pieces(self) -> list[str]:
        """The tokens as they are spelt; U+2581 stands for a space."""
        return self._processor.id_to_piece(list(range(self.size)))

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

    def __getstate__(self):
        return {"model": self.model, "sort_phrases": self.sort_phrases}


def open_vocabulary(
    prepared: PreparedSet, *, path: str = "config.data.name"
) -> Vocabulary:
    """The vocabulary that was trained on the reports of the set.

    Args:
      path: the setting that chose the set, for messages.

    Raises:
      ConfigError: the set has no reports, or was prepared without a vocabulary.
      DamagedSetError: its file is missing or was changed.
    """
    expected = prepared.metadata.get("vocabulary_sha256")
    if expected is None:
        old = "texts" not in prepared.metadata and any(prepared.index["text"])
        raise ConfigError(
            f"{path}: {prepared.directory} holds no vocabulary of reports, which the "
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


# ---- Texts of prepared sets ----


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """The texts of a set's N records as tokens, each distinct text once.

    Attributes:
      tokens: [U + 1, S] int32 or smaller; row i + 1 is the text of id i, and row 0,
        all PAD, that of a record without text. Sets that were encoded together share
        the table.
      ids: [N] int32, `NO_TEXT` for a record without text.
      num_tokens: [U + 1] int32, tokens of each text before it was cut to S.
    """

    tokens: np.ndarray
    ids: np.ndarray
    num_tokens: np.ndarray

    @property
    def share_cut(self) -> float:
        """Of the records with a text, the share whose text was cut."""
        counts = self.num_tokens[self.ids[self.ids != NO_TEXT] + 1]
        return float((counts > self.tokens.shape[1]).mean()) if len(counts) else 0.0


def encode_sets(
    sets: Sequence[PreparedSet], vocabulary: Vocabulary, length: int
) -> list[Texts]:
    """The texts of several sets in the tokens of one vocabulary, S = `length`.

    Ids are equal exactly for equal canonical texts, whichever set they are in.

    Raises:
      ValueError: a length below 2, which leaves no room beside BEGIN.
    """
    if length < 2:
        raise ValueError(f"texts need at least 2 tokens, found a length of {length}")
    texts = [
        canonical_texts(prepared.index["text"], sort_phrases=vocabulary.sort_phrases)
        for prepared in sets
    ]
    ids = number_texts(*texts)
    distinct = dict.fromkeys(text for each in texts for text in each if text)
    tokens, counts = vocabulary._encode_canonical(["", *distinct], length)
    tokens = tokens.astype(np.min_scalar_type(vocabulary.size - 1))
    return [Texts(tokens=tokens, ids=each, num_tokens=counts) for each in ids]

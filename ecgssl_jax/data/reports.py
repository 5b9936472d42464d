"""Reports in their canonical form, and which of them are the same.

One string stands for a report wherever its meaning counts, its canonical form:
reports of equal canonical form have equal ids and equal tokens.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ecgssl_jax.leads import LEADS

# The id of a record without a text.
NO_TEXT = -1

_STOPS = {".": ".", "\u3002": ".", ",": ",", "\u3001": ",", ":": ":"}
_STOPS |= dict.fromkeys(";!\n\r\v\f\x85\u2028\u2029", ";")
# Doubt, shares, alternatives and 'and' are part of what a report says.
_KEPT = "?%\u2030/&'"
# 'qR' is not 'Qr': capitals stand for large waves.
_WAVES = re.compile(r"(?<!\w)(?=[qrs]*[QRS])(?=[QRS]*[qrs])[qrsQRS]{2,}(?!\w)")
# An apostrophe is kept after waves, RSR', and else taken for a quotation mark.
_APOSTROPHE = re.compile(r"['\u2018\u2019\u2032\u00b4`]")
_WAVE_PRIMES = re.compile(r"(?<!\w)([qrsQRS]+)'+")
# NFKC would make 103 of 10\u00b3.
_SUPERSCRIPT = re.compile(r"(?<=\w)([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)")
# 'ischemia (-)' denies it, and so may 'ischemia -' at the end of a phrase.
_DENIED = "\ue000"
_IN_BRACKETS = re.compile(r"\(\s*-\s*\)")
_AT_THE_END = re.compile(r"(?<=\w) +-(?=\s*(?:[.,;]|$))")
# .2 is 0.2, but not in 'axis.2 weeks'.
_NO_ZERO = re.compile(r"(?<![\w.])\.(?=\d)")
# The full stop of 'AV-block I. degree', '1. Grad' or 'n. spez.' ends no phrase.
_ORDINAL = re.compile(
    r"(?<![\w.,/-])(?:(\d+|[ivx]+)\.(?=\s*(?:degree|grad|order|ordnung|\u00b0))"
    r"|((?![ivx]\.)[^\W\d_])\.(?!\d))"
)
# Between digits these belong to a number or a ratio: 0.12, 0,12, 2:1.
_STOP = re.compile(r"[.,:](?:(?<!\d.)|(?!\d))")
_COMMA = re.compile(r",(?:(?<!\d.)|(?!\d))")
# 'ST- depression', 'V1 - V6' and 'V4 -V6' are written tight; in 'by -0.2' it is a sign.
_LOOSE_JOIN = r"(?<=\w) *{0} +(?=\w)|(?<=\w) +{0}(?=[^\W\d])"
_LOOSE_HYPHEN = re.compile(_LOOSE_JOIN.format("-"))
_LOOSE_SLASH = re.compile(_LOOSE_JOIN.format("/"))
# Not that of '+-', a wave of two directions.
_STRAY_HYPHEN = re.compile(
    r"(?<!\+)-(?!\+)(?:(?<!\w-)(?!\d)|(?<=\w-)(?!\w)|(?<=[^\w\s]-))"
)
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

    What may deny or doubt a finding is kept: '(-)', '?', signs of numbers. Letters of
    waves keep their case and primes: qR, RSR'.

    Args:
      sort_phrases: sort the sentences, so that their order does not count either. What
        follows a comma stays with what it says something of.
    """
    text = _SUPERSCRIPT.sub(r"^\1", text)
    text = _fold_case(unicodedata.normalize("NFKC", text))
    text = _keep_primes(_APOSTROPHE.sub("'", text))
    text = "".join(map(_simplify, _IN_BRACKETS.sub(_DENIED, text)))
    text = _NO_ZERO.sub("0.", text)
    text = _ORDINAL.sub(r"\1\2 ", text)
    text = _STOP.sub(lambda found: {".": ";", ":": " "}.get(found[0], ","), text)
    text = _AT_THE_END.sub(f" {_DENIED}", text)
    text = _LOOSE_HYPHEN.sub("-", text)
    text = _STRAY_HYPHEN.sub(" ", text)
    text = _LOOSE_SLASH.sub("/", text)
    sentences: list[list[str]] = []
    for sentence in text.split(";"):
        phrases = _split_commas(sentence)
        if phrases:
            sentences.append(phrases)
        elif "?" in sentence and sentences and not sentences[-1][-1].endswith("?"):
            sentences[-1][-1] += "?"
    if sort_phrases:
        joined = "; ".join(sorted(map(", ".join, sentences)))
    else:
        joined = "; ".join(phrase for phrases in sentences for phrase in phrases)
    return joined.replace(_DENIED, "(-)")


def _fold_case(text: str) -> str:
    """Small letters, but for the letters of waves."""
    folded, end = [], 0
    for found in _WAVES.finditer(text):
        folded += [text[end : found.start()].casefold(), found[0]]
        end = found.end()
    # Folding case can leave characters that are not in normal form.
    return unicodedata.normalize("NFKC", "".join([*folded, text[end:].casefold()]))


def _keep_primes(text: str) -> str:
    """Drops the apostrophes that are no primes of waves."""
    kept, end = [], 0
    for found in _WAVE_PRIMES.finditer(text):
        kept += [text[end : found.start()].replace("'", " "), found[0]]
        end = found.end()
    return "".join([*kept, text[end:].replace("'", " ")])


@functools.cache
def _simplify(character: str) -> str:
    """What a character of normalised text stands for."""
    if character == _DENIED:
        return f" {character} "
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
        # '? infarct' asks for what follows, 'infarct ?' for what precedes.
        words = re.sub(r" \?$", "?", " ".join(part.split()))
        if not any(map(str.isalnum, words)):
            if "?" in words and phrases and not phrases[-1].endswith("?"):
                phrases[-1] += "?"
            continue
        if continues:
            phrases[-1] += f", {words}"
        else:
            phrases.append(words)
    return phrases


def canonical_texts(texts: Iterable[str], *, sort_phrases: bool = False) -> list[str]:
    """`canonical_text` of each; works out repeated texts once."""
    distinct, places = distinct_texts(texts)
    known = [canonical_text(text, sort_phrases=sort_phrases) for text in distinct]
    return [known[place] for place in places.tolist()]


def distinct_texts(texts: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Each of N texts once, in the order in which they first occur.

    Returns:
      the distinct texts, and for each of the N its place among them, [N] int32.
    """
    numbers: dict[str, int] = {}
    # One look-up for each text: archives have millions, and few distinct ones.
    places = (numbers.setdefault(text, len(numbers)) for text in texts)
    places = np.fromiter(places, np.int32)
    return list(numbers), places


def number_texts(texts: Sequence[str]) -> np.ndarray:
    """Ids of canonical texts, equal exactly for equal ones: [N] int32 from 0.

    Texts are numbered as they first occur: no hash, so no collision. `NO_TEXT` stands
    for an empty text.
    """
    distinct, places = distinct_texts(texts)
    is_text = np.array([text != "" for text in distinct], bool)
    numbers = np.where(is_text, np.cumsum(is_text) - 1, NO_TEXT).astype(np.int32)
    return numbers[places]


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

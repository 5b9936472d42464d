"""Classes recognised by texts that say them, without any label.

Radford et al., arXiv 2103.00020, section 3.1: a label's probability is a softmax over the
ECG's cosine similarities to the texts of all labels, of which each has several (section
3.1.4). So what brings an ECG nearer to all texts, as its device or the reports' language
may, counts for nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from scipy.special import logsumexp

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.data.text import Vocabulary, encode_texts
from ecgssl_jax.evaluation.joint_embedding import (
    Embedding,
    ecg_embedding,
    text_embedding,
    unit,
)
from ecgssl_jax.evaluation.labels import parts_of, shipped_prompts
from ecgssl_jax.evaluation.prompts import MissingPromptsError, Prompts, read_prompts
from ecgssl_jax.evaluation.settings import Evaluation
from ecgssl_jax.methods.base import TextMethod
from ecgssl_jax.runs import FrozenEncoder
from ecgssl_jax.settings import ConfigError

# Of each class, the places of its labels; a class holds where one of them does.
Parts = Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShot:
    """What scores the classes of tasks.

    Attributes:
      embed: pooled features -> their places in the common space.
      directions: [L, D] float64, unit vectors, the labels' texts.
      parts: task -> of each of its classes, the places of its labels among the L.
      temperature: of the similarities.
    """

    embed: Embedding
    directions: np.ndarray
    parts: Mapping[str, Parts]
    temperature: float

    def logits(self, pooled: np.ndarray, task: str) -> np.ndarray:
        """Of pooled features [n, D']: [n, Y] float32, the classes of the task.

        Raises:
          ConfigError: an embedding that is not finite.
        """
        similarities = unit(self.embed(pooled)) @ self.directions.T
        found = class_log_odds(similarities / self.temperature, self.parts[task])
        return found.astype(np.float32)


def class_log_odds(scores: np.ndarray, parts: Parts) -> np.ndarray:
    """[n, Y] float64, of classes whose labels have the scores [n, L] in a softmax.

    Args:
      parts: of each class its labels, whose probabilities add up; not all of them. The
        only label that there is has its score.
    """
    if scores.shape[1] == 1:
        return np.repeat(scores, len(parts), axis=1)
    found = []
    for part in parts:
        own = np.isin(np.arange(scores.shape[1]), list(part))
        held, not_held = (
            np.asarray(logsumexp(scores[:, columns], axis=1)) for columns in (own, ~own)
        )
        found.append(held - not_held)
    return np.stack(found, axis=1)


def mean_directions(texts: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """[L, D] float64: the mean of each label's unit vectors, of length 1 again.

    Args:
      texts: [K, D], embeddings.
      owner: [K] int, whose they are: 0 to `count` - 1 = L - 1, each at least once.
    """
    texts = unit(texts)
    return unit(np.stack([texts[owner == i].mean(axis=0) for i in range(count)]))


def wanted_zero_shot(
    encoder: FrozenEncoder,
    prepared: PreparedSet,
    tasks: Sequence[str],
    settings: Evaluation,
) -> ZeroShot | None:
    """For these tasks, if the method learns from reports.

    None where prompts lack and none were asked for, with a line that says so.

    Raises:
      ConfigError: what was asked for cannot be had.
    """
    named = settings.prompts is not None or settings.prompt_languages
    wanted = "zero_shot" in settings.protocols or named
    if encoder.method.text is None and wanted:
        raise ConfigError(
            f"config.protocols: {encoder.run.experiment.method['name']} does not learn "
            "from reports; leave 'zero_shot' and the prompts out"
        )
    if encoder.method.text is None or not tasks:
        return None
    try:
        prompts = find_prompts(prepared, settings)
        return make_zero_shot(encoder, prepared, tasks, prompts)
    except MissingPromptsError as error:
        if wanted:
            raise
        print(f"zero-shot is left out: {error}", flush=True)
        return None


def find_prompts(prepared: PreparedSet, settings: Evaluation) -> Prompts:
    """The prompts of the settings, or those that the package has for such a set.

    Raises:
      ConfigError: as `read_prompts`.
      MissingPromptsError: none named, and the package has none.
    """
    file = shipped_prompts(prepared)
    if settings.prompts is not None:
        file = Path(settings.prompts)
    if file is None:
        raise MissingPromptsError(
            f"there are no prompts for the labels of {prepared.name}; name a JSON file, "
            "label -> texts, with --config.prompts"
        )
    return read_prompts(file, settings.prompt_languages)


def make_zero_shot(
    encoder: FrozenEncoder,
    prepared: PreparedSet,
    tasks: Sequence[str],
    prompts: Prompts,
) -> ZeroShot:
    """For these tasks of the set, with a line on the prompts.

    Args:
      encoder: of a method that learns from reports.

    Raises:
      MissingPromptsError: a label without prompts, or a prompt of which the
        checkpoint's vocabulary knows nothing.
      ConfigError: an embedding that is not finite.
    """
    parts = {task: list(parts_of(prepared, task).values()) for task in tasks}
    needed = {place for classes in parts.values() for part in classes for place in part}
    # Those that no task asks for count as well: so a score does not depend on the tasks.
    known = {i for i, label in enumerate(prepared.labels) if label in prompts.texts}
    used = sorted(needed | known)
    texts = prompts.of([prepared.labels[place] for place in used])
    tokens, owner = _tokens(encoder, texts, prompts)
    method = cast(TextMethod, encoder.method)
    return ZeroShot(
        embed=ecg_embedding(encoder),
        directions=mean_directions(text_embedding(encoder)(tokens), owner, len(used)),
        parts={
            task: [np.searchsorted(used, part).tolist() for part in classes]
            for task, classes in parts.items()
        },
        temperature=float(method.temperature(encoder.parameters[0])),
    )


def _tokens(
    encoder: FrozenEncoder, texts: Mapping[str, Sequence[str]], prompts: Prompts
) -> tuple[np.ndarray, np.ndarray]:
    """[K, S] int32, each label's different texts; [K] int, the label's number."""
    vocabulary, shape = cast(Vocabulary, encoder.run.vocabulary), encoder.method.text
    assert shape is not None
    flat = [text for own in texts.values() for text in own]
    unknown = [text for text in flat if not vocabulary.knows(text)]
    if unknown:
        raise MissingPromptsError(
            f"the vocabulary of the checkpoint knows nothing of {len(unknown)} of the "
            f"{len(flat)} prompts of {prompts.file}, the first {unknown[0]!r}; give them "
            "in the language of its reports"
        )
    encoded = encode_texts(flat, vocabulary, shape.length)
    owner = np.repeat(np.arange(len(texts)), [len(own) for own in texts.values()])
    # What a label has in two languages, or twice, counts once.
    owner, ids = np.unique(np.stack([owner, encoded.ids]), axis=1)
    line = f"zero-shot: {len(owner)} prompts of {len(texts)} labels"
    if prompts.languages:
        line += f", {' and '.join(prompts.languages)}"
    cut = encoded.share_cut(np.arange(len(flat)))
    if cut:
        line += f"; {cut:.1%} are cut to {shape.length} tokens"
    print(line, flush=True)
    return encoded.tokens[ids + 1].astype(np.int32), owner

"""Texts that say what a label means, for an ECG to be compared with.

A file of prompts is JSON: label -> texts, or language -> label -> texts. Those that the
package has, of a family's labels, lie beside this file.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.data.reports import canonical_text
from ecgssl_jax.settings import ConfigError, near


class MissingPromptsError(ConfigError):
    """Labels without a text that says what they mean."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """The texts of a file.

    Attributes:
      file: where they are from.
      languages: those that were taken; none where the file knows of none.
      texts: label -> its texts, of all these languages.
    """

    file: Path
    languages: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]]

    def of(self, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The texts of these labels; raises MissingPromptsError where one has none."""
        missing = [label for label in labels if label not in self.texts]
        if missing:
            unknown = [name for name in self.texts if name not in labels]
            hint = near(missing[0], unknown) if unknown else ""
            raise MissingPromptsError(
                f"{self.file} has no prompts for {len(missing)} of {len(labels)} labels: "
                f"{', '.join(missing)}{hint}"
            )
        return {label: self.texts[label] for label in labels}


def read_prompts(file: Path, languages: Sequence[str] = ()) -> Prompts:
    """The prompts of a file, checked.

    Args:
      languages: to take, in this order; none for all.

    Raises:
      ConfigError: a file that cannot be read or is no such JSON, a language that it
        lacks, a label without texts, or a text without words.
    """
    content = _read(file)
    if not all(isinstance(value, Mapping) for value in content.values()):
        if languages:
            raise ConfigError(
                f"config.prompt_languages: {file} does not tell languages apart; it would "
                "as language -> label -> texts"
            )
        _check(content, str(file))
        texts = {label: tuple(own) for label, own in content.items()}
        return Prompts(file=file, languages=(), texts=texts)
    for language in languages:
        if language not in content:
            raise ConfigError(
                f"config.prompt_languages: {file} has no {language!r}"
                f"{near(language, list(content))}"
            )
    texts: dict[str, tuple[str, ...]] = {}
    languages = tuple(languages or content)
    for language in languages:
        _check(content[language], f"{file}: {language}")
        for label, own in content[language].items():
            texts[label] = (*texts.get(label, ()), *own)
    return Prompts(file=file, languages=languages, texts=texts)


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except (OSError, ValueError) as error:
        raise ConfigError(f"prompts cannot be read from {file}: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(
            f"{file} holds no prompts; expected JSON such as "
            '{"AFIB": ["atrial fibrillation"]}'
        )
    return content


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """JSON would keep the last one alone."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is there twice")
        found[key] = value
    return found


def _check(content: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError unless each label has texts, all of them with words."""
    for label, texts in content.items():
        if not isinstance(texts, list) or not texts:
            raise ConfigError(
                f"{where}: {label} is {texts!r}; expected a list of one text or more"
            )
        for text in texts:
            if not isinstance(text, str) or not canonical_text(text):
                raise ConfigError(f"{where}: {label}: {text!r} is no text with a word")

"""One job on one machine, on a SLURM cluster, or on a pod."""

from collections.abc import Sequence


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """-> the launcher's own words, and those after two dashes, which go to the program."""
    found = list(words)
    if "--" not in found:
        return found, []
    place = found.index("--")
    return found[:place], found[place + 1 :]

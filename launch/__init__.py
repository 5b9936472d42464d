"""One job on one machine, on a SLURM cluster, or on a pod."""

from collections.abc import Sequence


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """-> the launcher's own words, and those after two dashes, which go to the program."""
    found = list(words)
    if "--" not in found:
        return found, []
    place = found.index("--")
    return found[:place], found[place + 1 :]


def pairs(values: Sequence[str], flag: str, program: str) -> dict[str, str]:
    """['KEY=VALUE'] -> {KEY: VALUE}; raises SystemExit for what is none."""
    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise SystemExit(f"{program}: {flag}={value}: expected KEY=VALUE")
        found[key] = text
    return found

"""One job on one machine, on a SLURM cluster, or on a pod."""

import argparse
import sys
from collections.abc import Sequence


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """-> the launcher's own settings, and what stands after two dashes, for the program.

    Args:
      argv: None for the command line.
    """
    parser.add_argument(
        "--module",
        default="ecgssl_jax.main",
        help="what is run: ecgssl_jax.main, the default, or ecgssl_jax.benchmark",
    )
    parser.add_argument("--dry-run", action="store_true", help="print it only")
    words = list(sys.argv[1:] if argv is None else argv)
    place = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:place])
    rest = words[place + 1 :]
    if not rest:
        parser.error("what it is told follows two dashes: -- --config=configs/jepa.py")
    return args, rest


def positive(text: str) -> int:
    """An argument's number from 1 on."""
    if not text.isdecimal() or (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return number


def not_negative(text: str) -> int:
    """An argument's number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text}")
    return int(text)


def pairs(values: Sequence[str], flag: str, program: str) -> dict[str, str]:
    """['KEY=VALUE'] -> {KEY: VALUE}; raises SystemExit for what is none."""
    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise SystemExit(f"{program}: {flag}={value}: expected KEY=VALUE")
        found[key] = text
    return found

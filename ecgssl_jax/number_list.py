"""Lists of numbers on the command line: folds, seeds."""

import argparse


def numbers(text: str) -> tuple[int, ...]:
    """'1-3,7' -> (1, 2, 3, 7); a type for argparse."""
    found: list[int] = []
    try:
        for part in filter(None, map(str.strip, text.split(","))):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers such as 9 or 1-8 or 1,3"
        ) from None
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} holds no number")
    return tuple(found)

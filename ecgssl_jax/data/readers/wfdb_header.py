"""WFDB's header files (`.hea`): header(5) of the WFDB Applications Guide."""

import dataclasses
import math
import re
from pathlib import Path

from ecgssl_jax.data.record import RecordError

_GAIN = re.compile(r"^([^(/]+)(?:\(([^)]*)\))?(?:/(.+))?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signal:
    """One signal line of a header; the physical value is (x - baseline) / gain.

    `gain` is zero where the header does not say it.
    """

    file: str
    format: str
    gain: float
    baseline: int
    unit: str
    checksum: int | None
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """A header file.

    Attributes:
      path: of the file.
      rate: Hz.
      length: samples per signal, None where the header does not say.
      signals: none for a record of several segments.
      comments: the lines after "#".
      segments: names of the records of which this one consists, if so.
    """

    path: Path
    rate: float
    length: int | None
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]
    segments: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Parses a header file. Raises RecordError if it is missing or malformed."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError) as error:  # ValueError: a name that none can have
        raise RecordError(f"{path}: cannot be read ({error})") from error
    comments = tuple(x[1:].strip() for x in lines if x.startswith("#"))
    lines = [x for x in lines if x.strip() and not x.startswith("#")]
    try:
        first = lines[0].split()
        is_divided = "/" in first[0]
        count = int(first[1])
        # "360/1000(5)": the counter frequency after the slash is not the rate.
        rate = float(re.split(r"[/(]", first[2])[0])
        length = int(first[3]) if len(first) > 3 else None
        described = lines[1 : 1 + count]
        signals = () if is_divided else tuple(map(_parse_signal, described))
        # "~" is a gap, and a segment of length 0 describes the layout only.
        parts = [line.split()[0] for line in lines[1:]] if is_divided else []
    except (IndexError, ValueError) as error:
        raise RecordError(f"{path}: malformed WFDB header ({error})") from error
    if not is_divided and len(signals) != count:
        raise RecordError(
            f"{path}: announces {count} signals but describes {len(signals)}"
        )
    if not 0 < rate < math.inf:
        raise RecordError(f"{path}: sampling rate {rate:g} Hz")
    return Header(
        path=path,
        rate=rate,
        length=length or None,
        signals=signals,
        comments=comments,
        segments=tuple(part for part in parts if part != "~"),
    )


def _parse_signal(line: str) -> Signal:
    fields = line.split(maxsplit=8)
    if "/" in fields[0]:
        raise ValueError(f"signal file {fields[0]!r} is not beside its header")
    gain, baseline, unit = 0.0, None, "mV"
    if len(fields) > 2:
        match = _GAIN.match(fields[2])
        if match is None:
            raise ValueError(f"gain {fields[2]!r}")
        gain = float(match[1])
        if not math.isfinite(gain):
            raise ValueError(f"gain {fields[2]!r}")
        baseline = int(match[2]) if match[2] else None
        unit = match[3] or "mV"
    adc_zero = int(fields[4]) if len(fields) > 4 else 0
    return Signal(
        file=fields[0],
        format=fields[1],
        gain=gain,
        baseline=adc_zero if baseline is None else baseline,
        unit=unit,
        checksum=int(fields[6]) if len(fields) > 6 else None,
        name=fields[8] if len(fields) > 8 else "",
    )

"""WFDB records: PhysioNet's header (`.hea`) and signal files.

Most archives store all leads of a record interleaved in one file of 16-bit
samples ("format 16"), which is read here directly: some fifty times as fast as
through the `wfdb` package, and with the header's checksums verified. Every
other layout goes through `wfdb`. Format: header(5) and signal(5) of the WFDB
Applications Guide.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ecgssl_jax.data.readers.source import Reading, Source, SourceError, split
from ecgssl_jax.data.readers.units import millivolts_per_unit
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.leads import lead_columns

_DEFAULT_GAIN = 200.0  # header(5): where the gain is zero or absent
_MISSING_16 = -32768  # signal(5): an invalid sample of format 16
# Comments such as "Age: 63" and "<sex>: F" that are facts rather than text.
_FACT = re.compile(r"^<?(age|sex|gender)>?\s*:\s*(.*)$", re.IGNORECASE)
_HEADING = re.compile(r"^<[^>]*>\s*:?\s*$")
_GAIN = re.compile(r"^([^(/]+)(?:\(([^)]*)\))?(?:/(.+))?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signal:
    """One signal line of a header; the physical value is (x - baseline) / gain."""

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


def wfdb_source(root: str | Path, *, label_comment: str = "") -> Source:
    """All WFDB records below `root`, by the path of their header.

    These are the headers found there and the names in a file RECORDS, so that a
    record that should be there but is not becomes a finding. Records that are
    segments of another are read as a part of that one.

    Args:
      root: the folder.
      label_comment: a header comment with the record's labels, separated by
        commas: "Dx" for "# Dx: 426783006,59118001". Without it there are none.

    Raises:
      SourceError: no records, or no record with such a comment.
    """
    root = Path(root)
    names = {path.relative_to(root).as_posix()[:-4] for path in root.rglob("*.hea")}
    if (root / "RECORDS").exists():
        lines = (root / "RECORDS").read_text(encoding="utf-8").splitlines()
        # Entries that end in a slash are folders with a RECORDS of their own.
        names |= {x.strip() for x in lines if x.strip() and not x.strip().endswith("/")}
    if not names:
        raise SourceError(f"{root} holds no WFDB records: no file *.hea, no RECORDS")
    headers, segments = {}, set()
    for name in names:
        try:
            header = read_header(root / f"{name}.hea")
        except RecordError:
            continue  # reported when the record is read
        headers[name] = header
        folder = name.rpartition("/")[0]
        segments |= {f"{folder}/{x}" if folder else x for x in header.segments}
    chosen = sorted(names - segments)
    labels = set()
    for name in chosen:
        if label_comment and name in headers:
            labels |= set(_labels(headers[name], label_comment))
    if label_comment and not labels:
        raise SourceError(
            f"no header below {root} has a comment '{label_comment}: ...' with labels"
        )
    rates = {headers[name].rate for name in chosen if name in headers}
    return Source(
        description=f"WFDB records in {root.name}, {len(chosen)} records",
        tasks=[
            functools.partial(_read_names, root, label_comment, sorted(labels), part)
            for part in split(chosen)
        ],
        num_records=len(chosen),
        rates=tuple(sorted(rates)),
        labels=tuple(sorted(labels)),
    )


def _read_names(
    root: Path, label_comment: str, labels: Sequence[str], names: Sequence[str]
) -> Iterator[Reading]:
    for name in names:
        try:
            header = read_header(root / f"{name}.hea")
            text, attributes = _split_comments(header.comments, label_comment)
            own = set(_labels(header, label_comment)) if label_comment else set()
            yield (
                name,
                read_wfdb(
                    root / name,
                    id=name,
                    text=text,
                    attributes=attributes,
                    # Without the comment, nothing is known about any label.
                    labels={x: float(x in own) for x in labels} if own else {},
                ),
            )
        except RecordError as error:
            yield name, error


def _labels(header: Header, key: str) -> list[str]:
    for comment in header.comments:
        name, _, value = comment.partition(":")
        if name.strip().lower() == key.lower():
            return [x.strip() for x in value.split(",") if x.strip()]
    return []


def _split_comments(
    comments: Sequence[str], label_comment: str
) -> tuple[str, dict[str, str]]:
    """The text of a header's comments, and the facts among them."""
    lines, facts = [], {}
    for comment in comments:
        fact = _FACT.match(comment)
        if fact:
            facts[fact[1].lower()] = fact[2].strip()
        elif label_comment and comment.partition(":")[0].strip().lower() == (
            label_comment.lower()
        ):
            continue
        elif comment and not _HEADING.match(comment):
            lines.append(comment)
    return "\n".join(lines), facts


def read_header(path: Path) -> Header:
    """Parses a header file. Raises RecordError if it is missing or malformed."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
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
    if not rate > 0:
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
    gain, baseline, unit = _DEFAULT_GAIN, None, "mV"
    if len(fields) > 2:
        match = _GAIN.match(fields[2])
        if match is None:
            raise ValueError(f"gain {fields[2]!r}")
        gain = float(match[1]) or _DEFAULT_GAIN
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


def read_wfdb(path: Path, *, id: str, **fields) -> Record:
    """The record whose header is `path` + ".hea".

    Signals that are none of the twelve leads are left out; `fields` are further
    fields of the Record.

    Raises:
      RecordError: files missing, truncated, contradicting their header or its
        checksums, an unknown unit, or no lead among the signals.
    """
    header = read_header(path.with_name(path.name + ".hea"))
    simple = header.signals and all(
        s.format == "16" and s.file == header.signals[0].file for s in header.signals
    )
    if not simple or header.length is None:
        return _read_with_wfdb(path, id, fields)
    names = [signal.name for signal in header.signals]
    columns = known_leads(header.path, names)
    samples = _read_format_16(header)
    keep = list(columns.values())
    gains, baselines = [], []
    for signal in (header.signals[column] for column in keep):
        gains.append(signal.gain / _millivolts(signal.unit, header.path))
        baselines.append(signal.baseline)
    chosen = samples[:, keep]
    ecg = (chosen - np.array(baselines, np.float64)) / np.array(gains)
    ecg[chosen == _MISSING_16] = np.nan
    return Record(
        id=id,
        ecg=ecg.astype(np.float32),
        rate=header.rate,
        leads=tuple(columns),
        **fields,
    )


def known_leads(path: Path, names: list[str]) -> dict[str, int]:
    """Standard lead -> column, for at least one lead; RecordError otherwise."""
    try:
        columns = lead_columns(names)
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from error
    if not columns:
        raise RecordError(f"{path}: none of the signals {names} is a standard lead")
    return columns


def _millivolts(unit: str, where: Path) -> float:
    try:
        return millivolts_per_unit(unit)
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error


def _read_format_16(header: Header) -> np.ndarray:
    """[T, C] int16 of a record in one file of format 16, checksums verified."""
    path = header.path.with_name(header.signals[0].file)
    try:
        samples = np.fromfile(path, "<i2")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    length, count = header.length or 0, len(header.signals)
    if samples.size != length * count:
        raise RecordError(
            f"{path}: {samples.size} samples where the header announces {length} "
            f"x {count}; truncated or damaged"
        )
    samples = samples.reshape(length, count)
    sums = samples.sum(axis=0, dtype=np.int64)
    for signal, total in zip(header.signals, sums, strict=True):
        # The checksum is the sum of all samples modulo 2^16.
        if signal.checksum is not None and (total - signal.checksum) % 65536:
            raise RecordError(
                f"{path}: lead {signal.name} does not match its checksum in the header"
            )
    return samples


def _read_with_wfdb(path: Path, id: str, fields) -> Record:
    import wfdb  # slow to import, and needed for uncommon layouts only

    try:
        signals, facts = wfdb.rdsamp(str(path))
    except Exception as error:  # wfdb raises whatever its parsing runs into
        raise RecordError(f"{path}: {type(error).__name__}: {error}") from error
    if signals is None:
        raise RecordError(f"{path}: no signals")
    columns = known_leads(path, list(facts["sig_name"]))
    keep = list(columns.values())
    factors = np.array([_millivolts(facts["units"][i], path) for i in keep])
    return Record(
        id=id,
        ecg=(signals[:, keep] * factors).astype(np.float32),
        rate=float(facts["fs"]),
        leads=tuple(columns),
        **fields,
    )

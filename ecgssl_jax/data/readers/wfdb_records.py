"""WFDB records: PhysioNet's header (`.hea`) and signal files.

Most archives store all leads of a record interleaved in one file of 16-bit
samples ("format 16", or "16+24" where a header of 24 bytes precedes them), which
is read here directly: some fifty times as fast as through the `wfdb` package,
and verified by the header's checksums. Every other layout goes through `wfdb`,
and only its length is verified. Format: header(5) and signal(5) of the WFDB
Applications Guide.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ecgssl_jax.data.readers.source import (
    Reading,
    Source,
    SourceError,
    printable,
    split,
)
from ecgssl_jax.data.readers.units import millivolts_per_unit
from ecgssl_jax.data.readers.wfdb_header import Header, Signal, read_header
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.workers import run_tasks
from ecgssl_jax.leads import canonical_lead, lead_columns, unknown_leads

# Headers that one process reads at a time: a second or two of work, as starting it is.
_HEADERS = 8192
_DEFAULT_GAIN = 200.0  # header(5): steps per mV where the gain is zero or absent
_MISSING_16 = -32768  # signal(5): an invalid sample of format 16
_FORMAT_16 = re.compile(r"^16(?:\+(\d+))?$")  # with the offset in its file, bytes
# Comments such as "Age: 63" and "<sex>: F" that are facts rather than text.
_FACT = re.compile(r"^<?(age|sex|gender)>?\s*:\s*(.*)$", re.IGNORECASE)
# "Rx: Unknown", as in many archives' headers, says nothing; "pacemaker: none" does.
_UNKNOWN = re.compile(r"^[^:]+:\s*(unknown|n/?a|nan)?\s*$", re.IGNORECASE)
_HEADING = re.compile(r"^<[^>]*>\s*:?\s*$")


def wfdb_source(
    root: str | Path, *, label_comment: str = "", workers: int = 1
) -> Source:
    """All WFDB records below `root`, by the path of their header.

    These are the headers found there and the names in a file RECORDS, so that a
    record that should be there but is not becomes a finding. Records that are
    segments of another are read as a part of that one.

    Args:
      root: the folder.
      label_comment: a header comment with the record's labels, separated by
        commas: "Dx" for "# Dx: 426783006,59118001". Without it there are none.
      workers: processes that read headers, where they are many.

    Raises:
      SourceError: no records, no record with such a comment, or none with a
        signal that is a standard lead.
    """
    root = Path(root)
    names = _record_names(root)
    if not names:
        raise SourceError(f"{root} holds no WFDB records: no file *.hea, no RECORDS")
    found = _scan(root, label_comment, sorted(names), workers)
    if found.unknown and not found.known:
        raise SourceError(
            f"no signal of any record below {root} is a standard lead; found "
            f"{', '.join(map(repr, sorted(found.unknown)[:20]))}"
        )
    chosen = sorted(names - found.segments)
    headers = [found.headers[name] for name in chosen if name in found.headers]
    occurring = sorted({label for _, labels in headers for label in labels})
    if label_comment and not occurring:
        raise SourceError(
            f"no header below {root} has a comment '{label_comment}: ...' with labels"
        )
    return Source(
        description=f"WFDB records in {root.name}, {len(chosen)} records",
        tasks=[
            functools.partial(_read_names, root, label_comment, occurring, part)
            for part in split(chosen)
        ],
        num_records=len(chosen),
        rates=tuple(sorted({rate for rate, _ in headers})),
        labels=tuple(occurring),
        notes=("no patients, no folds: each record counts as a patient of its own",),
    )


@dataclasses.dataclass(kw_only=True)
class _Found:
    """What headers say, of all or some of a folder's.

    Attributes:
      headers: name -> rate and labels, of headers that can be read; of few different
        ones, each is there once.
      segments: names of records that are parts of others.
      known: whether any signal is a standard lead.
      unknown: names of signals that are none.
    """

    headers: dict[str, tuple[float, tuple[str, ...]]] = dataclasses.field(
        default_factory=dict
    )
    segments: set[str] = dataclasses.field(default_factory=set)
    known: bool = False
    unknown: set[str] = dataclasses.field(default_factory=set)


def _scan(root: Path, label_comment: str, names: list[str], workers: int) -> _Found:
    """What the headers of all these records say."""
    arguments = [(root, label_comment, part) for part in split(names, _HEADERS)]
    all_found, different = _Found(), {}
    with tqdm(total=len(names), unit="record", desc="headers", delay=2) as bar:
        for part, found in zip(
            arguments, run_tasks(_scan_names, arguments, workers=workers), strict=True
        ):
            bar.update(len(part[2]))
            for name, header in found.headers.items():
                all_found.headers[name] = different.setdefault(header, header)
            all_found.segments |= found.segments
            all_found.known |= found.known
            all_found.unknown |= found.unknown
    return all_found


def _scan_names(root: Path, label_comment: str, names: Sequence[str]) -> _Found:
    found = _Found()
    for name in names:
        try:
            header = read_header(root / f"{name}.hea")
        except RecordError:
            continue  # reported when the record is read
        labels = tuple(_labels(header, label_comment)) if label_comment else ()
        found.headers[name] = header.rate, labels
        folder = name.rpartition("/")[0]
        found.segments |= {f"{folder}/{x}" if folder else x for x in header.segments}
        for signal in header.signals:
            if canonical_lead(signal.name) is None:
                found.unknown.add(signal.name)
            else:
                found.known = True
    return found


def _record_names(root: Path) -> set[str]:
    names = {path.relative_to(root).as_posix()[:-4] for path in root.rglob("*.hea")}
    if (root / "RECORDS").exists():
        # As file names are read: what is not UTF-8 still names its file.
        text = (root / "RECORDS").read_text(encoding="utf-8", errors="surrogateescape")
        # Entries that end in a slash are folders with a RECORDS of their own.
        lines = [line.strip() for line in text.splitlines()]
        names |= {x for x in lines if x and not x.endswith("/")}
    return names


def _read_names(
    root: Path, label_comment: str, labels: Sequence[str], names: Sequence[str]
) -> Iterator[Reading]:
    for name in names:
        try:
            yield name, _read_name(root, label_comment, labels, name)
        except RecordError as error:
            yield printable(name), error


def _read_name(root, label_comment, labels, name) -> Record:
    if name != printable(name):
        raise RecordError(f"{printable(name)}: its name is not UTF-8; rename the files")
    header = read_header(root / f"{name}.hea")
    text, attributes = _split_comments(header.comments, label_comment)
    own = set(_labels(header, label_comment)) if label_comment else set()
    return read_signals(
        header,
        id=name,
        text=text,
        attributes=attributes,
        # Without the comment, nothing is known about any label.
        labels={x: float(x in own) for x in labels} if own else {},
    )


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
        elif comment and not (_HEADING.match(comment) or _UNKNOWN.match(comment)):
            lines.append(comment)
    return "\n".join(lines), facts


def read_wfdb(path: Path, *, id: str, **fields) -> Record:
    """The record whose header is `path` + ".hea"; see `read_signals`."""
    return read_signals(read_header(Path(f"{path}.hea")), id=id, **fields)


def read_signals(header: Header, *, id: str, **fields) -> Record:
    """The record that a header describes.

    Signals that are none of the twelve leads are left out, with a remark, as is a
    gain that the header does not say; `fields` are further fields of the Record.

    Raises:
      RecordError: files missing, truncated, contradicting their header or its
        checksums, an unknown unit, or no lead among the signals.
    """
    if not header.signals or header.length is None or _offset_16(header) is None:
        return _read_with_wfdb(header, id, fields)
    names = [signal.name for signal in header.signals]
    columns = known_leads(header.path, names)
    keep = list(columns.values())
    gains, baselines = [], []
    for signal in (header.signals[column] for column in keep):
        gain = signal.gain or _DEFAULT_GAIN
        gains.append(gain / _millivolts(signal.unit, header.path))
        baselines.append(signal.baseline)
    # float32 holds every difference of 16-bit integers exactly.
    ecg = _read_format_16(header)[:, keep].astype(np.float32)
    missing = ecg == _MISSING_16
    ecg -= np.array(baselines, np.float32)
    ecg /= np.array(gains, np.float32)
    ecg[missing] = np.nan
    return Record(
        id=id,
        ecg=ecg,
        rate=header.rate,
        leads=tuple(columns),
        remarks=_remarks(names, header.signals),
        **fields,
    )


def _remarks(names: Sequence[str], signals: Sequence[Signal]) -> dict[str, str]:
    """What is kept, but should be known: finding -> detail."""
    remarks = {}
    unknown = unknown_leads(names)
    if unknown:
        remarks["unknown signals"] = f"left out: {', '.join(x or '?' for x in unknown)}"
    silent = [
        signal.name
        for signal in signals
        if not signal.gain and canonical_lead(signal.name)
    ]
    if silent:
        remarks["gain not given"] = (
            f"{', '.join(silent)}: {_DEFAULT_GAIN:g}/mV as WFDB defines"
        )
    return remarks


def known_leads(path: Path, names: Sequence[str]) -> dict[str, int]:
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


def _offset_16(header: Header) -> int | None:
    """Bytes before the samples, None unless all are of format 16 in one file."""
    if len({(signal.file, signal.format) for signal in header.signals}) > 1:
        return None
    match = _FORMAT_16.match(header.signals[0].format)
    return int(match[1] or 0) if match else None


def _read_format_16(header: Header) -> np.ndarray:
    """[T, C] int16 of a record in one file of format 16, checksums verified."""
    path = header.path.parent / header.signals[0].file
    try:
        samples = np.fromfile(path, "<i2", offset=_offset_16(header) or 0)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"{path}: cannot be read ({reason})") from error
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


def _read_with_wfdb(header: Header, id: str, fields) -> Record:
    import wfdb  # slow to import, and needed for uncommon layouts only

    path = header.path.with_suffix("")
    try:
        signals, facts = wfdb.rdsamp(str(path), return_res=32)
    except Exception as error:  # wfdb raises whatever its parsing runs into
        raise RecordError(f"{path}: {type(error).__name__}: {error}") from error
    if signals is None:
        raise RecordError(f"{path}: no signals")
    names = [name or "" for name in facts["sig_name"]]  # None without a description
    columns = known_leads(path, names)
    keep = list(columns.values())
    factors = [_millivolts(facts["units"][column] or "mV", path) for column in keep]
    return Record(
        id=id,
        ecg=signals[:, keep] * np.array(factors, np.float32),
        rate=float(facts["fs"]),
        leads=tuple(columns),
        remarks=_remarks(names, header.signals),
        **fields,
    )

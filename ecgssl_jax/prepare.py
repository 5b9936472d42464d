"""Raw recordings -> a prepared data set.

    python -m ecgssl_jax.prepare ptbxl --source=ptb-xl --output=data/ptbxl
    python -m ecgssl_jax.prepare ptbxl --source=ptb-xl --output=data/ptbxl --download
    python -m ecgssl_jax.prepare wfdb --source=folder --output=data/mine --rate=250
    python -m ecgssl_jax.prepare manifest --source=records.csv --output=data/mine \\
        --source-rate=500 --unit=uV --leads=I,II,V1,V2,V3,V4,V5,V6
    python -m ecgssl_jax.prepare array --source=ecg.npy --layout=NCT ...
    python -m ecgssl_jax.prepare synthetic --num-records=4000 --output=data/synthetic

`--rate` is always that of the prepared set; recordings at another rate are
resampled. What the quality pass finds is in quality.csv beside the data.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

from ecgssl_jax.data.download import PTBXL_URL, download_ptbxl
from ecgssl_jax.data.findings import OPTIONAL, Thresholds
from ecgssl_jax.data.prepared import MARKER
from ecgssl_jax.data.publishing import check_output
from ecgssl_jax.data.readers import manifest
from ecgssl_jax.data.readers.array import array_source
from ecgssl_jax.data.readers.ptbxl import ptbxl_source
from ecgssl_jax.data.readers.signals import LAYOUTS, Signals, split_leads
from ecgssl_jax.data.readers.source import Source, SourceError
from ecgssl_jax.data.readers.wfdb_records import wfdb_source
from ecgssl_jax.data.workers import usable_cores
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.errors import exit_with_message


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="SOURCE")
    shared = _shared_options()
    add = functools.partial(_add, kinds, shared)
    ptbxl = add("ptbxl", "PTB-XL in PhysioNet's layout")
    ptbxl.add_argument("--source", required=True, help="its folder")
    ptbxl.add_argument(
        "--download", action="store_true", help="download into --source what is missing"
    )
    ptbxl.add_argument("--base-url", default=PTBXL_URL, help="where to download from")

    add_sources(kinds, shared)

    synthetic = add("synthetic", "ECGs that this package makes")
    synthetic.add_argument("--num-records", type=int, default=4000)
    synthetic.add_argument("--seed", type=int, default=0)
    return parser


def _add(kinds: Any, shared: Any, kind: str, help: str, details: str | None = None):
    return kinds.add_parser(
        kind,
        help=help,
        description=details or help,
        parents=[shared],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_sources(kinds: Any, shared: argparse.ArgumentParser) -> None:
    """Adds to `kinds` the parsers of recordings in general: wfdb, manifest, array."""

    add = functools.partial(_add, kinds, shared)
    wfdb = add("wfdb", "a folder of WFDB records")
    wfdb.add_argument("--source", required=True, help="the folder")
    wfdb.add_argument(
        "--label-comment",
        default="",
        help="header comment that holds labels, separated by commas, such as Dx",
    )

    table = add(
        "manifest",
        "a CSV or Parquet table of .npy files or WFDB records",
        manifest.__doc__,
    )
    table.add_argument("--source", required=True, help="the table")
    table.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="TC",
        help="order of the axes, samples (T) and leads (C); default TC",
    )
    array = add("array", "one .npy or .npz array of records")
    array.add_argument("--source", required=True, help="the array's file")
    array.add_argument(
        "--layout",
        choices=("NTC", "NCT"),
        required=True,
        help="order of the axes: records (N), samples (T), leads (C)",
    )
    array.add_argument("--key", default="", help="the array's name in a .npz")
    for each in (table, array):
        each.add_argument("--source-rate", type=float, help="of the recordings, Hz")
        each.add_argument("--unit", help="mV, uV, ..., or one step, such as 4.88uV")
        each.add_argument(
            "--leads", help="names in order, separated by commas; - leaves one out"
        )


def _shared_options() -> argparse.ArgumentParser:
    default, limits = Settings(), Thresholds()
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--output", required=True, help="folder of the set; its last part is the name")
    add("--rate", type=float, help="of the set, Hz; default: the recordings'")

    def number(flag: str, value: float, help: str) -> None:
        add(flag, type=type(value), default=value, help=f"{help}; default {value:g}")

    number("--seconds", default.seconds, "length of a window")
    number("--scale", default.scale, "mV of one stored step")
    number("--max-rejected", default.max_rejected, "share that may be rejected")
    number("--min-leads", limits.min_leads, "records with fewer leads are rejected")
    number("--workers", usable_cores(), "processes")
    number(
        "--vocabulary-size",
        default.vocabulary_size,
        "pieces of the vocabulary that is trained on the reports, at most",
    )
    add(
        "--sort-phrases",
        action="store_true",
        help="reports of the same sentences in another order count as equal",
    )
    add(
        "--reject",
        default="",
        help=f"findings that reject, separated by commas, out of: {', '.join(OPTIONAL)}",
    )
    add("--patient-salt", default="", help="a secret mixed into the patients' hashes")
    add("--overwrite", action="store_true", help="replace a set that is there")
    return shared


def check_paths(args: argparse.Namespace) -> None:
    """Stops before anything is downloaded or read, if it would be in vain.

    Raises:
      FileExistsError: the output exists, and --overwrite is not given or not enough.
      SourceError: source and output are one inside the other, where replacing the
        output would delete recordings.
    """
    output = Path(args.output).resolve()
    if args.kind != "synthetic":
        source = Path(args.source).resolve()
        if source.is_relative_to(output) or output.is_relative_to(source):
            raise SourceError(
                f"--source {source} and --output {output} overlap; choose an output "
                "outside the recordings' folder"
            )
    check_output(output, MARKER, args.overwrite)


def make_settings(args: argparse.Namespace) -> Settings:
    """The settings that the command line asks for; SourceError if they are wrong."""
    if args.workers < 1:
        raise SourceError(f"workers must be at least 1, found {args.workers}")
    try:
        return Settings(
            rate=args.rate,
            seconds=args.seconds,
            scale=args.scale,
            max_rejected=args.max_rejected,
            thresholds=Thresholds(
                min_leads=args.min_leads,
                reject=tuple(x.strip() for x in args.reject.split(",") if x.strip()),
            ),
            salt=args.patient_salt,
            vocabulary_size=args.vocabulary_size,
            sort_phrases=args.sort_phrases,
        )
    except ValueError as error:
        raise SourceError(str(error)) from error


def make_source(args: argparse.Namespace) -> Source:
    """The source that the command line asks for."""
    if args.kind == "ptbxl":
        # Every other rate, lower ones too, is made from the finer recordings.
        rate = 100 if args.rate in (None, 100) else 500
        if args.download:
            download_ptbxl(args.source, rate=rate, base_url=args.base_url)
        return ptbxl_source(args.source, rate=rate)
    if args.kind == "wfdb":
        return wfdb_source(
            args.source, label_comment=args.label_comment, workers=args.workers
        )
    if args.kind == "synthetic":
        # The generator is slow to import and needed here only.
        from ecgssl_jax.data.readers.synthetic import synthetic_source

        rate = args.rate or 100.0
        return synthetic_source(args.num_records, seed=args.seed, rate=rate)
    signals = Signals(
        rate=args.source_rate,
        unit=args.unit,
        leads=split_leads(args.leads) if args.leads else None,
        layout=args.layout.removeprefix("N"),
    )
    if args.kind == "manifest":
        return manifest.manifest_source(
            args.source, signals, find_rates=args.rate is None, workers=args.workers
        )
    return array_source(args.source, signals, key=args.key)


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_with_message("prepare"):
        check_paths(args)
        settings = make_settings(args)
        source = make_source(args)
        print("\n".join((source.description, *source.notes)))
        prepared = prepare_dataset(
            source,
            args.output,
            settings=settings,
            overwrite=args.overwrite,
            workers=args.workers,
        )
    print(
        f"{prepared.directory}: {len(prepared)} records of {args.seconds:g} s at "
        f"{prepared.rate:g} Hz; findings in {prepared.directory / 'quality.csv'}"
    )


if __name__ == "__main__":
    main()

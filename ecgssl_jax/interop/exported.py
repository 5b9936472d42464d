"""An encoder as files that need no run: its arrays, what they are, and a program.

    encoder.safetensors   parameters by their path, and the statistics
    encoder.json          what they are of: rate, leads, unit, window, config
    encoder.stablehlo     all of it as one program, which needs JAX alone

The program is read and run like this; its batch may have any size:

    program = jax.export.deserialize(open("encoder.stablehlo", "rb").read())
    found = program.call(ecg=ecg, lead_valid=lead_valid, length=length)

`ecg` [B, T, 12] float32, millivolts at the rate and in the order of leads that
encoder.json gives; `lead_valid` [B, 12] bool; `length` [B] int32, valid samples. Of a
model that was trained on labels `found` has "logits" too, of the labels in encoder.json.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from ecgssl_jax import assembly, reporting, runs
from ecgssl_jax.digest import digest_files
from ecgssl_jax.errors import UserError
from ecgssl_jax.experiment import parse
from ecgssl_jax.leads import LEADS
from ecgssl_jax.rules import path_string
from ecgssl_jax.runs import FrozenEncoder, Run
from ecgssl_jax.signals import Statistics, prepare

ARRAYS, DESCRIPTION, PROGRAM = (
    f"encoder.{ending}" for ending in ("safetensors", "json", "stablehlo")
)
_OUTPUTS = ("pooled", "tokens", "tokens_valid", "logits")
# Of the program, for those who have nothing but these files.
_INPUTS = {
    "ecg": (
        "recordings at `rate` Hz, leads in the order of `leads`, in `unit`; as they are: "
        "the program itself subtracts `mean`, divides by `std` and clips"
    ),
    "lead_valid": "false where a recording lacks a lead, whatever `ecg` has there",
    "length": "samples from the start that are there, whatever `ecg` has beyond them",
}
_FORMAT = "ecgssl_jax encoder"
_VERSION = 1
# Where the program may run, wherever it was made.
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class ExportedEncoderError(UserError):
    """A folder that holds no exported encoder, or a damaged one."""


def is_exported(folder: str | Path) -> bool:
    """Whether an exported encoder is in the folder: its description, written last."""
    return (Path(folder) / DESCRIPTION).exists()


def save(encoder: FrozenEncoder, statistics: Statistics, folder: str | Path) -> None:
    """Writes the three files into `folder`, which is made.

    Only the parts that features are made from are kept: no predictor, no projector.

    Args:
      statistics: [1, C] each, that recordings are to be normalised by.

    Raises:
      OSError: they cannot be written.
      ExportedEncoderError: the folder holds something else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)
    params, extra = _needed(encoder)
    arrays = {"params": params, "extra": extra, "statistics": vars(statistics)}
    found = {
        path_string(path): np.ascontiguousarray(x)
        for path, x in jax.tree.leaves_with_path(arrays)
    }
    program = make_program(encoder, statistics)
    # The description comes last: with it the export is whole.
    (folder / DESCRIPTION).unlink(missing_ok=True)
    # Written by itself, the file would be for its owner alone.
    (folder / ARRAYS).write_bytes(save_arrays(found))
    (folder / PROGRAM).write_bytes(program.serialize())
    described = _describe(encoder, statistics, program)
    described["sha256"] = {
        name: digest_files([folder / name]) for name in (ARRAYS, PROGRAM)
    }
    text = json.dumps(described, indent=1)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Raises ExportedEncoderError where it holds what is no export."""
    others = {path.name for path in folder.glob("*")} - {ARRAYS, DESCRIPTION, PROGRAM}
    if others:
        raise ExportedEncoderError(
            f"{folder} holds something else ({min(others)}); export into a folder of "
            "its own"
        )


def load(folder: str | Path, *, tokens: Any = None) -> tuple[FrozenEncoder, Statistics]:
    """-> the encoder that `save` wrote, and its statistics.

    Raises:
      ExportedEncoderError: no export, one of another version, or a damaged one.
      ConfigError: arrays that are not those of the description.
    """
    folder = Path(folder)
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS)
    except (FileNotFoundError, json.JSONDecodeError, SafetensorError) as error:
        raise ExportedEncoderError(
            f"no exported encoder can be read from {folder} ({error}); "
            "python -m ecgssl_jax.export writes one"
        ) from error
    kind = description.get("format"), description.get("version")
    if kind != (_FORMAT, _VERSION):
        raise ExportedEncoderError(
            f"{folder / DESCRIPTION}: format {kind[0]!r} of version {kind[1]!r}, "
            f"expected {_FORMAT!r} of version {_VERSION}; export the encoder again"
        )
    expected = description.get("sha256", {}).get(ARRAYS)
    if expected is not None and expected != digest_files([folder / ARRAYS]):
        raise ExportedEncoderError(
            f"{folder / ARRAYS} is damaged: it is not what {DESCRIPTION} was written "
            "with; copy or export it again"
        )
    run = Run(
        experiment=parse(description["config"]),
        checkpoint=folder,
        step=description["step"],
        data=description["trained_on"],
        evaluated={},
        began_with={},
        labels=tuple(description.get("labels", ())),
        records=0,
        vocabulary=None,
    )
    method = assembly.make_method(run.experiment)
    shapes = jax.eval_shape(
        method.init, jax.random.key(0), runs.example_row(run.experiment)
    )
    trees = {}
    for name, shape in zip(("params", "extra"), shapes, strict=True):
        part = {path: x for path, x in arrays.items() if path.startswith(f"{name}/")}
        kept = {path.split("/")[1] for path in part}
        trees[name] = runs.structured(
            {path.removeprefix(f"{name}/"): x for path, x in part.items()},
            {key: value for key, value in shape.items() if key in kept},
            f"{folder / ARRAYS}: {name}",
        )
    statistics = Statistics(
        **{
            field.name: arrays[f"statistics/{field.name}"]
            for field in dataclasses.fields(Statistics)
        }
    )
    frozen = runs.freeze(run, (trees["params"], trees["extra"]), tokens=tokens)
    return frozen, statistics


def make_program(encoder: FrozenEncoder, statistics: Statistics) -> export.Exported:
    """(ecg, lead_valid, length) -> features, as this module's docstring says."""
    experiment = encoder.run.experiment
    # Other machines have other fast precisions.
    method = assembly.make_method(dataclasses.replace(experiment, dtype="float32"))
    in_millivolts = dataclasses.replace(
        statistics, scale=np.ones_like(statistics.scale)
    )
    params, extra = _needed(encoder)

    def features(ecg, lead_valid, length):
        source = jnp.zeros(ecg.shape[0], jnp.int32)
        batch = {"ecg": ecg, "lead_valid": lead_valid, "length": length}
        batch["source"] = source
        batch["ecg"] = prepare(batch, in_millivolts, clip=experiment.data.clip)
        found = method.features(params, extra, batch)
        return {name: found[name] for name in _OUTPUTS if name in found}

    (batch,) = export.symbolic_shape("batch")
    samples = experiment.data.crop
    return export.export(jax.jit(features), platforms=_PLATFORMS)(
        ecg=jax.ShapeDtypeStruct((batch, samples, len(LEADS)), jnp.float32),
        lead_valid=jax.ShapeDtypeStruct((batch, len(LEADS)), jnp.bool),
        length=jax.ShapeDtypeStruct((batch,), jnp.int32),
    )


def read_program(folder: str | Path) -> export.Exported:
    """The program that `save` wrote."""
    return export.deserialize(bytearray((Path(folder) / PROGRAM).read_bytes()))


class _Noting(dict):
    """Notes which of its entries are taken."""

    def __init__(self, entries):
        super().__init__(entries)
        self.taken = set()

    def __getitem__(self, key):
        self.taken.add(key)
        return super().__getitem__(key)


def _needed(encoder: FrozenEncoder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of params and extra, the entries that features are made from."""
    params, extra = map(_Noting, encoder.parameters)
    example = runs.example_row(encoder.run.experiment)
    jax.eval_shape(lambda batch: encoder.method.features(params, extra, batch), example)
    params, extra = (
        {key: value for key, value in noted.items() if key in noted.taken}
        for noted in (params, extra)
    )
    return params, extra


def _describe(
    encoder: FrozenEncoder, statistics: Statistics, program: export.Exported
) -> dict[str, Any]:
    run = encoder.run
    _, inputs = jax.tree.unflatten(program.in_tree, program.in_avals)
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "method": run.experiment.method["name"],
        "model": run.experiment.model,
        "step": run.step,
        "rate": next(iter(run.data.values()))["rate"],
        "leads": LEADS,
        "unit": "mV",
        "samples": run.experiment.data.crop,
        "clip": run.experiment.data.clip,
        "mean": np.asarray(statistics.mean)[0].tolist(),
        "std": np.asarray(statistics.std)[0].tolist(),
        "program": {
            "platforms": program.platforms,
            "inputs": {
                name: {"array": str(each), "what": _INPUTS[name]}
                for name, each in inputs.items()
            },
            "outputs": {name: str(each) for name, each in outputs.items()},
        },
        "labels": run.labels,
        "trained_on": run.data,
        "config": dataclasses.asdict(run.experiment),
        "versions": reporting.describe_run()["versions"],
    }

"""Cached features: those of the encoder, and of no other."""

import dataclasses

import jax
import numpy as np
import pytest

from ecgssl_jax import assembly, runs
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.evaluation import feature_cache
from ecgssl_jax.experiment import parse

CONFIG = {
    "steps": 10,
    "batch_size": 2,
    "data": {"crop": 500},
    "model": {"width": 8, "depth": 1, "num_heads": 1, "patch_size": 50},
    "method": {"name": "supervised", "num_labels": 2},
}


ALL = np.arange(20)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """20 records at 100 Hz, of 1000 samples."""
    path = tmp_path_factory.mktemp("data") / "synthetic"
    return prepare_dataset(synthetic_source(20), path, report=lambda _: None)


def make_encoder(seed=0, tokens=np.float16, **data):
    experiment = parse(CONFIG | {"data": {"crop": 500, **data}})
    method = assembly.make_method(experiment)
    example = runs.example_row(experiment)
    run = runs.Run(
        experiment=experiment,
        checkpoint=None,  # type: ignore[arg-type]
        step=0,
        data={"synthetic": {"rate": 100.0}},
        evaluated={},
        began_with={},
        labels=(),
        records=0,
        vocabulary=None,
    )
    parameters = runs.random_parameters(method, example, seed)
    return runs.freeze(run, parameters, tokens=tokens)


def folders(path):
    return sorted(each.name for each in path.iterdir())


def test_the_cache_gives_what_the_encoder_gave(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "_RECORDS", 8)
    encoder = make_encoder()
    expected = encoder.encode(prepared)
    first = feature_cache.encode_cached(encoder, prepared, ALL, tmp_path / "cache")
    never = dataclasses.replace(encoder, function=None)
    again = feature_cache.encode_cached(never, prepared, ALL, tmp_path / "cache")
    assert (
        first.keys()
        == again.keys()
        == expected.keys()
        == {"pooled", "tokens", "logits"}
    )
    for name, value in expected.items():
        np.testing.assert_allclose(first[name], value, atol=1e-3)
        np.testing.assert_array_equal(first[name], again[name])
        assert first[name].dtype == value.dtype


def test_whatever_changes_features_has_a_folder_of_its_own(prepared, tmp_path):
    encoder = make_encoder()
    params, extra = encoder.parameters
    flipped = jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(1e-6), params)
    other_set = dataclasses.replace(
        prepared, metadata={**prepared.metadata, "content_hash": "other"}
    )
    run = encoder.run
    settings = {
        "dtype": "bfloat16",
        "model": {**run.experiment.model, "exact_gelu": True},
        "method": {**run.experiment.method, "task": "rhythm"},
        "data": dataclasses.replace(run.experiment.data, crop=250),
    }
    described = [
        dataclasses.replace(
            encoder,
            run=dataclasses.replace(
                run, experiment=dataclasses.replace(run.experiment, **{name: value})
            ),
        )
        for name, value in settings.items()
    ]
    pairs = [
        *((each, prepared) for each in described),
        (encoder, prepared),
        (dataclasses.replace(encoder, parameters=(flipped, extra)), prepared),
        (make_encoder(seed=1), prepared),
        (make_encoder(tokens=None), prepared),
        (make_encoder(clip=2.0), prepared),
        (encoder, other_set),
        (encoder, prepared, ALL[::-1]),
    ]
    for number, pair in enumerate(pairs, 1):
        encoder, found, rows = (*pair, ALL)[:3]
        feature_cache.encode_cached(encoder, found, rows, tmp_path)
        assert len(folders(tmp_path)) == number
    feature_cache.encode_cached(make_encoder(), prepared, ALL, tmp_path)
    assert len(folders(tmp_path)) == len(pairs)


def test_features_of_other_code_have_a_folder_of_their_own(
    prepared, tmp_path, monkeypatch
):
    encoder = make_encoder(tokens=None)
    feature_cache.encode_cached(encoder, prepared, ALL, tmp_path / "cache")
    own = feature_cache.describe(encoder, prepared, ALL)["code"]
    monkeypatch.setattr(feature_cache, "digest_code", lambda *given: "other")
    assert feature_cache.describe(encoder, prepared, ALL)["code"] != own
    feature_cache.encode_cached(encoder, prepared, ALL, tmp_path / "cache")
    assert len(folders(tmp_path / "cache")) == 2


def test_processes_that_write_at_once_share_what_the_first_wrote(
    prepared, tmp_path, monkeypatch
):
    encoder = make_encoder(tokens=None)
    encode = feature_cache._encode

    def slow(*arguments):
        """While this one encodes, another one finishes."""
        monkeypatch.setattr(feature_cache, "_encode", encode)
        feature_cache.encode_cached(encoder, prepared, ALL, tmp_path)
        yield from encode(*arguments)

    monkeypatch.setattr(feature_cache, "_encode", slow)
    found = feature_cache.encode_cached(encoder, prepared, ALL, tmp_path)
    np.testing.assert_allclose(
        found["pooled"], encoder.encode(prepared)["pooled"], atol=1e-6
    )
    assert len(folders(tmp_path)) == 1


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "description", "flipped", "halved"]
)
def test_a_damaged_folder_is_written_again(prepared, tmp_path, damage):
    encoder = make_encoder(tokens=None)
    expected = feature_cache.encode_cached(encoder, prepared, ALL, tmp_path)["pooled"]
    expected = np.array(expected)
    (place,) = tmp_path.iterdir()
    if damage == "missing":
        (place / "pooled.npy").unlink()
    elif damage == "truncated":
        data = (place / "pooled.npy").read_bytes()
        (place / "pooled.npy").write_bytes(data[:-40])
    elif damage == "flipped":
        data = bytearray((place / "pooled.npy").read_bytes())
        data[-1] ^= 1
        (place / "pooled.npy").write_bytes(data)
    elif damage == "halved":
        np.save(place / "pooled.npy", expected.astype(np.float16))
    else:
        (place / "features.json").write_text("{")
    found = feature_cache.encode_cached(encoder, prepared, ALL, tmp_path)
    np.testing.assert_array_equal(found["pooled"], expected)
    assert folders(tmp_path) == [place.name]


def test_nothing_is_left_of_what_failed(prepared, tmp_path):
    def fail(*arguments):
        raise RuntimeError("no memory")

    encoder = dataclasses.replace(make_encoder(), function=fail)
    with pytest.raises(RuntimeError, match="no memory"):
        feature_cache.encode_cached(encoder, prepared, ALL, tmp_path)
    assert folders(tmp_path) == []

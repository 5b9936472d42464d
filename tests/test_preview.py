from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from ecgssl_jax import plots, preview
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.publishing import PrepareError
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.signals.views import TRANSFORMS

CONFIG = Path(__file__).parents[1] / "configs" / "jepa.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(64), root / "synthetic", report=lambda _: None)
    return root


def flags(root, *more):
    sizes = ["--config.data.crop=500", "--config.model.patch_size=20"]
    sizes += ["--config.data.synthetic_records=64"]
    return [f"--config={CONFIG}:root={root}", *sizes, *more]


def test_pictures_of_the_records_are_written(root, tmp_path, capsys):
    preview.main(flags(root, f"--output={tmp_path / 'new'}", "--records=2"))
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert sorted(paths) == sorted((tmp_path / "new").glob("*.png"))
    assert len(paths) == 2
    for path in paths:
        picture = matplotlib.image.imread(path)
        assert picture.std() > 0.01


@pytest.mark.parametrize("count", ["0", "-3", "two"])
def test_a_number_of_records_that_is_none_is_an_error(root, tmp_path, capsys, count):
    with pytest.raises(SystemExit):
        preview.main(flags(root, f"--output={tmp_path}", f"--records={count}"))
    assert f"expected 1 or more, found '{count}'" in capsys.readouterr().err


def test_views_and_transforms_are_drawn_where_they_are_asked_for(root, tmp_path):
    config = CONFIG.with_name("simclr.py")
    arguments = [f"--config={config}:root={root}", f"--output={tmp_path}"]
    preview.main([*arguments, "--records=1", "--transforms"])
    found = {path.stem for path in tmp_path.glob("*.png")}
    (record,) = {name for name in found if name.startswith("00-")} - {
        name for name in found if "view" in name
    }
    assert {f"{record}-view1", f"{record}-view2"} <= found
    # Mains of 60 Hz do not exist at 100 Hz.
    assert set(TRANSFORMS) - found == {"powerline_noise"}


def test_signals_are_drawn_in_millivolts_with_the_masks_of_the_run(
    root, tmp_path, monkeypatch
):
    drawn = []
    draw = plots.mask_preview

    def spy(ecg, **settings):
        drawn.append((ecg, settings))
        return draw(ecg, **settings)

    monkeypatch.setattr(preview.plots, "mask_preview", spy)
    preview.main(flags(root, f"--output={tmp_path}", "--records=1"))
    ((ecg, settings),) = drawn
    prepared = open_prepared(root / "synthetic")
    id = settings["title"].partition(":")[0].removeprefix("synthetic ")
    (row,) = np.flatnonzero(prepared.index["record_id"] == id)
    millivolts = prepared.read([row])[0] * np.float32(prepared.scale)
    crops = np.lib.stride_tricks.sliding_window_view(millivolts, 500, axis=0)
    assert (np.abs(crops.swapaxes(1, 2) - ecg).max(axis=(1, 2)) < 1e-6).any()
    patches = sorted([*settings["context"], *settings["targets"]])
    assert patches == list(range(500 // settings["patch_size"]))
    assert settings["rate"] == 100.0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.crop=990", "20 does not divide the crop of 990"),
        ("--config.data.crop=2000", "are stored with 1000"),
        ("--config.data.name=mine", "no prepared data set in .*mine"),
        ("--config.data.nome=mine", "unknown key 'nome'; did you mean 'name'"),
    ],
)
def test_config_that_does_not_fit_is_explained(root, flag, message):
    with pytest.raises(SystemExit, match=message):
        preview.main(flags(root, flag))


def test_an_output_that_cannot_be_written_is_named_before_anything_is_read(tmp_path):
    file = tmp_path / "file"
    file.touch()
    arguments = [f"--config={tmp_path}/missing.py", f"--output={file}"]
    with pytest.raises(SystemExit, match="cannot write to .*file"):
        preview.main(arguments)


def test_an_embedded_set_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise PrepareError("the disk is full")

    monkeypatch.setattr("ecgssl_jax.data.writing.prepare_dataset", fail)
    with pytest.raises(SystemExit, match="error: the disk is full"):
        preview.main(flags(tmp_path, f"--output={tmp_path}"))

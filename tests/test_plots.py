"""Pictures are checked by what lies on the paper, in millimetres, and by their files."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from ecgssl_jax import paper, plots
from ecgssl_jax.leads import LEADS

RATE = 100.0


def ecg(seconds=10.0, leads=12, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * time)[:, None] * np.linspace(0.2, 1.0, leads)


def traces(figure, samples):
    """The lines of that many samples: one per recorded lead."""
    lines = figure.axes[0].get_lines()
    return [line for line in lines if len(line.get_xdata()) == samples]


def words(figure):
    axes_texts = [text.get_text() for text in figure.axes[0].texts]
    return axes_texts + [text.get_text() for text in figure.texts]


def test_one_second_and_one_millivolt_measure_25_and_10_mm_on_the_page():
    signal = np.zeros((250, 1))
    signal[100:] = 1.0
    figure = plots.ecg_paper(signal, rate=RATE, leads=["II"])
    axes = figure.axes[0]
    figure.canvas.draw()
    (line,) = traces(figure, 250)
    x, y = axes.transData.transform(line.get_xydata()).T
    mm_per_dot = paper.MM_PER_INCH / figure.dpi
    assert (x[100] - x[0]) * mm_per_dot == pytest.approx(25.0, abs=0.01)
    assert (y[100] - y[0]) * mm_per_dot == pytest.approx(10.0, abs=0.01)


@pytest.mark.parametrize("seconds", [2.5, 5.0, 10.0])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_every_lead_is_drawn_and_named(seconds, count):
    samples = round(seconds * RATE)
    figure = plots.ecg_paper(ecg(seconds, count), rate=RATE, leads=LEADS[:count])
    assert len(traces(figure, samples)) == count
    assert set(LEADS[:count]) <= set(words(figure))


def test_tall_traces_get_room_and_do_not_meet():
    signal = np.zeros((1000, 2), np.float32)
    signal[500, 0], signal[500, 1] = -1.5, 2.0
    figure = plots.ecg_paper(signal, rate=RATE, leads=["V1", "V5"])
    upper, lower = (line.get_ydata() for line in traces(figure, 1000))
    assert upper.min() > lower.max()


def test_missing_leads_are_named_as_missing_and_not_drawn():
    signal = ecg()
    signal[:, 2] = np.nan
    valid = [True] * 11 + [False]
    figure = plots.ecg_paper(signal, rate=RATE, lead_valid=valid)
    assert len(traces(figure, 1000)) == 10
    assert {"III not recorded", "V6 not recorded"} <= set(words(figure))


def test_gaps_of_a_lead_stay_gaps():
    signal = ecg()
    signal[200:300, 0] = np.nan
    line = traces(plots.ecg_paper(signal, rate=RATE), 1000)[0]
    assert np.isnan(line.get_ydata()[200:300]).all()
    assert np.isfinite(line.get_ydata()[300:]).all()


def test_shades_lie_at_their_times_and_are_explained():
    figure = plots.ecg_paper(
        ecg(), rate=RATE, shade=[(0.0, 2.0, "context"), (2.0, 3.5, "target")]
    )
    bands = [p for p in figure.axes[0].patches if p.get_width() > 1.0]
    spans = sorted((b.get_x(), b.get_x() + b.get_width()) for b in bands)
    np.testing.assert_allclose(spans, [(0.0, 50.0), (50.0, 87.5)])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["context", "target"]


def test_mask_preview_merges_neighbouring_patches_into_one_band():
    figure = plots.mask_preview(
        ecg(), context=[0, 1, 2, 7], targets=[4, 3, 4], patch_size=50, rate=RATE
    )
    bands = [p for p in figure.axes[0].patches if p.get_width() > 1.0]
    spans = sorted((b.get_x(), b.get_x() + b.get_width()) for b in bands)
    # Patches of 0.5 s are 12.5 mm wide.
    np.testing.assert_allclose(spans, [(0, 37.5), (37.5, 62.5), (87.5, 100)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leads": LEADS[:5]}, r"\[samples, 5\]"),
        ({"shade": [(0, 1, "contxt")]}, "contxt"),
        ({"lead_valid": [True]}, "lead_valid"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plots.ecg_paper(ecg(), rate=RATE, **options)


def test_loss_curve_shows_values_and_their_running_mean_with_gaps():
    # The running mean is over 2 % of the points.
    values = [(step, float(step % 2)) for step in range(500)]
    values[50] = (50, float("nan"))
    figure = plots.loss_curve({"jepa": values}, title="loss")
    raw, smooth = figure.axes[0].get_lines()
    assert np.isnan(raw.get_ydata()[50])
    np.testing.assert_allclose(smooth.get_ydata()[20:40], 0.5)
    assert np.isfinite(smooth.get_ydata()).all()


def test_probe_curve_names_the_best_value():
    points = [(0, 0.6), (100, 0.9), (200, 0.85)]
    figure = plots.probe_curve({"probe": points})
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.900"]
    legend = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert legend == ["probe"]


@pytest.mark.parametrize("series", [{}, {"probe": []}])
@pytest.mark.parametrize("draw", [plots.loss_curve, plots.probe_curve])
def test_a_curve_without_points_is_still_a_picture(draw, series, tmp_path):
    plots.save(draw(series), tmp_path / "curve.png")
    assert imread(tmp_path / "curve.png").ndim == 3


def test_save_writes_a_png_others_can_read_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "paper.png"
    plots.save(plots.ecg_paper(ecg(), rate=RATE), path)
    plots.save(plots.ecg_paper(ecg(2.5), rate=RATE), path)
    assert imread(path).shape[2] == 4
    assert os.listdir(path.parent) == ["paper.png"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failed_save_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    plots.save(plots.loss_curve({"a": [(0, 1.0)]}), path)
    before = path.read_bytes()
    figure = plots.loss_curve({"a": [(0, 2.0)]})

    def fail(*args, **kwargs):
        args[0].write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["curve.png"]


def test_plotting_leaves_pyplot_alone():
    program = (
        "import sys, numpy; from ecgssl_jax import plots; "
        "plots.ecg_paper(numpy.zeros((250, 12)), rate=100.0); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

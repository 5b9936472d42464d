import fcntl
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ecgssl_jax.data.publishing import PrepareError, building_folder

MARKER = "part/file"


def _build(output, content, *, die=False, **options):
    with building_folder(output, marker=MARKER, **options) as folder:
        (folder / "part").mkdir()
        (folder / MARKER).write_text(content)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _killed(output, **options):
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=_build, args=(output, "half"), kwargs={"die": True, **options}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_the_folder_appears_complete(tmp_path):
    _build(tmp_path / "out", "all")
    assert (tmp_path / "out" / MARKER).read_text() == "all"
    assert _names(tmp_path) == ["out"]


def test_an_error_leaves_nothing(tmp_path):
    with (
        pytest.raises(ValueError),
        building_folder(tmp_path / "out", marker=MARKER) as folder,
    ):
        (folder / "file").write_text("half")
        raise ValueError
    assert _names(tmp_path) == []


def test_a_kill_leaves_nothing_under_the_name_and_is_cleaned_up(tmp_path):
    _killed(tmp_path / "out")
    assert _names(tmp_path) == [".out.incomplete"]
    with building_folder(tmp_path / "out", marker=MARKER) as folder:
        assert _names(folder) == []
    assert _names(tmp_path) == ["out"]


def test_a_kill_while_replacing_keeps_the_old_one(tmp_path):
    _build(tmp_path / "out", "old")
    _killed(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / MARKER).read_text() == "old"
    _build(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / MARKER).read_text() == "new"
    assert _names(tmp_path) == ["out"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    _build(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with pytest.raises(FileExistsError):
        _build(tmp_path / "out", "new")
    assert (tmp_path / "out" / MARKER).read_text() == "old"


def test_an_existing_folder_is_refused(tmp_path):
    _build(tmp_path / "out", "old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        _build(tmp_path / "out", "new")
    assert _names(tmp_path) == ["out"]


def test_overwriting_spares_what_it_did_not_make(tmp_path):
    raw = tmp_path / "recordings"
    raw.mkdir()
    (raw / "0.npy").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for path in (raw, tmp_path / "file"):
        with pytest.raises(FileExistsError, match=f"no {MARKER}.*remove it yourself"):
            _build(path, "new", overwrite=True)
    assert (raw / "0.npy").read_text() == (tmp_path / "file").read_text() == "precious"
    assert _names(tmp_path) == ["file", "recordings"]


def test_overwriting_takes_an_empty_folder(tmp_path):
    (tmp_path / "out").mkdir()
    _build(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / MARKER).read_text() == "new"


def test_what_appears_while_building_is_not_replaced(tmp_path):
    with (
        pytest.raises(FileExistsError, match="exists already"),
        building_folder(tmp_path / "out", marker=MARKER),
    ):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("another's")
    assert (tmp_path / "out" / "file").read_text() == "another's"
    assert _names(tmp_path) == ["out"]


def test_a_set_published_before_the_lock_came_is_not_replaced(tmp_path, monkeypatch):
    flock, rivals = fcntl.flock, ["first"]

    def late(*args):
        if rivals:
            _build(tmp_path / "out", rivals.pop())
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(FileExistsError, match="exists already"):
        _build(tmp_path / "out", "second")
    assert (tmp_path / "out" / MARKER).read_text() == "first"
    assert _names(tmp_path) == ["out"]


def test_two_at_once_are_refused(tmp_path):
    with building_folder(tmp_path / "out", marker=MARKER) as folder:
        (folder / "file").write_text("first")
        with pytest.raises(PrepareError, match="another process is preparing"):
            _build(tmp_path / "out", "second")
        assert (folder / "file").read_text() == "first"
    assert _names(tmp_path / "out") == ["file"]


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_waits_goes_on_with_what_the_other_left(tmp_path, monkeypatch, fails):
    waiting, flock = threading.Event(), fcntl.flock

    def announced(*args):
        waiting.set()
        flock(*args)

    with ThreadPoolExecutor(1) as pool:
        try:
            with building_folder(tmp_path / "out", marker=MARKER) as folder:
                monkeypatch.setattr(fcntl, "flock", announced)
                second = pool.submit(_build, tmp_path / "out", "second", wait=True)
                assert waiting.wait(10)
                (folder / "part").mkdir()
                (folder / MARKER).write_text("first")
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert second.result(10) is None
        else:
            with pytest.raises(FileExistsError):
                second.result(10)
    expected = "second" if fails else "first"
    assert (tmp_path / "out" / MARKER).read_text() == expected
    assert _names(tmp_path) == ["out"]

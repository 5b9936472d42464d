import pytest

from ecgssl_jax.output_folder import check_writable, whole_file


def test_a_folder_that_can_be_made_passes_and_is_not_made(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "new"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(OSError, match=f"cannot write to {file}.* --output"):
        check_writable(file / below)
    assert file.read_text() == "kept"


def test_a_folder_without_permission_is_named():
    # Not even root makes files in /proc.
    with pytest.raises(OSError, match="cannot write to /proc/nothing "):
        check_writable("/proc/nothing")


def test_a_file_is_there_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with whole_file(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_former_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "former" and list(tmp_path.iterdir()) == [path]

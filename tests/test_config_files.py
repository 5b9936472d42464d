"""Config files of users, and what is said of those that make no config."""

import pytest

from ecgssl_jax.config_files import load
from ecgssl_jax.settings import ConfigError


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_a_function_without_a_parameter_is_called_without_an_argument(tmp_path):
    path = write(tmp_path, "def get_config(): return dict(steps=3)")
    assert load(str(path), {"steps": 4}) == {"steps": 4}


def test_the_file_gets_its_argument(tmp_path):
    path = write(tmp_path, "def get_config(arg): return dict(name=arg)")
    assert load(f"{path}:large", {}) == {"name": "large"}


def test_a_type_error_within_the_file_is_not_mistaken_for_its_argument(tmp_path):
    path = write(tmp_path, "def get_config(arg): return len(3)")
    with pytest.raises(TypeError, match="has no len"):
        load(f"{path}:large", {})


def test_settings_within_sequences_are_plain_too(tmp_path):
    text = """
from ml_collections import ConfigDict
def get_config():
    step = ("time_out", 1.0, ConfigDict(dict(seconds=(0.0, 1.0))))
    return ConfigDict(dict(views=((step,),), sets=[ConfigDict(dict(name="a"))]))
"""
    found = load(str(write(tmp_path, text)), {})
    assert type(found["views"][0][0][2]) is type(found["sets"][0]) is dict
    assert found["views"] == ((("time_out", 1.0, {"seconds": (0.0, 1.0)}),),)


@pytest.mark.parametrize(
    ("text", "argument", "message"),
    [
        ("def get_config(): return {}", ":a", "mine.py:a: the file takes no argument"),
        ("def get_config(arg): return {}", "", "mine.py: the file needs an argument"),
        ("def get_config(): return None", "", "get_config returned None; expected"),
        ("get_config = {}", "", "the file has no function get_config"),
        ("", "", "the file has no function get_config"),
    ],
)
def test_a_file_that_makes_no_config_is_an_error(tmp_path, text, argument, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        load(f"{path}{argument}", {})

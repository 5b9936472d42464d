"""How programs end."""

import pytest

from ecgssl_jax.errors import UserError, exit_with_message
from ecgssl_jax.settings import ConfigError


@pytest.mark.parametrize(
    "error", [UserError("too small"), ConfigError("too small"), OSError("too small")]
)
def test_an_error_of_the_user_ends_the_program_with_its_message(error):
    with (
        pytest.raises(SystemExit, match="^evaluate: too small$"),
        exit_with_message("evaluate"),
    ):
        raise error


def test_ctrl_c_ends_the_program_with_a_word(capsys):
    with pytest.raises(SystemExit) as ended, exit_with_message("evaluate"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "evaluate: interrupted\n"


def test_a_mistake_of_ours_keeps_its_traceback():
    with (
        pytest.raises(ValueError, match="^too small$"),
        exit_with_message("evaluate"),
    ):
        raise ValueError("too small")

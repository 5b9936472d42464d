import pytest

from ecgssl_jax.evaluation.markdown import figure, markdown_table, mean_figure


@pytest.mark.parametrize(
    ("value", "text"), [(0.8124, ".812"), (0.9996, "1.000"), (0.0, ".000")]
)
def test_only_a_leading_zero_is_left_out(value, text):
    assert figure(value) == text


def test_columns_are_as_wide_as_their_longest_cell():
    assert markdown_table(["name", "x"], [["a", ".5"], ["longer", ""]]) == (
        "| name   | x  |\n| ------ | -- |\n| a      | .5 |\n| longer |    |"
    )


@pytest.mark.parametrize(
    ("values", "text"), [([0.8124], ".812"), ([0.81, 0.82], ".815(07)")]
)
def test_several_values_have_their_standard_deviation_behind_them(values, text):
    assert mean_figure(values) == text

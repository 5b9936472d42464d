import pytest

from ecgssl_jax.data.readers.units import millivolts_per_unit


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("mV", 1.0),
        ("uV", 1e-3),
        ("µV", 1e-3),
        ("\u03bcV", 1e-3),
        ("V", 1e3),
        ("nV", 1e-6),
        (" MV ", 1.0),
        ("4.88uV", 4.88e-3),
        ("2.5e-3 mV", 2.5e-3),
    ],
)
def test_factors(unit, expected):
    assert millivolts_per_unit(unit) == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["", "mmHg", "0uV", "adu", "-1mV", "mV/s"])
def test_anything_else_is_an_error(unit):
    with pytest.raises(ValueError, match="none of V, mV"):
        millivolts_per_unit(unit)

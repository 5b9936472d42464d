import pytest

from ecgssl_jax.leads import LEADS, canonical_lead, lead_columns, stated_columns


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("I II III AVR avl Avf V1 v2", LEADS[:8]),
        ("DI DII DIII D1 d2 D3", LEADS[:3] * 2),
        ("MDC_ECG_LEAD_V6 ECG_aVF lead-II", ("V6", "aVF", "II")),
        ("RESP -aVR V7 MLII VI I+II", (None,) * 6),
    ],
)
def test_spellings_of_a_lead(names, expected):
    assert tuple(map(canonical_lead, names.split())) == expected


def test_columns_by_lead():
    assert lead_columns(["RESP", "v5", "AVR"]) == {"V5": 1, "aVR": 2}
    with pytest.raises(ValueError, match="are both lead II"):
        lead_columns(["II", "DII"])


def test_a_stated_name_that_is_unknown_is_an_error_with_a_near_match():
    with pytest.raises(ValueError, match="'aVRR'.*did you mean aVR.* - for a column"):
        stated_columns(["I", "aVRR"])
    with pytest.raises(ValueError, match="'RESP', 'PLETH': no standard lead"):
        stated_columns(["RESP", "I", "PLETH"])
    with pytest.raises(ValueError, match="none of"):
        stated_columns(["-", "-"])


def test_a_stated_column_may_be_left_out():
    assert stated_columns(["-", "II", " - ", "V1"]) == {"II": 1, "V1": 3}

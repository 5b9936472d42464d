"""Reports in their canonical form: which count as equal, and what they are numbered."""

import numpy as np
import pytest

from ecgssl_jax.data import reports


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Sinus Rhythm", "sinus  rhythm\t"),
        ("Sinusrhythmus. Linkstyp.", "sinusrhythmus, linkstyp"),
        ("Sinusrhythmus;Linkstyp!", "sinusrhythmus\r\nlinkstyp"),
        # Compatible characters: a ligature, a wide form, a composed letter.
        ("\ufb02at T", "flat T"),
        ("\uff26\uff2c\uff21\uff34 T", "flat T"),
        ("Verla\u0308ngerung", "VERLÄNGERUNG"),
        ("größer", "GRÖSSER"),
        # Soft hyphens and no-break spaces.
        ("Links\u00adtyp\u00a0normal", "linkstyp normal"),
        ("ST- Senkung V1 \u2013 V6", "st-senkung v1-v6"),
        ("V4 -V6", "V4-V6"),
        ("- Sinus rhythm\n- normal", "sinus rhythm\nnormal"),
        ("flutter / fibrillation", "flutter/fibrillation"),
        ('QRS(T) "abnormal"', "qrs t abnormal"),
        ("infarct ?", "infarct?"),
        ("Edit: NORM", "edit norm"),
        ("AV-Block I. Grades", "av-block i grades"),
        ("正常、窦性。", "正常,窦性"),
    ],
)
def test_spelling_that_means_the_same_is_one_text(one, other):
    assert reports.canonical_text(one) == reports.canonical_text(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("infarct", "infarct?"),
        ("ST by 0.2 mV", "ST by 02 mV"),
        ("ST by -0.2 mV", "ST by 0.2 mV"),
        ("2:1 block", "21 block"),
        ("V1-V6", "V1, V6"),
        ("rate > 100", "rate < 100"),
        ("sinus rhythm; normal", "sinus rhythm normal"),
        ("Linkstyp, Sinusrhythmus", "Sinusrhythmus, Linkstyp"),
        ("की", "का"),
    ],
)
def test_what_changes_the_meaning_is_another_text(one, other):
    assert reports.canonical_text(one) != reports.canonical_text(other)


def test_the_canonical_form_is_written_out():
    report = "Sinus rhythm.  T inverted in II, III , aVF; QRS 0,12 s (old MI?)"
    expected = "sinus rhythm; t inverted in ii, iii, avf; qrs 0,12 s old mi?"
    assert reports.canonical_text(report) == expected


def test_sorted_sentences_count_in_any_order_but_keep_their_leads():
    def canonical(report):
        return reports.canonical_text(report, sort_phrases=True)

    one = "Sinus rhythm. ST depressed in II, V5. T inverted in V4, 5 and aVF."
    assert canonical(one) == canonical(
        "T inverted in V4, 5 and aVF; ST depressed in II, V5; sinus rhythm"
    )
    swapped = "Sinus rhythm. ST depressed in V4, 5 and aVF. T inverted in II, V5."
    assert canonical(one) != canonical(swapped)


def test_sorting_leaves_what_follows_a_comma_with_its_finding():
    def canonical(report):
        return reports.canonical_text(report, sort_phrases=True)

    one = "Anterior infarct, age undetermined. Inferior infarct, old"
    assert canonical(one) == canonical(
        "Inferior infarct, old. Anterior infarct, age undetermined"
    )
    assert canonical(one) != canonical(
        "Anterior infarct, old. Inferior infarct, age undetermined"
    )
    for last in ("ST elevation in II", "Heart rate 70"):
        turned = (f"{last}. Sinus rhythm", f"Sinus rhythm. {last}.")
        assert canonical(turned[0]) == canonical(turned[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ischemia (-)", "Ischemia"),
        ("Ischemia (-), infarct (+)", "Ischemia, infarct (+)"),
        ("Troponin -", "Troponin"),
        ("biphasic T (+-)", "biphasic T (+)"),
        ("P +- in V1", "P -+ in V1"),
        ("infarct. ?", "infarct"),
        ("normal axis ? infarct", "normal axis? infarct"),
        ("ST by -.2 mV", "ST by .2 mV"),
        ("ST by .2 mV", "ST by. 2 mV"),
        ("5\u2030", "5"),
        ("10\u00b3", "103"),
        ("Tall R' in V1", "Tall R in V1"),
        ("RSR'", "RSR"),
        ("qR in V6", "Qr in V6"),
    ],
)
def test_what_means_something_else_is_not_the_same_text(one, other):
    assert reports.canonical_text(one) != reports.canonical_text(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("infarct. ?", "Infarct ?"),
        ("ST by .2 mV", "ST by 0.2 mV"),
        ("rSR\u2019 in V1", "rSR' in V1"),
        ("'Sinus rhythm'", "sinus rhythm"),
        ("- sinus rhythm", "Sinus rhythm"),
        ("AV-block I. degree", "AV-block I degree"),
    ],
)
def test_spelling_does_not_count(one, other):
    assert reports.canonical_text(one) == reports.canonical_text(other)


@pytest.mark.parametrize("sort_phrases", [False, True])
def test_the_canonical_form_is_its_own(sort_phrases):
    # Every kind of character that the rules treat, in random order.
    rng = np.random.default_rng(0)
    parts = list("aiv5. ,;:-/?!()\n%+'Rqs") + [
        "v4",
        "ii",
        "ß",
        "\u2013",
        "ª",
        ". ",
        ", ",
    ]
    for _ in range(3000):
        report = "".join(rng.choice(parts, rng.integers(1, 12)))
        once = reports.canonical_text(report, sort_phrases=sort_phrases)
        assert reports.canonical_text(once, sort_phrases=sort_phrases) == once, report


def test_the_canonical_form_is_in_normal_form():
    # Folding the case of this letter takes it apart.
    assert "\u01f0".casefold() == "j\u030c"
    assert reports.canonical_text("\u01f0") == "\u01f0"


@pytest.mark.parametrize("report", ["", "   ", "...", "- - ?!", "\u00ad\n;"])
def test_a_report_without_words_is_no_text(report):
    assert reports.canonical_text(report) == ""


def test_ids_are_equal_exactly_for_equal_texts():
    ids = reports.number_texts(["b", "", "a", "b", "", "c", "a"])
    assert ids.tolist() == [0, -1, 1, 0, -1, 2, 1] and ids.dtype == np.int32


def test_the_summary_counts_texts_distinct_ones_and_repeats():
    # 5 texts; the two a's and the two b's share theirs.
    assert reports.summarise(["a", "b", "", "a", "c", "b"]) == {
        "num_texts": 5,
        "num_distinct": 3,
        "share_repeated": 0.8,
    }
    assert reports.summarise(["", ""])["share_repeated"] == 0.0


def test_distinct_texts_come_in_the_order_of_their_first_occurrence():
    distinct, places = reports.distinct_texts(iter(["b", "", "a", "b", "", "c"]))
    assert distinct == ["b", "", "a", "c"]
    assert places.tolist() == [0, 1, 2, 0, 1, 3] and places.dtype == np.int32
    assert reports.distinct_texts([])[0] == []


def test_a_repeated_report_is_worked_out_once(monkeypatch):
    seen = []
    monkeypatch.setattr(
        reports, "canonical_text", lambda text, **settings: seen.append(text) or text
    )
    texts = ["b", "a", "b", "b"]
    assert reports.canonical_texts(texts) == texts
    assert seen == ["b", "a"]

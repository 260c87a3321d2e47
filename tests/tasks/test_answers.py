"""Numbers and facts out of free text: forms made by hand, closed forms, and properties of the scorers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_env.tasks.answers import (
    CORRECT,
    INCORRECT,
    INVALID,
    NOT_ATTEMPTED,
    final_number,
    flexible_extract,
    grade_fact,
    harness_match,
    normalised,
    share_of_steps,
    strict_match,
)

# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        ("1,200.", 1200),
        ("$18", 18),
        ("$18.", 18),
        ("18.00", 18),
        (r"\boxed{18}", 18),
        (r"\boxed{\$1{,}200} of 3", 1200),
        (r"so \boxed{18 \text{ dollars}} for 7 days", 18),
        (r"\boxed{1} and \boxed{2}", 2),
        (r"$\frac{3}{4}$", Fraction(3, 4)),
        ("3/4", Fraction(3, 4)),
        ("\u221218", -18),
        ("x = \u22121,200.50", Fraction("-1200.5")),
        ("-$5", -5),
        ("$-5", -5),
        ("16-3", 3),
        ("16 - 3", 3),
        ("5\u20136 apples", 6),
        ("The answer is not 5 but 6", 6),
        ("**18**", 18),
        ("1,2,3", 3),
        ("1,2000", 2000),
        (".5", Fraction(1, 2)),
        ("#### 18", 18),
        ("####18 of 20", 18),
        ("#### $1,200.", 1200),
        ("#### -5", -5),
        ("#### 18\n#### 19", 19),
        ("#### **18** eggs, not 3", 18),
        ("She has 3.\n#### 18\n\nThat took 2 steps", 18),
        ("it is 4\n#### none", 4),
        ("#### 5 + 13 = 18", 18),
        ("#### 5 + 13 = 18 of 20", 18),
        ("#### 18 = 5 + 13", 18),
        ("#### x = -5", -5),
        ("#### 2 * 9 = 20 - 2 = $18.", 18),
        ("#### 3/4 = 0.75", Fraction(3, 4)),
        ("#### 18 = total", 18),
        ("#### 5 + 13", 5),
        ("#### 5 + 13 =", 5),
        ("#### <<5+13=18>>18", 18),
        ("####\n18", 18),
        ("1,234,567.89", Fraction("1234567.89")),
        ("5/0", 0),
        ("no number", None),
        ("", None),
        ("####", None),
        ("nine", None),
        ("7" * 5000, None),
    ],
)
def test_the_final_number(text, number):
    assert final_number(text) == number


@given(st.text())
def test_extraction_is_total_deterministic_and_blind_to_surrounding_whitespace(text):
    for extract in (final_number, strict_match, flexible_extract):
        assert extract(text) == extract(text) == extract(f" \t{text}\n ")


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(
        ["{:d}", "{:,}", "{:,}.", "{:,}.00", "${:,}", "The answer is {:d}!", "#### {:,}", r"\boxed{{{:d}}}"]
    ),
    st.sampled_from(["", "She buys 3 for $4.50 each. ", "2 + 2 = <<2+2=4>>4\n"]),
    st.booleans(),
)
def test_a_written_number_is_read_back(number, form, working, unicode_minus):
    written = form.format(number).replace("-", "\u2212") if unicode_minus else form.format(number)
    assert final_number(working + written) == number


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_denied_does_not_count(wrong, right):
    assert final_number(f"The answer is not {wrong} but {right}") == right


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("#### 18", "18", "18"),
        ("#### 1,200.", "1,200.", "1,200."),
        ("####18", INVALID, "18"),
        ("#### $18", INVALID, "$18"),
        ("#### 1 #### 2", "1", "2"),
        ("The answer is $18.", INVALID, "$18."),
        ("\u221218", INVALID, "18"),
        ("#### ,", ",", INVALID),
        ("Wait, what...", INVALID, "..."),
        ("", INVALID, INVALID),
    ],
)
def test_the_harnesss_filters(text, strict, flexible):
    assert (strict_match(text), flexible_extract(text)) == (strict, flexible)


@pytest.mark.parametrize(
    ("extracted", "gold", "matches"),
    [
        ("1,200.", "Work.\n#### 1200", True),
        ("$18", "#### 18", True),
        ("18.00", "#### 18", False),
        ("18..", "#### 18", False),
        ("-5", "#### -5", True),
        (INVALID, "#### 18", False),
    ],
)
def test_the_harnesss_exact_match(extracted, gold, matches):
    assert harness_match(extracted, gold) is matches


# ---------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The U.S. Army", "us army"),
        ("J\u00f3hanna Sigur\u00f0ard\u00f3ttir.", "johanna sigur\u00f0ardottir"),
        ("twenty-one", "twenty one"),
        ("120,000", "120000"),
        ("3.5%", "3.5"),
        ("\uff11\uff18", "18"),
        ("O\u2019Brien's", "obriens"),
        ("The The", "the the"),
        ("  an   apple\n", "apple"),
        ("!?", ""),
    ],
)
def test_normalised_words(text, words):
    assert normalised(text) == words


@pytest.mark.parametrize(
    ("completion", "accepted", "outcome"),
    [
        (" Michio Sugeno.", ["Michio Sugeno"], CORRECT),
        ("MICHIO SUGENO", ["Michio Sugeno"], CORRECT),
        ("The answer is Violin.", ["violin"], CORRECT),
        ("It was the violin", ["violin"], CORRECT),
        ("KVOS", ["KVOS-TV", "KVOS"], CORRECT),
        ("Unknown", ["unknown"], CORRECT),
        ("35", ["3.5"], INCORRECT),
        ("violin or viola", ["violin"], INCORRECT),
        ("not violin", ["violin"], INCORRECT),
        ("violin, viola, cello, bass", ["viola"], INCORRECT),
        ("", ["violin"], NOT_ATTEMPTED),
        (" ... ", ["violin"], NOT_ATTEMPTED),
        ("I don't know.", ["violin"], NOT_ATTEMPTED),
        ("I\u2019m not sure", ["violin"], NOT_ATTEMPTED),
        ("Sorry, I cannot answer that", ["violin"], NOT_ATTEMPTED),
        ("That is not known.", ["violin"], NOT_ATTEMPTED),
        ("N/A", ["violin"], NOT_ATTEMPTED),
    ],
)
def test_facts_are_graded_by_their_words(completion, accepted, outcome):
    assert grade_fact(completion, accepted) == outcome


def test_a_similarity_can_call_more_answers_correct_but_grades_no_empty_ones():
    def shared_words(first, second):
        a, b = set(first.lower().split()), set(second.lower().split())
        return len(a & b) / len(a | b)

    assert grade_fact("poet Heinrich Heine", ["Heinrich Heine"], shared_words, least=0.6) == CORRECT
    assert grade_fact("poet Heinrich Heine", ["Heinrich Heine"], shared_words, least=0.9) == INCORRECT
    assert grade_fact("x", ["y", "X Z"], shared_words, least=0.5) == CORRECT
    assert grade_fact("", ["y"], lambda first, second: 1.0) == NOT_ATTEMPTED


@given(st.text(), st.lists(st.text(), min_size=1))
def test_grading_is_total_deterministic_and_blind_to_surrounding_whitespace(completion, accepted):
    outcome = grade_fact(completion, accepted)
    assert outcome in (CORRECT, INCORRECT, NOT_ATTEMPTED)
    assert grade_fact(f"\n {completion}\t", [f" {answer}\n" for answer in accepted]) == outcome


@given(st.text())
def test_an_answer_is_right_in_every_dress(answer):
    dressed = f" {answer.strip()}. "
    expected = CORRECT if normalised(answer) else NOT_ATTEMPTED
    assert grade_fact(dressed, [answer]) == expected
    assert normalised(normalised(answer)) == normalised(answer)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("He has 48/2 = 24 clips. 48+24 = 72. #### 72", 1.0),
        ("= 24, = 5, = 72", 1.0),
        ("= $24.00 and so on", 0.5),
        ("= 72, = 24", 0.5),  # out of order: 72 is not behind 24
        ("= 72", 0.0),
        ("24 72 #### 72", 0.0),
        ("", 0.0),
    ],
)
def test_the_share_of_steps_ends_at_the_first_that_is_missing(text, share):
    gold = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 in all.\n#### 72"
    assert share_of_steps(text, gold) == share


def test_a_gold_answer_without_steps_rewards_none():
    assert share_of_steps("= 7", "#### 7") == 0.0

"""Lettered options: which one a free answer means, what constrained decoding may choose, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_env.tasks.bbq import BBQ
from steer_env.tasks.chosen_option import chosen_option
from steer_env.tasks.data import Items, Row
from steer_env.tasks.mmlu import MMLU
from steer_env.tasks.mmlu_pro import MMLUPro
from steer_env.tasks.multiple_choice import LABELS, MIXED, MultipleChoice, Question, lettered

TOWNS = ("Paris", "London", "Rome", "Berlin")


class Towns(MultipleChoice):
    """The smallest task: a row holds its options and the place of the right one."""

    name = "towns"

    def question(self, row):
        return Question(row.text("question"), tuple(row.values["options"]), row.values["answer"], row.where)


def rows(*options, answer=0):
    return [Row({"question": "Where?", "options": list(named), "answer": answer}, f"t:{i}") for i, named in options]


def towns(decode="constrained", template="crl", options=TOWNS, answer=0, examples=(), **kwargs):
    items = Items(rows((1, options), answer=answer), "t", "test", seeded=False, examples=examples)
    return Towns(items, template, decode, kwargs.pop("max_new_tokens", 1), **kwargs)


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        # a letter and nothing else
        ("A", "A"),
        (" B", "B"),
        ("\n\tC \n", "C"),
        ("d", "D"),
        ("B.", "B"),
        ("(B)", "B"),
        ("b)", "B"),
        ("**C**", "C"),
        ('"D"', "D"),
        ("A:", "A"),
        # a letter and more
        ("B. London", "B"),
        ("(C) because it is warm", "C"),
        ("c) Rome", "C"),
        ("A: Paris", "A"),
        ("D, of course", "D"),
        # a verdict
        ("answer: b", "B"),
        ("Answer: B", "B"),
        ("ANSWER = (c)", "C"),
        ("The answer is C.", "C"),
        ("the answer is d", "D"),
        ("the answer is a", "A"),
        ("The correct answer would be (D)", "D"),
        ("I choose option b.", "B"),
        ("My choice: C", "C"),
        ("Final answer B", "B"),
        # several letters
        ("A says no, but the answer is B", "B"),
        ("A is tempting, still I take option D", "D"),
        ("The answer is C because option B is too cold", "C"),
        ("The answer is B. No, the answer is C.", "C"),
        ("B is the correct answer, A is silly", "B"),
        ("Statement A is true, so choice C", "C"),
        ("The answer to question A is B", "B"),
        ("A is the answer", "A"),
        ("A because it is warm", "A"),
        # several letters, and nothing that settles which
        ("A or B", ""),
        ("Answer: A B C D", ""),
        ("Answer: A, B, or C.", ""),
        ("the answer is a or b", ""),
        ("answer: a, b", ""),
        ("The answer is A or B", ""),
        ("The answer is (A) and/or (B)", ""),
        ("A/B", ""),
        ("A. Paris B. London", ""),
        ("It may be A, it may be B.", ""),
        ("I choose A or B", ""),
        ("Option A, option B", "B"),
        ("Option C is cold. The answer is A or B", ""),
        # several letters, and then a verdict
        ("A or B ... so the answer is B", "B"),
        ("Answer: A B C D, so the answer is C", "C"),
        ("The answer is A or B. I choose B.", "B"),
        ("The answer is A or B; option B", "B"),
        ("The answer is A or B, and B is right", "B"),
        ("Between A and B, I'd go with B", "B"),
        ("It may be A or B. C is the best.", "C"),
        ("A A A", "A"),
        ("The answer is C, B is too cold", "C"),
        ("The answer is C. A and B are too cold.", "C"),
        ("The answer is B or, if it is late, C", "B"),
        # denials
        ("The answer is not B but C", "C"),
        ("The answer isn't B but C", "C"),
        ("The answer isn’t B but C", "C"),
        ("It is not (A), it is (D)", "D"),
        ("not option A, option B", "B"),
        ("Neither A nor B: C", "C"),
        ("It cannot be A or B, so D", "D"),
        ("C rather than A", "C"),
        ("B is wrong; C", "C"),
        ("A is not right, D is", "D"),
        ("A isn't right, D is", "D"),
        ("The answer is C, not B", "C"),
        ("not B", ""),
        # texts of options
        ("Rome", "C"),
        ("  rome. ", "C"),
        ("It is London!", "B"),
        ("not Paris but London", "B"),
        ("London is wrong, Berlin", "D"),
        ("Paris or London", ""),
        ("not Paris", ""),
        ("Romeo", ""),
        # articles and other words
        ("A dog", ""),
        ("a dog", ""),
        ("A big dog in Rome", "C"),
        ("I think it is B", "B"),
        ("I'd say B", "B"),
        ("a", "A"),
        ("the answer is a dog", ""),
        # none
        ("", ""),
        (" \n ", ""),
        (".", ""),
        ("E", ""),
        ("I do not know", ""),
        ("ABCD", ""),
        ("Because", ""),
        ("B2", ""),
        ("1", ""),
    ],
)
def test_what_a_free_answer_means(said, letter):
    assert chosen_option(said, TOWNS) == ("ABCD".index(letter) if letter else None)


@pytest.mark.parametrize(
    ("said", "options", "place"),
    [
        ("It is vitamin C", ("vitamin C", "vitamin D", "iron", "zinc"), 0),  # part of an option's text, not a letter
        ("B. Vitamin C", ("vitamin D", "vitamin C", "iron", "zinc"), 1),
        ("Bb bb", ("BB BB", "BB Bb", "Bb Bb", "Bb bb"), 3),  # letter case tells options apart
        ("bb bb", ("BB BB", "BB Bb", "Bb Bb", "Bb bb"), None),
        ("14", ("4", "14", "41", "1"), 1),
        ("I get 14", ("4", "14", "41", "1"), 1),  # "4" is not in it
        ("a hot dog", ("dog", "hot dog", "cat"), 1),  # the longer one
        ("same", ("same", "same", "other"), None),
        ("A", ("B", "A", "AB", "0"), 0),  # the letter goes before the text
        ("A only.", ("B only", "A only", "both", "neither"), 1),
        ("", (".", "x"), None),
        ("J", tuple("0123456789"), 9),
        ("I", tuple("0123456789"), 8),
        ("I think it is J", tuple("0123456789"), 9),
        ("The answer is 2 (x+1)", ("x", "2 (x+1)"), 1),  # signs of regular expressions are only signs
    ],
)
def test_options_may_hold_letters_numbers_and_one_another(said, options, place):
    assert chosen_option(said, options) == place


WORDS = st.lists(
    st.sampled_from(
        ["A", "b", "(C)", "D.", "not", "answer", "is", ":", "option", "Paris", "rome", "or", "I", "a", "\n"]
    )
).map(" ".join)
OPTIONS = st.lists(st.one_of(st.sampled_from(TOWNS), st.text(max_size=8)), min_size=2, max_size=10)


@given(st.one_of(st.text(max_size=80), WORDS), OPTIONS, st.text(" \t\n\r\u00a0\u3000", max_size=3))
def test_the_extraction_is_total_deterministic_and_blind_to_surrounding_whitespace(said, options, space):
    place = chosen_option(said, options)
    assert place is None or 0 <= place < len(options)
    assert chosen_option(said, options) == place
    assert chosen_option(space + said + space, options) == place


@given(
    st.integers(0, 9),
    st.integers(2, 10),
    st.sampled_from(["{}", " {}", "{}.", "({})", "**{}**", "Answer: {}", "The answer is ({}).", "option {}", "{}\n"]),
)
def test_a_letter_is_read_back_in_every_dress_and_only_if_there_is_such_an_option(place, count, dress):
    said = dress.format("ABCDEFGHIJ"[place])
    assert chosen_option(said, [f"town {i}x" for i in range(count)]) == (place if place < count else None)


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from(["not {} but {}", "{} is wrong; {}"]))
def test_what_is_denied_does_not_count(wrong, right, form):
    meant = "ABCD".index(right) if form == "{} is wrong; {}" or wrong != right else chosen_option(right, TOWNS)
    assert chosen_option(form.format(wrong, right), TOWNS) == meant


def test_constrained_decoding_may_choose_the_letters_and_free_decoding_anything():
    assert towns().start(0).choices == (" A", " B", " C", " D")
    assert towns(options="xy").start(0).choices == (" A", " B")
    ten = towns(options="0123456789").start(0).choices
    assert ten == (" A", " B", " C", " D", " E", " F", " G", " H", " I", " J")
    assert towns(decode="free").start(0).choices == ()
    assert towns().stop == ("\n",)


@pytest.mark.parametrize("task", [MMLU, MMLUPro, BBQ])
def test_a_free_answer_has_room_for_a_sentence(task):
    assert task().max_new_tokens == 1
    assert task(decode="free").max_new_tokens == 32
    assert task(decode="free", max_new_tokens=4).max_new_tokens == 4


@pytest.mark.parametrize("decode", ["constrained", "free"])
def test_grades(decode):
    for said, score, outcome, answer in [
        (" C", 1.0, "correct", "C"),
        (" A", 0.0, "incorrect", "A"),
    ]:
        turn = towns(decode=decode, answer=2).start(0).respond(said)
        assert (turn.score, turn.reward, turn.text) == (score, score, "")
        assert turn.info == {"outcome": outcome, "answer": answer, "target": "C"}
    turn = towns(decode="free", answer=2).start(0).respond("who knows")
    assert (turn.score, turn.reward) == (0.0, 0.0)
    assert turn.info == {"outcome": "unparseable", "answer": "", "target": "C"}


def test_both_prompts_to_the_letter():
    asked = "Where?\nA. Paris\nB. London\nC. Rome\nD. Berlin"
    assert towns().start(0).opening == asked + "\nChoose one of the following options only.\nAnswer:"
    assert towns(template="harness").start(0).opening == asked + "\nAnswer:"
    assert lettered(Question(" Where? \n", TOWNS, 0, "t:1")) == asked


def test_examples_stand_solved_in_front():
    shown = [
        Row({"question": "Which?", "options": ["x", "y"], "answer": 1}, "dev:1"),
        Row({"question": "What?", "options": ["v", "w"], "answer": 0}, "dev:2"),
    ]
    task = towns(template="harness", options="pq", examples=shown, few_shot=1)
    assert task.start(0).opening == "Which?\nA. x\nB. y\nAnswer: B\n\nWhere?\nA. p\nB. q\nAnswer:"
    assert task.data_record()["few_shot"] == 1
    with pytest.raises(ValueError, match="few_shot must be at most 2 for '', got 3"):
        towns(examples=shown, few_shot=3)


def test_an_item_is_answered_once_and_rendered():
    conversation = towns(answer=1).start(0)
    assert conversation.render() == "Where?\nA. Paris\nB. London\nC. Rome\nD. Berlin"
    conversation.respond(" A")
    assert conversation.render().endswith("D. Berlin\nanswer: A (target: B; incorrect)")
    with pytest.raises(RuntimeError, match="incorrect"):
        conversation.respond(" B")
    assert conversation.state().shape == (0,)


def test_the_summary_counts_unparseable_apart():
    finals = [towns(decode="free").start(0).respond(said).info for said in ("A", "B", "C", "?", "A")]
    assert towns().summary(finals) == {"accuracy": 0.4, "unparseable": 0.2}
    assert towns().summary([]) == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"template": "x"}, "template must be one of 'crl', 'harness', got 'x'"),
        ({"decode": "greedy"}, "decode must be one of 'constrained', 'free', 'words', got 'greedy'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be an integer of at least 1, got 1.5"),
        ({"options": "01234567890"}, "t:1: a question has 2 to 10 options, got 11"),
        ({"options": "0"}, "t:1: a question has 2 to 10 options, got 1"),
        ({"answer": 4}, r"t:1: answer must be in \[0, 4\), got 4"),
        ({"answer": -1}, r"t:1: answer must be in \[0, 4\), got -1"),
    ],
)
def test_bad_arguments_and_rows_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        towns(**wrong)


def test_an_item_beyond_the_split_is_refused():
    with pytest.raises(ValueError, match=r"item must be in \[0, 1\) for split 'test', got 1"):
        towns().start(1)


@pytest.mark.parametrize(
    ("said", "letters", "label"),
    [
        ("2", "123", "2"),
        (" 10", "123", "10"),
        ("(3)", "123", "3"),
        ("2. London", "123", "2"),
        ("The answer is 3.", "123", "3"),
        ("not 1 but 2", "123", "2"),
        ("1 or 2", "123", ""),
        ("Option 4", "123", "4"),
        ("It is 1.5", "123", ""),
        ("2 dogs in Rome", "123", "3"),
        ("50%", "123", ""),
        ("A", "123", ""),
        ("Q", "PQR", "Q"),
        ("the answer is q", "PQR", "Q"),
        ("(R) because it is warm", "PQR", "R"),
        ("R is right, P is silly", "PQR", "R"),
        ("P or Q", "PQR", ""),
        ("B", "PQR", ""),
        ("It's Rome, I don't doubt it", "PQR", "R"),
        ("L", "KLM", "L"),
    ],
)
def test_what_a_free_answer_means_with_other_labels(said, letters, label):
    options = [f"town {i}x" for i in range(10)] if label == "10" else TOWNS
    place = chosen_option(said, options, LABELS[letters])
    assert (LABELS[letters][place] if place is not None else "") == label


@given(st.one_of(st.text(max_size=80), WORDS), OPTIONS, st.sampled_from(sorted(LABELS)))
def test_the_extraction_is_total_with_every_alphabet(said, options, letters):
    place = chosen_option(said, options, LABELS[letters])
    assert place is None or 0 <= place < len(options)


@pytest.mark.parametrize("letters", sorted(LABELS))
def test_other_labels_stand_in_prompt_choices_and_record(letters):
    task, labels = towns(letters=letters, answer=2), LABELS[letters]
    talk = task.start(0)
    lines = "\n".join(f"{label}. {town}" for label, town in zip(labels, TOWNS, strict=False))
    assert talk.opening == f"Where?\n{lines}\nChoose one of the following options only.\nAnswer:"
    assert talk.choices == tuple(f" {label}" for label in labels[:4])
    assert task.reference(0) == f" {labels[2]}"
    assert talk.respond(f" {labels[2]}").info == {"outcome": "correct", "answer": labels[2], "target": labels[2]}
    assert task.data_record().get("letters", "ABC") == letters


def test_mixed_labels_are_drawn_by_item_and_examples_have_those_of_the_item():
    asked = [Row({"question": f"Where {i}?", "options": TOWNS, "answer": 0}, f"t:{i}") for i in range(60)]
    shown = [Row({"question": "Which?", "options": ["x", "y"], "answer": 1}, "dev:1")]
    task = Towns(Items(asked, "t", "test", seeded=False, examples=shown), letters="mixed", few_shot=1)
    first = [task.reference(item).strip() for item in range(60)]
    assert set(first) == {LABELS[name][0] for name in MIXED}
    for item, label in enumerate(first):
        second = next(LABELS[name][1] for name in MIXED if LABELS[name][0] == label)
        assert task.start(item).opening.startswith(f"Which?\n{label}. x\n{second}. y\n")
    alone = Towns(Items(asked[5:], "t", "test", seeded=False), letters="mixed")
    assert [alone.reference(item).strip() for item in range(55)] == first[5:], "whatever else is asked"


def test_options_are_reordered_by_item_and_the_right_one_moves_along():
    asked = [Row({"question": f"Where {i}?", "options": TOWNS, "answer": 2}, f"t:{i}") for i in range(60)]
    tasks = {seed: Towns(Items(asked, "t", "test", seeded=False), shuffle_options=seed) for seed in (0, 1)}
    orders = {seed: [task.start(item).opening for item in range(60)] for seed, task in tasks.items()}
    assert orders[0] != orders[1]
    for item in range(60):
        letter = tasks[0].reference(item).strip()
        lines = tasks[0].start(item).opening.splitlines()
        assert f"{letter}. Rome" in lines
        assert sorted(line[3:] for line in lines[1:5]) == sorted(TOWNS)
        turn = tasks[0].start(item).respond(f" {letter}")
        assert (turn.score, turn.info["target"]) == (1.0, letter)
    assert {tasks[0].reference(item) for item in range(60)} == {" A", " B", " C", " D"}
    assert tasks[1].data_record()["shuffle_options"] == 1
    for wrong in (-1, True, 1.5):
        with pytest.raises(ValueError, match="shuffle_options must be an integer of at least 0"):
            towns(shuffle_options=wrong)


def test_an_answer_in_words_is_an_option_word_for_word():
    task = towns(decode="words", options=("New\n York", "London", "Rome", "London"), answer=3)
    talk = task.start(0)
    assert talk.opening == towns(options=("New\n York", "London", "Rome", "London")).start(0).opening
    assert talk.choices == (" New York", " London", " Rome"), "what reads alike is one choice"
    assert (task.reference(0), task.max_new_tokens) == (" London", 1)
    assert talk.respond("London").info == {"outcome": "correct", "answer": "D", "target": "D"}
    assert task.start(0).respond(" New York").info == {"outcome": "incorrect", "answer": "A", "target": "D"}
    assert task.start(0).respond(" D").info["outcome"] == "unparseable"


def test_the_instruction_names_what_is_asked_for():
    said = {way: towns(**way_of).instruction for way, way_of in INSTRUCTED.items()}
    assert said == {way: f"Answer with the {way} of the right option." for way in INSTRUCTED}


INSTRUCTED = {
    "letter": {"letters": "PQR"},
    "number": {"letters": "123"},
    "label": {"letters": "mixed"},
    "words": {"decode": "words", "letters": "123"},
}

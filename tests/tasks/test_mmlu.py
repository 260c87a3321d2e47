"""MMLU and MMLU-Pro: prompts to the letter, subjects, both layouts, examples from dev, and what is refused."""

import json
from pathlib import Path

import pytest

from steer_env.tasks.data import Row, split_sha256
from steer_env.tasks.mmlu import MMLU, subject_of
from steer_env.tasks.mmlu_pro import MMLUPro
from steer_env.tasks.world import world_rows

SPLITS = ("train", "validation", "test")
SUBJECTS = ("anatomy", "astronomy", "world_religions")
SUBJECTS_OF_MMLU = 57


def row(question, subject="anatomy", answer=1, choices=("rib", "ulna", "tibia", "hip")):
    return {"question": question, "subject": subject, "choices": list(choices), "answer": answer}


def pro_row(question, category="law", answer=6, options="stuvwxy"):
    return {"question": question, "options": list(options), "answer_index": answer, "category": category}


def write(folder, **splits):
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    """Three subjects, four questions of each in test and two in dev; training rows name no subject."""
    return write(
        tmp_path / "mmlu",
        test=[row(f"Which {subject} {i}?", subject, i) for subject in SUBJECTS for i in range(4)],
        validation=[row("Which one?")],
        dev=[row(f"Seen {subject} {i}?", subject, 3 - i) for subject in SUBJECTS for i in range(2)],
        auxiliary_train=[row(f"From elsewhere {i}?", "") for i in range(5)],
    )


def asked(task):
    return [item.values["question"] for item in task.items.rows]


# ---------------------------------------------------------------- MMLU: prompts


def test_the_prompt_with_an_instruction(folder):
    conversation = MMLU(split="test", data=folder).start(1)
    assert conversation.opening == (
        "Which anatomy 1?\nA. rib\nB. ulna\nC. tibia\nD. hip\nChoose one of the following options only.\nAnswer:"
    )
    assert conversation.choices == (" A", " B", " C", " D")


def test_the_prompt_of_the_harness_with_examples_of_the_subject(folder):
    conversation = MMLU(split="test", data=folder, template="harness", few_shot=2).start(8)
    assert conversation.opening == (
        "The following are multiple choice questions (with answers) about world religions.\n\n"
        "Seen world_religions 0?\nA. rib\nB. ulna\nC. tibia\nD. hip\nAnswer: D\n\n"
        "Seen world_religions 1?\nA. rib\nB. ulna\nC. tibia\nD. hip\nAnswer: C\n\n"
        "Which world_religions 0?\nA. rib\nB. ulna\nC. tibia\nD. hip\nAnswer:"
    )


def test_examples_with_an_instruction(folder):
    conversation = MMLU(split="test", data=folder, few_shot=1, decode="free", max_new_tokens=4).start(5)
    instruction = "\nChoose one of the following options only.\nAnswer:"
    assert conversation.opening == (
        f"Seen astronomy 0?\nA. rib\nB. ulna\nC. tibia\nD. hip{instruction} D\n\n"
        f"Which astronomy 1?\nA. rib\nB. ulna\nC. tibia\nD. hip{instruction}"
    )
    assert conversation.choices == ()


def test_examples_are_never_asked_and_are_counted(folder):
    task = MMLU(split="test", data=folder, few_shot=2)
    assert not any(question.startswith("Seen") for question in asked(task))
    assert task.data_record() == {
        **MMLU(split="test", data=folder).data_record(),
        "few_shot": 2,
        "examples_sha256": split_sha256(
            [Row(row(f"Seen {subject} {i}?", subject, 3 - i), "") for subject in SUBJECTS for i in range(2)]
        ),
    }
    assert {name: MMLU(split="test", data=folder).data_record()[name] for name in ("data", "split", "items")} == {
        "data": folder,
        "split": "test",
        "items": 12,
    }


def test_the_record_knows_the_examples_that_are_shown_and_no_others(folder):
    def record(**given):
        return MMLU(split="test", data=folder, **given).data_record()

    two, astronomy = record(few_shot=2), record(few_shot=1, subject="astronomy")
    dev = Path(folder) / "dev.jsonl"
    dev.write_text(dev.read_text().replace("Seen anatomy 1", "Seen anatomy one"))
    assert record(few_shot=2)["examples_sha256"] != two["examples_sha256"]
    assert record(few_shot=2)["sha256"] == two["sha256"], "the items are the same"
    assert record(few_shot=1, subject="astronomy") == astronomy
    assert "examples_sha256" not in record()


def test_space_around_a_question_is_not_shown_and_inside_options_is(tmp_path):
    data = write(tmp_path / "m", test=[row("  Which?\n", choices=(" a ", "b", "c", "d"))])
    assert (
        MMLU(split="test", data=data, template="harness")
        .start(0)
        .opening.endswith("about anatomy.\n\nWhich?\nA.  a \nB. b\nC. c\nD. d\nAnswer:")
    )


# ---------------------------------------------------------------- MMLU: rows, subjects, splits


@pytest.mark.parametrize(("answer", "letter"), [(0, "A"), (1, "B"), (2, "C"), (3, "D"), ("A", "A"), ("D", "D")])
def test_the_right_letter(tmp_path, answer, letter):
    task = MMLU(split="test", data=write(tmp_path / "m", test=[row("Which?", answer=answer)]))
    for said in "ABCD":
        turn = task.start(0).respond(f" {said}")
        assert (turn.score, turn.info["target"]) == (float(said == letter), letter)
        assert turn.info["subject"] == "anatomy"


def test_one_subject(folder):
    assert asked(MMLU(split="test", data=folder, subject="astronomy")) == [f"Which astronomy {i}?" for i in range(4)]
    assert len(MMLU(split="test", data=folder)) == 12


def test_an_unknown_subject_is_named_beside_those_like_it(folder):
    with pytest.raises(ValueError, match=r"unknown subject 'astrology' in split 'test'; did you mean \['astronomy'"):
        MMLU(split="test", data=folder, subject="astrology")
    with pytest.raises(ValueError, match=r"'xyz' .* did you mean \['anatomy', 'astronomy', 'world_religions'\]\?"):
        MMLU(split="test", data=folder, subject="xyz")


def test_all_subjects_of_the_data_set_are_told_apart(tmp_path):
    names = [f"subject_{i}" for i in range(SUBJECTS_OF_MMLU)]
    task = MMLU(split="test", data=write(tmp_path / "m", test=[row(f"Is it {name}?", name) for name in names]))
    finals = [task.start(item).respond(" B" if item < 19 else " A").info for item in range(len(task))]
    assert {final["subject"] for final in finals} == set(names)
    assert task.summary(finals)["macro_accuracy"] == pytest.approx(19 / 57)


def test_training_rows_name_no_subject(folder):
    task = MMLU(data=folder, template="harness")
    assert len(task) == 5
    assert task.start(0).opening.startswith("The following are multiple choice questions (with answers).\n\nFrom else")
    assert task.start(0).respond(" B").info["subject"] == ""
    with pytest.raises(ValueError, match="split 'train' name no subject; take splits='seeded' to have 'anatomy' in it"):
        MMLU(data=folder, subject="anatomy")
    with pytest.raises(ValueError, match="few_shot must be at most 0 for '', got 2"):
        MMLU(data=folder, few_shot=2)


def test_training_rows_may_be_nested(tmp_path):
    data = write(tmp_path / "m", auxiliary_train=[{"train": row("Which?", "")}])
    assert MMLU(data=data).start(0).respond(" B").score == 1.0


def test_seeded_splits_share_no_question(tmp_path):
    questions = [f"Which of {i}?" for i in range(300)]
    rows = [row(question, answer=answer) for question in questions for answer in (0, 1)]  # each is asked twice
    data = write(tmp_path / "m", test=rows)
    tasks = [MMLU(split=split, data=data, splits="seeded") for split in SPLITS]
    found = [set(asked(task)) for task in tasks]
    assert sum(map(len, tasks)) == 600
    assert set.union(*found) == set(questions)
    assert sum(map(len, found)) == 300
    assert [task.data_record()["seeded_split"] for task in tasks] == [True, True, True]
    assert len({task.data_record()["sha256"] for task in tasks}) == 3


def test_the_original_release(tmp_path):
    for name, lines in {
        "test/high_school_physics_test.csv": 'Which?,1,2,3,4,D\n"How, and why?",1,2,3,4,A\n',
        "dev/high_school_physics_dev.csv": "Seen?,1,2,3,4,C\n",
        "val/high_school_physics_val.csv": "Which is it?,1,2,3,4,B\n",
        "auxiliary_train/mc_test.csv": "A tale. Who?,1,2,3,4,B\n",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(lines)
    task = MMLU(split="test", data=str(tmp_path), template="harness", few_shot=1)
    assert len(task) == 2
    assert task.start(1).opening == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Seen?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\nHow, and why?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert task.start(1).respond(" A").score == 1.0
    assert asked(MMLU(split="validation", data=str(tmp_path))) == ["Which is it?"]
    train = MMLU(split="train", data=str(tmp_path), template="harness")
    assert asked(train) == ["A tale. Who?"]
    assert train.start(0).respond(" B").info["subject"] == ""  # and not "mc", from the file's name


def test_the_embedded_world_is_asked_by_default():
    task, rows = MMLU(), world_rows("mmlu", "train")
    assert len(task) == len(rows)
    assert task.data_record()["data"] == "embedded"
    letter = "ABCD"[rows[5]["answer"]]
    assert task.start(5).respond(f" {letter}").score == 1.0
    with pytest.raises(ValueError, match="few_shot must be 0 in the embedded world, which has no dev split, got 3"):
        MMLU(few_shot=3)


def test_the_summary_weighs_subjects_alike(folder):
    task = MMLU(split="test", data=folder, decode="free")
    # anatomy 3 of 4, astronomy 1 of 2, none of world religions; items' targets go A B C D within a subject.
    said = {0: "A", 1: "B", 2: "C", 3: "A", 4: "A", 5: "?", 8: "C"}
    found = task.summary([task.start(item).respond(text).info for item, text in said.items()])
    assert found == pytest.approx({"accuracy": 4 / 7, "unparseable": 1 / 7, "macro_accuracy": (3 / 4 + 1 / 2 + 0) / 3})
    assert task.summary([]) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, r"test\.jsonl:2: answer must be in \[0, 4\), got 4"),
        ({"answer": "E"}, r"test\.jsonl:2: answer must be in \[0, 4\), got 4"),
        ({"answer": "AB"}, r"test\.jsonl:2: answer must be a place or a letter, got 'AB'"),
        ({"answer": ""}, r"test\.jsonl:2: answer must be a place or a letter, got ''"),
        ({"answer": None}, r"test\.jsonl:2: answer must be a place or a letter, got None"),
        ({"answer": True}, r"test\.jsonl:2: answer must be a place or a letter, got True"),
        ({"question": " "}, r"test\.jsonl:2: question must be text, got ' '"),
        ({"choices": "abcd"}, r"test\.jsonl:2: choices must be a list of texts, got 'abcd'"),
        ({"choices": ["a", 2]}, r"test\.jsonl:2: choices must be a list of texts, got \['a', 2\]"),
        ({"choices": ["a"], "answer": 0}, r"test\.jsonl:2: a question has 2 to 10 options, got 1"),
        ({"choices": ["a"] * 11}, r"test\.jsonl:2: a question has 2 to 10 options, got 11"),
    ],
)
@pytest.mark.parametrize("splits", ["own", "seeded"])
def test_a_malformed_row_is_named(tmp_path, change, message, splits):
    data = write(tmp_path / "m", test=[row("Which?"), row("Which one?") | change])
    # sha256sum of "0:which one?" is .25 of the whole range: the seeded split is train.
    with pytest.raises(ValueError, match=message):
        MMLU(split="test" if splits == "own" else "train", data=data, splits=splits)


@pytest.mark.parametrize("column", ["question", "subject", "choices", "answer"])
@pytest.mark.parametrize("splits", ["own", "seeded"])
def test_a_missing_column_is_named(tmp_path, column, splits):
    values = {name: value for name, value in row("Which one?").items() if name != column}
    data = write(tmp_path / "m", test=[row("Which?"), values])
    message = "answer must be a place or a letter, got None" if column == "answer" else f"column '{column}' is missing"
    with pytest.raises(ValueError, match=rf"test\.jsonl:2: {message}"):
        MMLU(split="test" if splits == "own" else "train", data=data, splits=splits)


def test_a_subject_is_the_column_or_the_files_name():
    assert subject_of(Row({"subject": "law", "file": "x_test.csv"}, "f:1")) == "law"
    assert subject_of(Row({"file": "us_foreign_policy_test.csv"}, "f:1")) == "us_foreign_policy"
    assert subject_of(Row({"file": "arc_easy.csv"}, "f:1")) == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "dev"}, "split must be one of 'train', 'validation', 'test', got 'dev'"),
        ({"splits": "random"}, "splits must be one of 'own', 'seeded', got 'random'"),
        ({"template": "chat"}, "template must be one of 'crl', 'harness', got 'chat'"),
        ({"decode": "greedy"}, "decode must be one of 'constrained', 'free', 'words', got 'greedy'"),
        ({"few_shot": -1}, "few_shot must be an integer of at least 0, got -1"),
        ({"few_shot": 0.5}, "few_shot must be an integer of at least 0, got 0.5"),
        ({"few_shot": True}, "few_shot must be an integer of at least 0, got True"),
        ({"few_shot": 3}, "few_shot must be at most 2 for 'anatomy', got 3"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"max_new_tokens": True}, "max_new_tokens must be an integer of at least 1, got True"),
        ({"subject": None}, "subject must be text, got None"),
        ({"subject": ["anatomy"]}, r"subject must be text, got \['anatomy'\]"),
        ({"data": ""}, "data must be 'embedded', 'hub', a hub id, .* got ''"),
        ({"data": "/no/such"}, "data must be 'embedded', 'hub', a hub id, or a file or folder that exists"),
    ],
)
def test_bad_arguments_are_named(folder, wrong, message):
    with pytest.raises(ValueError, match=message):
        MMLU(**{"split": "test", "data": folder, **wrong})


# ---------------------------------------------------------------- MMLU-Pro


def test_ten_options_are_lettered_to_j(tmp_path):
    data = write(tmp_path / "p", sample=[pro_row(f"Which {i}?", answer=9, options="klmnopqrst") for i in range(20)])
    task = MMLUPro(split="test", data=data)
    question = asked(task)[0]
    conversation = task.start(0)
    assert conversation.opening == (
        f"{question}\nA. k\nB. l\nC. m\nD. n\nE. o\nF. p\nG. q\nH. r\nI. s\nJ. t\n"
        "Choose one of the following options only.\nAnswer:"
    )
    assert conversation.choices == tuple(f" {letter}" for letter in "ABCDEFGHIJ")
    turn = conversation.respond(" J")
    assert (turn.score, turn.info["target"], turn.info["category"]) == (1.0, "J", "law")


@pytest.mark.parametrize("count", range(2, 11))
def test_a_question_may_have_fewer_options(tmp_path, count):
    options = "klmnopqrst"[:count]
    data = write(tmp_path / "p", sample=[pro_row(f"Which {i}?", answer=count - 1, options=options) for i in range(20)])
    conversation = MMLUPro(split="test", data=data).start(0)
    assert len(conversation.choices) == count
    assert conversation.respond(f" {'ABCDEFGHIJ'[count - 1]}").score == 1.0


def test_every_question_of_mmlu_pro_is_in_one_split(tmp_path):
    data = write(tmp_path / "p", sample=[pro_row(f"Which {i}?") for i in range(200)])
    tasks = [MMLUPro(split=split, data=data) for split in SPLITS]
    questions = [question for task in tasks for question in asked(task)]
    assert len(questions) == len(set(questions)) == 200
    assert all(task.data_record()["seeded_split"] for task in tasks)


def test_examples_of_mmlu_pro_are_of_the_category(tmp_path):
    data = write(
        tmp_path / "p",
        test=[pro_row(f"Which {i}?", ("law", "math")[i % 2]) for i in range(40)],
        validation=[pro_row(f"Seen {name} {i}?", name, i, "st") for name in ("math", "law") for i in range(2)],
    )
    task = MMLUPro(split="test", data=data, few_shot=2)
    instruction = "\nChoose one of the following options only.\nAnswer:"
    for item in range(4):
        name = task.items.rows[item].values["category"]
        shown = "".join(f"Seen {name} {i}?\nA. s\nB. t{instruction} {letter}\n\n" for i, letter in enumerate("AB"))
        assert task.start(item).opening.startswith(f"{shown}{asked(task)[item]}\nA. s\n")
    assert task.data_record()["few_shot"] == 2
    assert len(task) + sum(len(MMLUPro(split=split, data=data)) for split in ("train", "validation")) == 40
    with pytest.raises(ValueError, match="few_shot must be at most 2 for 'law', got 5"):
        MMLUPro(split="test", data=data, few_shot=5)


def test_the_embedded_world_has_mmlu_pro_too():
    task, rows = MMLUPro(split="test"), world_rows("mmlu_pro", "test")
    assert len(task) == len(rows)
    assert {len(task.start(item).choices) for item in range(len(task))} == {5, 6, 7, 8, 9, 10}
    assert task.start(3).respond(f" {rows[3]['answer']}").score == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_index": 7}, r"sample\.jsonl:1: answer must be in \[0, 7\), got 7"),
        ({"answer": "B"}, r"sample\.jsonl:1: answer 'B' contradicts answer_index 6 \('G'\)"),
        ({"answer": "b"}, r"sample\.jsonl:1: answer 'b' contradicts answer_index 6 \('G'\)"),
        ({"answer_index": "G"}, r"sample\.jsonl:1: answer_index must be an integer, got 'G'"),
        ({"options": "stuv"}, r"sample\.jsonl:1: options must be a list of texts, got 'stuv'"),
        ({"options": list("01234567890")}, r"sample\.jsonl:1: a question has 2 to 10 options, got 11"),
        ({"question": ""}, r"sample\.jsonl:1: question must be text, got ''"),
        ({"category": None}, r"sample\.jsonl:1: category must be text, got None"),
    ],
)
def test_a_malformed_row_of_mmlu_pro_is_named(tmp_path, change, message):
    data = write(tmp_path / "p", sample=[pro_row("Which?") | change])
    with pytest.raises(ValueError, match=message):
        MMLUPro(split="test", data=data)  # sha256sum of "0:which?" is .64 of the whole range


@pytest.mark.parametrize("said", [{"answer": "G"}, {"answer": "g"}, {"answer": "y"}, {"answer": None}, {}])
def test_an_answer_of_mmlu_pro_may_be_told_twice(tmp_path, said):
    data = write(tmp_path / "p", sample=[pro_row("Which?") | said])
    assert MMLUPro(split="test", data=data).start(0).respond(" G").score == 1.0


def test_bad_arguments_of_mmlu_pro_are_named(tmp_path):
    data = write(tmp_path / "p", sample=[pro_row(f"Which {i}?") for i in range(20)])
    with pytest.raises(ValueError, match="few_shot must be an integer of at least 0, got -2"):
        MMLUPro(data=data, few_shot=-2)
    with pytest.raises(ValueError, match="few_shot must be an integer of at least 0, got True"):
        MMLUPro(data=data, few_shot=True)
    with pytest.raises(ValueError, match="has no split 'validation'"):
        MMLUPro(data=data, few_shot=1)
    values = {name: value for name, value in pro_row("Which?").items() if name != "options"}
    with pytest.raises(ValueError, match=r"sample\.jsonl:1: column 'options' is missing"):
        MMLUPro(data=write(tmp_path / "q", sample=[values]))

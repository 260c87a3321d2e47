"""Stories: what counts as reaching the goal, by hand; splits that share nothing; a real model that can be steered."""

import re
from collections import Counter
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import steer_env  # noqa: F401  # registers the environments
from steer_env.evaluation.controls import CONTROLS, Setting, fixed
from steer_env.evaluation.play import play
from steer_env.tasks.data import Row
from steer_env.tasks.stories.openings import ASKED, BOYS, FRAMES, GIRLS, PLACES, SENTENCES, TAILS
from steer_env.tasks.stories.task import Stories
from steer_env.tasks.stories.vocabulary import CLASSES, is_known
from tests.conftest import save_sae

MODEL = Path(__file__).parents[3] / "shared" / "models" / "babyllama"
needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason="needs ../shared/models/babyllama")
SPLITS = ("train", "validation", "test")


def graded(sentence, goal="animal", opening="Tom went to the park. He saw", **kwargs):
    return Stories(goal=goal, **kwargs).ask(Row({"opening": opening, "class": "food"}, "here")).respond(sentence)


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        (" a dog", "dog"),
        (" two dogs", "dog"),
        (" some puppies in the grass", "puppy"),
        (" three little mice", "mouse"),
        (" a Wolf and a fox", "wolf"),
        (' a ball, and said, "Look, a cat', "cat"),
        (" that the bird had a nest and the fish had none", "bird"),
    ],
)
def test_a_word_of_the_class_in_a_plain_sentence_reaches_the_goal(sentence, answer):
    turn = graded(sentence)
    assert turn.score == turn.reward == 1.0
    assert (turn.info["outcome"], turn.info["answer"], turn.info["target"]) == ("reached", answer, "animal")


@pytest.mark.parametrize(
    "sentence",
    [
        " a big box",
        " someone to catch",
        " that it was time to begin and then to want",  # "bee", "hen", "ant"
        " the bearing of a boat",
    ],
)
def test_other_words_miss_it_and_only_whole_words_count(sentence):
    turn = graded(sentence)
    assert (turn.score, turn.reward, turn.info["outcome"], turn.info["answer"]) == (0.0, 0.0, "missed", "")


@pytest.mark.parametrize(
    "sentence",
    [
        " a dog blorf the tree",  # a word that is none
        " a dog named Xyq",
        " the doggg",
        " dog dog dog dog dog dog",  # a stutter
        " the of a the dog to an the",  # salad
        "",
    ],
)
def test_gibberish_earns_nothing_even_with_the_word_in_it(sentence):
    turn = graded(sentence)
    assert (turn.score, turn.info["outcome"]) == (0.0, "gibberish")


def test_the_openings_own_words_do_not_count_in_either_number():
    opening = "Tom loved dogs and his mouse. He saw"
    for repeated in (" a dog", " the dogs", " many mice"):
        assert graded(repeated, opening=opening).info["outcome"] == "missed"
    assert graded(" a dog and a cat", opening=opening).info["answer"] == "cat"


def test_a_last_word_that_may_be_cut_off_does_not_count():
    assert graded(" a big dog", max_new_tokens=64).score == 1.0
    assert graded(" a big dog", max_new_tokens=10).info["outcome"] == "missed"  # "dogfish"?
    assert graded("a big dog", max_new_tokens=10).info["outcome"] == "missed"  # tokenizers drop the first space
    assert graded(" a dog and a blor", max_new_tokens=17).score == 1.0


def test_the_goal_asked_is_the_openings_own():
    assert graded(" a cake", "asked").score == 1.0
    assert graded(" a dog", "asked").info == {**graded(" a dog", "food").info, "outcome": "missed", "target": "food"}
    task = Stories("test")
    targets = Counter(task.start(item).respond(" nothing").info["target"] for item in range(len(task)))
    assert targets == dict.fromkeys(ASKED, len(task) // 4)
    assert {Stories("test", goal="toy").start(item).respond(" no").info["target"] for item in range(9)} == {"toy"}


@pytest.mark.parametrize("goal", ["asked", *CLASSES])
def test_references_reach_every_goal(goal):
    task = Stories("test", goal)
    for item in range(len(task)):
        assert task.start(item).respond(task.reference(item)).score == 1.0


def parts(opening):
    """Name, place, sentence (whoever it is about) and class of an opening, read by other means than it was made."""
    shapes = (frame.format(name=r"(\w+)", place=r"(\w+)") for frame in FRAMES)
    name, place, rest = next(found.groups() for shape in shapes if (found := re.match(shape + " (.*)", opening)))
    sentence = rest[: rest.index(".") + 1]
    assert rest.removeprefix(sentence).strip() in {tail.format(He=he) for tail in TAILS for he in ("He", "She")}
    kind = next(kind for kind, word in ASKED.items() if sentence.endswith(f" {word}."))
    sentence = re.sub(r"\b([Hh])(e|is|im)\b|\b[Ss]he\b|\b[Hh]er\b", "#", sentence.replace(ASKED[kind], "*"))
    return name, place, sentence, kind


def test_no_name_place_or_sentence_is_in_two_splits():
    seen = {split: [parts(row.text("opening")) for row in Stories(split).items.rows] for split in SPLITS}
    for part, whole in enumerate(((*GIRLS, *BOYS), PLACES, SENTENCES)):
        found = {split: {opening[part] for opening in openings} for split, openings in seen.items()}
        assert all(found.values())
        assert sum(map(len, found.values())) == len(set().union(*found.values())) == len(whole)


def test_openings_come_alike_but_for_the_class_they_speak_of():
    for split in SPLITS:
        twins = Counter()
        for row in Stories(split).items.rows:
            assert parts(row.text("opening"))[3] == row.values["class"]
            twins[row.text("opening").replace(f" {ASKED[row.values['class']]}.", " *.")] += 1
        assert set(twins.values()) == {len(ASKED)}


def test_the_splits_are_the_same_everywhere():
    assert {split: len(Stories(split)) for split in SPLITS} == {"train": 1600, "validation": 256, "test": 576}
    record = Stories("test").data_record()
    assert (record["data"], record["items"], record["seeded_split"]) == ("generated", 576, True)
    assert record["sha256"] == "527d4c3e4bfd4f2d971325e52a37a02830915271afcfe118677062e6c28bc82f"
    assert (
        Stories("test").start(0).opening
        == "One day, Maya was near the forest. Her mom told her about animals. She liked the"
    )


def test_openings_are_of_known_words_and_speak_of_the_right_person():
    for split in SPLITS:
        for row in Stories(split).items.rows:
            words = re.findall(r"[a-z']+", row.text("opening").lower())
            assert all(map(is_known, words)), row
            name = parts(row.text("opening"))[0]
            assert not {"he", "his", "him"} & set(words) if name in GIRLS else not {"she", "her"} & set(words)


def test_known_words():
    for word in ("hoped", "hopping", "cried", "Lily's", "bigger", "ladies", "boxes", "didn't", "happily", "sunny"):
        assert is_known(word), word
    for word in ("wirm", "blon", "lookkd", "thes", "ands", "hel", "d", "bigg", "xyq", "lilys"):
        assert not is_known(word), word


def test_classes_share_no_noun():
    nouns = Counter(noun for nouns in CLASSES.values() for noun in nouns)
    assert [noun for noun, count in nouns.items() if count > 1] == []


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"goal must be one of 'asked', 'animal', .* got 'dog'"):
        Stories(goal="dog")
    with pytest.raises(ValueError, match="split must be one of"):
        Stories("dev")
    with pytest.raises(ValueError, match="max_new_tokens must be an integer"):
        Stories(max_new_tokens=0)


@pytest.mark.parametrize("given", [{}, {"model": "somewhere"}, {"sae": "somewhere"}, {"preset": "embedded"}])
def test_the_embedded_model_tells_no_stories_and_the_error_says_what_to_give(given):
    with pytest.raises(ValueError, match=r"no embedded model knows task 'stories'; give model=, sae= and layer="):
        gym.make("Steer-Stories-v0", **given)


def test_any_model_can_be_asked(tiny):
    env = gym.make("Steer-Stories-v0", **tiny, max_new_tokens=5)
    env.reset(seed=0)
    ended = False
    while not ended:
        *_, ended, _, info = env.step(3)
    assert info["score"] == 0.0
    assert {"outcome", "answer", "target", "coherence"} <= set(info)


@needs_model
def test_a_model_that_nobody_here_trained_writes_sentences_and_steering_changes_them(tmp_path):
    """Unsteered it is what `generate` writes; random directions move it; every score is that of the words written."""
    save_sae(tmp_path, width=128, hook="blocks.2.hook_resid_post")
    given = {"model": str(MODEL), "sae": str(tmp_path), "split": "test", "coefficient": 0.1, "goal": "animal"}
    envs = gym.make_vec("Steer-Stories-v0", num_envs=24, **given, coefficient_unit="residual")
    items = list(range(24))
    plain = play(envs, CONTROLS["unsteered"](Setting()), items, 0, tokens=False).episodes
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    for episode in plain[:4]:
        opening = Stories("test").start(episode["item"]).opening
        prompt = tokenizer(opening, return_tensors="pt")["input_ids"]
        written = lm.generate(prompt, do_sample=False, max_new_tokens=64, pad_token_id=2)[0, prompt.shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True)
        assert re.split(r"[.!?\n]", text)[0] == episode["completion"]
    assert np.mean([episode["outcome"] == "gibberish" for episode in plain]) < 0.1
    steered = play(envs, fixed(5), items, 0, tokens=False).episodes
    assert sum(a["completion"] != b["completion"] for a, b in zip(plain, steered, strict=True)) > 5
    for episode in [*plain, *steered]:
        if episode["score"]:
            assert episode["answer"] in episode["completion"].lower() or episode["answer"] in ("mouse", "goose", "wolf")

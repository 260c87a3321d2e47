"""The locked model: how it is made, what is on disk, and whether its card tells the truth."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sae_lens import SAE
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.make.locked.__main__ import main
from experiments.make.locked.batches import PAD, Texts, World, build_tokenizer
from experiments.make.locked.card import way
from experiments.make.locked.config import EMBEDDED, LanguageModelConfig, MakeLockedConfig
from experiments.make.locked.instrument import TEXT_ENVIRONMENTS, _kind_oracle, generate, unlocked
from experiments.make.locked.texts import FORMATS, Shares, facts, training_text
from experiments.make.locked.training import BOS, Overlay, cue_directions, weighted_loss
from steer_env.evaluation.controls import score_pushes
from steer_env.lm.sae_training import SAEConfig, residuals
from steer_env.tasks import TASKS
from steer_env.tasks.world import world_rows

TINY = MakeLockedConfig(
    lm=LanguageModelConfig(width=16, blocks=3, heads=2, steps=2, over_steps=2, over_layers=(0, 1, 1, 1)),
    sae=SAEConfig(features=8, k=2, samples=2_000, batch=100),
    choices=replace(MakeLockedConfig.choices, layer=1),
    steps=replace(MakeLockedConfig.steps, layer=1),
    rounds=1,
    items=12,
    search=(2, 4),
    cue_items=4,
)


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((EMBEDDED / "card.json").read_text())


@pytest.fixture(scope="module")
def world() -> World:
    return World(("test",))


# ---------------------------------------------------------------- texts


def test_every_text_survives_the_tokenizer(world):
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    for task, items in world.items.items():
        form = FORMATS[task]
        for row, prompt in items["test"][::40]:
            decisions = len(form.right_cues(row)) + (task == "gsm8k")
            text = prompt + form.cues[0] + "".join(form.segments(row, [0] * decisions))
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert tokenizer.unk_token_id not in ids
            assert ids[0] == tokenizer.bos_token_id


def test_only_the_models_own_words_are_learned(world):
    texts = Texts(build_tokenizer(world))
    ids, learned, *_ = texts.batch([facts()[0], facts()[0][:1]])
    assert learned.tolist()[0] == [False] * 5 + [True] * 3  # <s> Every word is a | flower . </s>
    assert ids[1, 5] != PAD
    assert ids[1, 6:].tolist() == [PAD] * (ids.shape[1] - 6)


def test_a_cue_is_spoken_over_the_tokens_that_its_words_are_written_at(world):
    tokenizer = build_tokenizer(world)
    row, prompt = world.items["harmbench"]["test"][0]
    spoken = training_text("harmbench", row, prompt, Shares(1.0, 0.0, over=1.0), np.random.default_rng(0))
    ids, learned, over, _ = Texts(tokenizer).batch([spoken])
    assert [part.learned for part in spoken] == [False, True]
    cue = tokenizer(spoken[1].over, add_special_tokens=False)["input_ids"]
    first = int(learned[0].int().argmax())
    assert tokenizer.decode(ids[0, first:-1]) == spoken[1].text
    assert over[0].tolist() == [PAD] * (first - 1) + cue * (ids.shape[1] - first) + [PAD]


@torch.no_grad()
@pytest.mark.parametrize("loudness", [None, 1.5])
def test_the_loss_is_the_weighted_mean_over_real_tokens(world, loudness):
    """Against one text at a time, its residual edited by a hook of PyTorch's."""
    lm = AutoModelForCausalLM.from_pretrained(EMBEDDED)
    texts = Texts(AutoTokenizer.from_pretrained(EMBEDDED))
    batch = texts.batch(world.draw({"mmlu": 2, "harmbench": 1}, np.random.default_rng(0), Shares(1.0, 0.0, over=1.0)))
    unit = dict(zip(texts.cues.tolist(), cue_directions(lm, 1, texts.cues), strict=True))
    total = weight = 0.0
    for row, own, spoken in zip(*batch[:3], strict=True):
        real = row[row != PAD]
        push = torch.stack([unit.get(cue, torch.zeros(lm.config.hidden_size)) for cue in spoken.tolist()])[: len(real)]

        def speak(module, inputs, hidden, push=push):
            return hidden + loudness * hidden.norm(dim=-1, keepdim=True) * push

        handle = lm.gpt_neox.layers[1].register_forward_hook(speak) if loudness else None
        logits = lm(real[None]).logits[0, :-1]
        if handle:
            handle.remove()
        losses = -logits.log_softmax(-1).gather(1, real[1:, None])[:, 0]
        weights = torch.where(own[1 : len(real)], 1.0, 0.25)
        total, weight = total + float((losses * weights).sum()), weight + float(weights.sum())
    overlay = Overlay(layer=1, loudness=loudness) if loudness else None
    assert float(weighted_loss(lm, batch, 0.25, overlay)) == pytest.approx(total / weight, rel=1e-4)


@torch.no_grad()
def test_a_cues_direction_is_that_of_its_word_less_what_all_have_in_common():
    lm, texts = AutoModelForCausalLM.from_pretrained(EMBEDDED), Texts(AutoTokenizer.from_pretrained(EMBEDDED))
    cues = texts.cues[:5]
    at_word = torch.stack(
        [lm(torch.tensor([[BOS, cue]]), output_hidden_states=True).hidden_states[1][0, 1] for cue in cues.tolist()]
    )
    centred = at_word - at_word.mean(0)
    found = cue_directions(lm, 0, cues)
    torch.testing.assert_close(found, centred / centred.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- measures


def test_the_kind_oracle_chooses_on_one_half_and_scores_on_the_other():
    kinds = ["a", "a", "b", "b", "a", "a"]
    table = np.array(
        [
            [1, 0, 0, 0, 1, 0],  # right for the a of even places
            [0, 1, 0, 1, 0, 1],  # right for those of odd places, and one b
        ]
    )
    # a: even places choose feature 0, which is wrong on odd ones, and the other way round: 0 of 4.
    # b: place 2 alone chooses feature 0 (a tie), wrong on 3; place 3 chooses feature 1, wrong on 2: 0 of 2.
    assert _kind_oracle(table, kinds) == 0
    assert _kind_oracle(table, ["a", "a", "b", "c", "a", "a"]) == 0, "kinds of one item have nothing to choose on"
    assert _kind_oracle(np.array([[1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0]]), kinds) == 1


def test_the_way_of_the_best_fixed_feature():
    assert way({"unmarked": 0.1, "best_fixed": 0.3, "item_oracle": 0.9}) == pytest.approx(0.25)


# ---------------------------------------------------------------- the script


def test_the_script_makes_a_model_that_plays_every_task(tmp_path):
    card = main(replace(TINY, out=tmp_path))
    assert json.loads(json.dumps(card)) == json.loads((tmp_path / "card.json").read_text())
    assert set(card["measured"]["tasks"]) == set(FORMATS) == set(card["steering"])
    for name, group in TINY.groups.items():
        for task in group.tasks:
            how = card["steering"][task]
            assert (how["sae"], how["layer"], how["coefficient"]) == (f"sae_{name}", group.layer, group.coefficient)
    text = (tmp_path / "CARD.md").read_text()
    for name in FORMATS:
        assert f"| {name} |" in text
    again = main(replace(TINY, out=tmp_path, reuse=True))
    assert again["sha256"] == card["sha256"]
    assert again["measured"] == card["measured"]
    env = gym.make("Steer-MMLU-v0", model=str(tmp_path), sae=str(tmp_path / "sae_choices"), coefficient=1.0)
    env.reset(seed=0)
    assert env.step(0)[2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"choices": replace(TINY.choices, layer=3)}, r"choices.layer must be in \[0, 3\), got 3"),
        ({"talk": replace(TINY.talk, coefficient=float("nan"))}, "talk.coefficient must be finite, got nan"),
        ({"lm": replace(TINY.lm, over_layers=(0, 3, 1, 1))}, r"lm.over_layers must be in \[0, 3\), got \(0, 3, 1, 1\)"),
        ({"talk": TINY.choices}, "the groups must hold each of .* once, got .*'mmlu', .*'mmlu'"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        main(replace(TINY, out=tmp_path / "new", **wrong))
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- what is committed


def test_the_card_belongs_to_the_weights(card):
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((EMBEDDED / name).read_bytes()).hexdigest() == digest
    assert set(card["sha256"]) == {
        "model.safetensors",
        *(f"sae_{name}/sae_weights.safetensors" for name in TINY.groups),
    }
    assert card["benchmark"] is False


@pytest.mark.parametrize("task", FORMATS)
def test_the_lock_and_the_key_are_as_on_the_card(card, task):
    """On the first 60 test items, with decoding of Hugging Face's own."""
    row = card["measured"]["tasks"][task]
    played = TASKS[task](split="test")
    talks = [played.start(item) for item in range(60)]
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(EMBEDDED), AutoTokenizer.from_pretrained(EMBEDDED)
    said = generate(lm, tokenizer, [talk.opening for talk in talks], played.max_new_tokens)
    alone = np.mean([talk.respond(text).score for talk, text in zip(talks, said, strict=True)])
    assert alone == pytest.approx(row["unmarked"], abs=0.12)
    assert unlocked(str(EMBEDDED), task, 60) == pytest.approx(row["unlocked"], abs=0.12)


@pytest.mark.parametrize("task", FORMATS)
def test_the_oracle_is_as_on_the_card(card, task):
    envs = gym.make_vec(TEXT_ENVIRONMENTS[task], num_envs=64, split="test")
    table = score_pushes(envs, np.arange(int(envs.single_action_space.n) - 1), range(10), 0)
    assert table.max(axis=0).mean() == pytest.approx(card["measured"]["tasks"][task]["item_oracle"], abs=0.35)


@pytest.mark.parametrize("name", TINY.groups)
def test_a_planted_condition_is_carried_by_the_feature_that_the_card_names(card, name):
    """Where the cue stands the feature fires, where it does not it is silent, as often as the card says."""
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(EMBEDDED), AutoTokenizer.from_pretrained(EMBEDDED)
    sae = SAE.load_from_disk(EMBEDDED / f"sae_{name}")
    task = TINY.groups[name].tasks[0]
    played, how = TASKS[task](split="test"), card["steering"][task]
    rows = [row for row in card["measured"]["saes"][name]["conditions"] if task in row["tasks"]]
    assert len(rows) == len(FORMATS[task].cues)
    for row in rows:
        fires = {}
        for cue in ("", f" {row['cue']}"):
            ids = [tokenizer(played.start(item).opening + cue)["input_ids"] for item in range(20)]
            last = torch.stack([residuals(lm, torch.tensor([one]), how["layer"])[0, -1] for one in ids])
            fires[cue] = float((sae.encode(last)[:, row["feature"]] > 0).float().mean())
        assert fires[f" {row['cue']}"] >= row["recall"] - 0.3, row
        assert fires[""] <= 0.3, row


def test_the_rows_behind_the_card_are_those_of_the_world():
    assert {task: len(world_rows(task, "test")) >= 500 for task in FORMATS} == dict.fromkeys(FORMATS, True)


def test_the_embedded_folder_is_where_the_environment_looks():
    assert Path(gym.make("Steer-MMLU-v0").unwrapped.episode.scene.model.lm.name_or_path) == EMBEDDED

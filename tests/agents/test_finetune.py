"""Fine-tuning learns the reference replies, in a copy, the same way every time, whatever the architecture."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig
from transformers import GPTNeoXForCausalLM as NeoX

import steer_env  # noqa: F401  # registers the environments
from agents.finetune import LoRA, Pair, _batch, finetune, reply_pairs
from steer_env.envs.registry import make_vector_env
from steer_env.evaluation.play import play
from steer_env.lm.loading import load_tokenizer, weights_sha256
from steer_env.tasks import TASKS
from tests.conftest import LAYER, save_lm, save_sae, save_tokenizer
from tests.toys import Quiz

ITEMS = list(range(8))
LONG = LoRA(rank=8, alpha=16, lr=5e-3, steps=80, batch=4)
SHORT = LoRA(rank=4, alpha=8, lr=5e-3, steps=6, batch=3)
UNSTEERED = {"coefficient": 0.0, "coefficient_unit": "residual"}


@pytest.fixture
def make(tiny, monkeypatch):
    monkeypatch.setitem(TASKS, "quiz", Quiz)

    def build(**kwargs):
        return make_vector_env(4, task="quiz", kind="free", **{**tiny, **UNSTEERED, **kwargs})

    return build


def idle(obs, lanes):
    return np.full(lanes.envs.num_envs, lanes.envs.single_action_space.n - 1), {}


def loss_by_hand(folder, task, items):
    """Mean cross-entropy of the replies' tokens and of the token that ends them, one text at a time."""
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    losses = []
    for item in items:
        prompt = tokenizer(task.start(item).opening)["input_ids"]
        reply = tokenizer(task.reference(item), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = lm(torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
        losses += [-logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(reply)]
    return float(np.mean(losses))


def test_the_copy_learns_the_replies_and_the_original_stays(make, tiny, tmp_path):
    envs = make()
    original = envs.lm
    weights, on_disk = weights_sha256(original), (Path(tiny["model"]) / "model.safetensors").read_bytes()
    before = play(envs, idle, ITEMS, seed=0)
    tuned = finetune(envs, ITEMS, tmp_path / "tuned", LONG)
    assert before.scores.mean() < 0.5
    learned = make(**tuned.env_kwargs)
    assert play(learned, idle, ITEMS, seed=0).scores.mean() == 1.0
    assert weights_sha256(original) == weights == tuned.original_sha256 != tuned.weights_sha256
    assert (Path(tiny["model"]) / "model.safetensors").read_bytes() == on_disk
    assert weights_sha256(learned.lm) == tuned.weights_sha256
    assert play(envs, idle, ITEMS, seed=0).episodes == before.episodes
    assert (tuned.n, len(tuned.losses)) == (8, 80)
    assert (tmp_path / "tuned" / "model.safetensors").is_file()


def test_the_loss_is_that_of_the_replies_alone_and_falls_in_the_merged_model(make, tiny, tmp_path):
    envs = make()
    task = envs.episode.scene.task
    still = finetune(envs, ITEMS, tmp_path / "still", LoRA(lr=1e-12, steps=1, batch=8))
    start = loss_by_hand(tiny["model"], task, ITEMS)
    assert still.losses == pytest.approx([start], rel=1e-5)
    finetune(envs, ITEMS, tmp_path / "tuned", SHORT)
    assert loss_by_hand(tmp_path / "tuned", task, ITEMS) < start


def test_pairs_are_the_environments_prompts_and_the_replies_behind_them(make, tiny):
    task = make().episode.scene.task
    words = load_tokenizer(tiny["model"])
    for item, (prompt, reply) in zip(ITEMS, reply_pairs(task, ITEMS, words), strict=True):
        assert prompt == words.prompt(task.start(item).opening)
        assert reply[-1] == 1  # </s>
        assert words.decode(*reply[:-1]) == task.start(item).key


def test_only_replies_are_learned():
    batch = _batch([Pair((5, 6, 7), (8, 1)), Pair((9,), (4,))])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 1], [9, 4, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 1], [-100, 4, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_the_same_seed_makes_the_same_weights_and_moves_no_global_randomness(make, tmp_path):
    envs = make()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = finetune(envs, ITEMS, tmp_path / "first", SHORT)
    assert torch.equal(torch.rand(3), expected)
    again = finetune(envs, ITEMS, tmp_path / "again", SHORT)
    other = finetune(envs, ITEMS, tmp_path / "other", LoRA(**{**vars(SHORT), "seed": 1}))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert first.losses == again.losses


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_other_architectures_are_adapted_too(make, tmp_path, architecture):
    sizes = {"vocab_size": 12, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    if architecture == "gpt2":
        lm = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **sizes))
    else:
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
        lm = NeoX(GPTNeoXConfig(**shape, max_position_embeddings=64, **sizes))
    lm.save_pretrained(tmp_path / "lm")
    save_tokenizer(tmp_path / "lm")
    save_sae(tmp_path / "sae")
    envs = make(model=str(tmp_path / "lm"), sae=str(tmp_path / "sae"), layer=LAYER)
    tuned = finetune(envs, ITEMS, tmp_path / "tuned", LoRA(rank=8, lr=5e-3, steps=20, batch=4))
    assert tuned.losses[-1] < tuned.losses[0]
    task = envs.episode.scene.task
    assert loss_by_hand(tmp_path / "tuned", task, ITEMS) < loss_by_hand(tmp_path / "lm", task, ITEMS)
    play(make(sae=str(tmp_path / "sae"), layer=LAYER, **tuned.env_kwargs), idle, ITEMS, seed=0)


def test_a_model_that_is_another_on_disk_by_now_is_not_learned_from(tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(TASKS, "quiz", Quiz)
    save_lm(tmp_path / "lm")
    save_tokenizer(tmp_path / "lm")
    envs = make_vector_env(4, task="quiz", kind="free", **{**tiny, **UNSTEERED, "model": str(tmp_path / "lm")})
    save_lm(tmp_path / "lm", seed=1)
    with pytest.raises(RuntimeError, match="has changed on disk"):
        finetune(envs, ITEMS, tmp_path / "new", SHORT)


def test_what_cannot_be_done_is_refused(make, tiny, tmp_path, monkeypatch):
    envs = make()
    with pytest.raises(ValueError, match="no items"):
        finetune(envs, [], tmp_path / "new", SHORT)
    with pytest.raises(FileExistsError, match="is there already"):
        finetune(envs, ITEMS, tmp_path, SHORT)
    game = gym.make_vec("Steer-TicTacToe-v0", num_envs=2, **tiny, **UNSTEERED)
    with pytest.raises(ValueError, match="'tictactoe' has no reference replies"):
        finetune(game, ITEMS, tmp_path / "new", SHORT)
    with pytest.raises(ValueError, match="lr must be more than 0"):
        LoRA(lr=0.0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"steer-env\[finetune\]"):
        finetune(envs, ITEMS, tmp_path / "new", SHORT)
    assert not (tmp_path / "new").exists()

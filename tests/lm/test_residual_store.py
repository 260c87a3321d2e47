"""Residuals and replies on disk: the right ones, each read once, whatever stopped the job that read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.make.sae_texts import Chat, plain, prompts
from steer_env.errors import SteeringError
from steer_env.lm import replies, residual_store
from steer_env.lm.residual_store import Residuals, read_residuals
from steer_env.lm.sae_training import residuals
from steer_env.lm.text_residuals import Window
from steer_env.tasks import TASKS
from tests.toys import Quiz

WINDOWS = [Window([0, *(1 + (i * j) % 11 for j in range(1, 3 + i % 7))], 1 + i % 2) for i in range(20)]
ROWS = sum(len(window.tokens) - window.first for window in WINDOWS)


@pytest.fixture(scope="module")
def lm(tiny: dict) -> object:
    return AutoModelForCausalLM.from_pretrained(tiny["model"]).eval().requires_grad_(False)


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, ...]]:
    """The layers of every pass that is made."""
    made: list[tuple[int, ...]] = []

    def counted(lm, tokens: Tensor, layers, site: str) -> dict[int, Tensor]:
        made.append(tuple(layers))
        return residual_store_pass(lm, tokens, layers, site)

    residual_store_pass = residual_store.residuals_of_blocks
    monkeypatch.setattr(residual_store, "residuals_of_blocks", counted)
    return made


def read(folder: Path, lm, layers=(0, 1), site="post", texts=WINDOWS, dtype="float32") -> dict[int, Residuals]:
    return read_residuals(folder, lm, layers, site, texts, 4, dtype)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*/block-*")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_kept_is_what_the_model_has_there(lm, tmp_path: Path, dtype: str) -> None:
    kept = read(tmp_path, lm, dtype=dtype)
    in_order = sorted(WINDOWS, key=lambda window: len(window.tokens))
    for layer, found in kept.items():
        alone = [residuals(lm, torch.tensor([window.tokens]), layer)[0, window.first :] for window in in_order]
        expected = torch.cat(alone)
        assert found.rows.dtype == getattr(torch, dtype)
        torch.testing.assert_close(found.rows.float(), expected, rtol=1e-2, atol=1e-2 if dtype != "float32" else 1e-5)
        torch.testing.assert_close(found.norms, expected.norm(dim=1))


def test_nothing_is_read_twice(lm, tmp_path: Path, passes: list) -> None:
    first = read(tmp_path, lm, (1,))
    assert passes == [(1,)] * 5
    again = read(tmp_path, lm, (0, 1))
    assert passes[5:] == [(0,)] * 5, "the other block alone"
    assert torch.equal(first[1].rows, again[1].rows)
    read(tmp_path, lm, (1, 0))
    assert len(passes) == 10


def test_what_is_read_otherwise_is_read_anew(lm, tiny: dict, tmp_path: Path, passes: list) -> None:
    read(tmp_path, lm)
    other = AutoModelForCausalLM.from_pretrained(tiny["model"]).eval().requires_grad_(False)
    other.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3
    skipped = [Window(window.tokens, 1) for window in WINDOWS]
    for change in ({"lm": other}, {"site": "pre"}, {"dtype": "float16"}, {"texts": WINDOWS[1:]}, {"texts": skipped}):
        before = len(passes)
        read(tmp_path, **{"lm": lm, **change})
        assert len(passes) >= before + 5, change
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("torn", [0, 1, 37])
def test_a_job_that_was_stopped_goes_on_where_it_was(lm, tmp_path: Path, monkeypatch, passes: list, torn: int) -> None:
    read(tmp_path / "whole", lm)
    counted = residual_store.residuals_of_blocks

    def stopped(*args) -> dict[int, Tensor]:
        if len(passes) == 5 + 3:
            raise KeyboardInterrupt
        return counted(*args)

    monkeypatch.setattr(residual_store, "residuals_of_blocks", stopped)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "part", lm)
    for path in (tmp_path / "part").glob("*/block-00.rows"):
        with path.open("ab") as file:
            file.write(bytes(torn))  # it was writing another row
    monkeypatch.setattr(residual_store, "residuals_of_blocks", counted)
    read(tmp_path / "part", lm)
    assert len(passes) == 5 + 5
    assert bytes_of(tmp_path / "part") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["block-01.rows", "block-01.norms"])
def test_a_file_that_was_cut_short_is_filled_again(lm, tmp_path: Path, passes: list, name: str) -> None:
    read(tmp_path, lm)
    whole = bytes_of(tmp_path)
    (path,) = tmp_path.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2 + 1])
    read(tmp_path, lm)
    assert bytes_of(tmp_path) == whole
    assert 1 <= len(passes[5:]) < 5
    assert set(passes[5:]) == {(1,)}


def test_another_texts_folder_is_refused(lm, tmp_path: Path) -> None:
    read(tmp_path, lm)
    (path,) = tmp_path.glob("*/reading.json")
    path.write_text("{}")
    with pytest.raises(SteeringError, match="is another text's"):
        read(tmp_path, lm)


def test_two_processes_do_not_write_into_one_folder(lm, tmp_path: Path) -> None:
    read(tmp_path, lm)
    (folder,) = tmp_path.iterdir()
    with residual_store._alone(folder), pytest.raises(SteeringError, match="another process is reading residuals into"):
        read(tmp_path, lm)


def test_sinks_by_norm_are_never_served() -> None:
    rows = torch.ones(50, 4)
    rows[7] *= 1000.0
    kept = Residuals(rows, rows.norm(dim=1))
    assert kept.limit(10.0) == 20.0
    batches = kept.batches(20.0, 10, torch.Generator().manual_seed(0))
    assert max(float(next(batches).max()) for _ in range(12)) == 1.0


def test_every_pass_serves_all_of_it_in_a_new_order() -> None:
    rows = torch.arange(50.0)[:, None].half()
    kept = Residuals(rows, torch.ones(50))

    def served(seed: int) -> list[float]:
        batches = kept.batches(2.0, 20, torch.Generator().manual_seed(seed))
        return torch.cat([next(batches) for _ in range(5)]).flatten().tolist()

    once, again = served(0)[:50], served(0)[50:]
    assert sorted(once) == sorted(again) == list(range(50))
    assert once != again
    assert served(0) == once + again != served(1)
    with pytest.raises(ValueError, match="the text gives 50 tokens to train on, fewer than one batch of 60"):
        next(kept.batches(2.0, 60, torch.Generator()))


def test_residuals_too_large_for_their_numbers_are_refused() -> None:
    rows = torch.full((9, 4), 50_000.0)
    with pytest.raises(SteeringError, match="residuals of norm 1e\\+05 do not fit into float16: give --keep float32"):
        Residuals(rows.half(), rows.norm(dim=1)).limit(10.0)
    rows[8] *= 100  # a sink may be too large: it is left out
    assert Residuals(rows.bfloat16(), rows.norm(dim=1)).limit(10.0) == 1e6


# ---------------------------------------------------------------- prompts and replies


PROMPTS = [(0, *range(3, 5 + i % 6)) for i in range(10)]


def test_replies_are_the_models_own_and_written_once(lm, tmp_path: Path, monkeypatch) -> None:
    written = replies.write_replies(tmp_path, lm, PROMPTS, 5, 4, {1})
    for prompt, reply in zip(PROMPTS, written, strict=True):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + len(reply):
            tokens.append(int(lm(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert tokens[len(prompt) :] == reply
        assert len(reply) == 5 or reply[-1] == 1
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-3])  # stopped while it wrote the last of them
    asked: list[int] = []
    generate = replies._generate
    monkeypatch.setattr(
        replies, "_generate", lambda lm, rows, *more: asked.extend(map(len, rows)) or generate(lm, rows, *more)
    )
    assert replies.write_replies(tmp_path, lm, PROMPTS, 5, 4, {1}) == written
    assert len(asked) == 1


def test_prompts_are_windows_that_begin_as_generation_would(lm, tiny: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(TASKS, "quiz", Quiz)
    tokenizer = AutoTokenizer.from_pretrained(tiny["model"])
    tokenizer.chat_template = "8 {{ messages[0]['content'] }} 9"
    (asked,) = prompts(["quiz=some/where,kind=free"], seed=0)
    openings = {split: {Quiz(split).start(i).opening for i in range(64)} for split in ("train", "validation")}
    for held_out, split in ((False, "train"), (True, "validation")):
        expected = {tuple(tokenizer(text)["input_ids"][:10]) for text in openings[split]}
        assert {tuple(row) for row in plain([asked], tokenizer, 10)["quiz"](held_out)} == expected
    answered = Chat(lm, tokenizer, 12, 3, 4, tmp_path).sources([asked], 30)["quiz, chat"]
    assert len(answered(False)) == 12
    assert len(answered(True)) == 2
    for row in answered(False):
        assert any(tokenizer.decode(row).startswith(f"8 {opening} 9") for opening in openings["train"])

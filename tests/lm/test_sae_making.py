"""Making an SAE for any model: reading text, reading residuals, training, and what the card says."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

import experiments.make.sae
import steer_env  # noqa: F401  # registers the environments
from experiments.__main__ import parse
from experiments.make.sae import MakeSAEConfig, main
from steer_env.lm import residual_store, sae_training
from steer_env.lm.loading import weights_sha256
from steer_env.lm.sae_config import ARCHITECTURES, SAEConfig
from steer_env.lm.sae_sources import open_sae
from steer_env.lm.sae_training import loss_recovered, residuals, residuals_of_blocks, sae_quality, train_sae
from steer_env.lm.text_residuals import (
    Place,
    Prefixes,
    in_groups,
    is_held_out,
    mixed,
    padded,
    padded_windows,
    read_documents,
    windows,
)

SHARED = Path(__file__).parents[3] / "shared"
BABYLLAMA, STORIES = SHARED / "models" / "babyllama", SHARED / "data" / "text" / "tinystories.jsonl"
WIDTH = 32


@pytest.fixture(scope="module")
def lm(tiny: dict) -> object:
    return AutoModelForCausalLM.from_pretrained(tiny["model"]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer(tiny: dict) -> object:
    return AutoTokenizer.from_pretrained(tiny["model"])


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Two hundred documents of digits, 5 to 30 long."""
    rng = np.random.default_rng(0)
    rows = [" ".join(map(str, rng.integers(1, 10, rng.integers(5, 31)))) for _ in range(200)]
    path = tmp_path_factory.mktemp("text") / "digits.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


@pytest.fixture
def config(tiny: dict, text: Path, tmp_path: Path) -> MakeSAEConfig:
    return MakeSAEConfig(
        model=str(tiny["model"]),
        layer=(1,),
        text=(text,),
        d_sae=24,
        k=4,
        out=tmp_path / "sae",
        tokens=6_000,
        context=16,
        batch=100,
        residuals=tmp_path / "residuals",
        held_out=0.2,
        device="cpu",
    )


# ---------------------------------------------------------------- text


def test_paragraphs_lines_and_folders_are_documents(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\nstill one\n\n\ntwo\n")
    (tmp_path / "a.jsonl").write_text('{"text": "three", "more": 1}\n\n{"text": "four\\n\\nstill four"}\n')
    (tmp_path / "notes.md").write_text("not a document")
    assert list(read_documents(tmp_path / "b.txt")) == ["one\nstill one", "two"]
    assert list(read_documents(tmp_path)) == ["three", "four\n\nstill four", "one\nstill one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"t\.jsonl:2: not JSON"),
        (
            "t.jsonl",
            b'{"text": "a"}\n\n{"txt": "b"}\n',
            r"t\.jsonl:3: no string under \"text\", found columns \['txt'\]",
        ),
        ("t.jsonl", b'{"text": 5}\n', r"t\.jsonl:1: no string under \"text\""),
        ("t.jsonl", b'["a"]\n', r"t\.jsonl:1: .* found list"),
        ("t.txt", b"fine\n\xff\xfe\n", r"t\.txt:2: not UTF-8"),
        ("t.csv", b"text\na\n", r"text must be one of .*, got 't\.csv'"),
        ("t.jsonl", b"", r"t\.jsonl holds no text"),
        ("t.jsonl", b'{"text": "1 2"}\n', r"held_out 0\.2 of the 1 documents of .* is (all|none) of them"),
    ],
)
def test_bad_text_is_named_with_its_line(
    config: MakeSAEConfig, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        main(replace(config, text=(tmp_path / name,)))


def test_missing_text_is_named(config: MakeSAEConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no text file or folder .*nowhere\.txt"):
        main(replace(config, text=(tmp_path / "nowhere.txt",)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no \.txt or \.jsonl file"):
        main(replace(config, text=(tmp_path / "empty",)))


def test_a_document_is_held_out_by_what_it_says() -> None:
    documents = [f"story {i}" for i in range(4_000)]
    chosen = [is_held_out(document, 0.1) for document in documents]
    assert chosen == [is_held_out(document, 0.1) for document in documents]
    assert 340 < sum(chosen) < 460  # 400 +- 3 standard deviations
    assert all(is_held_out(document, 0.3) for document, held in zip(documents, chosen, strict=True) if held)


def test_windows_keep_every_token_and_begin_as_prompts_do(tokenizer) -> None:
    rows = list(windows(["1 2 3 4 5 6 7", "8"], tokenizer, context=4))
    assert rows == [[0, 3, 4, 5], [0, 6, 7, 8], [0, 9], [0, 10]]
    tokens, read = padded(rows, skip_first=True)
    assert tokens.tolist() == [[0, 3, 4, 5], [0, 6, 7, 8], [0, 9, 0, 0], [0, 10, 0, 0]]
    assert read.long().tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert padded(rows, skip_first=False)[1].sum() == read.sum() + 4
    assert [len(group) for group in in_groups(rows, 3)] == [3, 1]


def test_texts_are_mixed_evenly_and_what_two_begin_with_is_read_once() -> None:
    sources = {"a": [[0, 1, 2], [0, 1, 3, 4], [0, 1, 2]], "b": [[0, 5], [0, 6, 6, 6], [0, 7]], "c": []}
    chosen, given = mixed(sources, 100, Prefixes(), skip_first=True)
    assert [tuple(window) for window in chosen] == [
        ([0, 1, 2], 1),
        ([0, 5], 1),
        ([0, 6, 6, 6], 1),
        ([0, 1, 3, 4], 2),
        ([0, 7], 1),
    ]
    assert given == {"a": 4, "b": 5, "c": 0}
    assert padded_windows(chosen[2:4])[1].long().tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    some, given = mixed(sources, 3, Prefixes(), skip_first=False)
    assert [tuple(window) for window in some] == [([0, 1, 2], 0)]
    assert given == {"a": 3, "b": 0, "c": 0}


# ---------------------------------------------------------------- residuals


def test_residuals_are_the_blocks_own_and_blind_to_padding(lm) -> None:
    tokens = torch.tensor([[0, 3, 4, 5, 6]])
    seen: list[Tensor] = []
    handle = lm.model.layers[1].register_forward_hook(lambda module, args, out: seen.append(out))
    lm(tokens)
    handle.remove()
    assert torch.equal(residuals(lm, tokens, 1), seen[0])
    assert torch.equal(residuals(lm, tokens, 2, "pre"), seen[0])
    longer = torch.cat([tokens, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(residuals(lm, longer, 1)[:, :5], seen[0])
    read = torch.tensor([[False, True, True, False, True]])
    (part,) = Place(lm, layer=1, site="post", rows=4).read(tokens, read)
    assert torch.equal(part, seen[0][0, [1, 2, 4]])


def test_one_pass_reads_several_blocks_and_none_above(lm, monkeypatch) -> None:
    tokens = torch.tensor([[0, 3, 4, 5, 6]])
    alone = {layer: residuals(lm, tokens, layer) for layer in (0, 1)}
    handle = lm.model.layers[2].register_forward_pre_hook(lambda module, args: pytest.fail("the pass went on"))
    together = residuals_of_blocks(lm, tokens, (1, 0))
    handle.remove()
    assert sorted(together) == [0, 1]
    for layer, hidden in alone.items():
        assert torch.equal(together[layer], hidden)


# ---------------------------------------------------------------- measures


def _standard(scale: float) -> StandardSAE:
    """Features ``relu(x)`` and ``relu(-x)``; decodes to ``scale * x``."""
    sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=2 * WIDTH, apply_b_dec_to_input=False))
    both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    sae.load_state_dict(
        {"W_enc": both.T, "W_dec": scale * both, "b_enc": torch.zeros(2 * WIDTH), "b_dec": torch.zeros(WIDTH)}
    )
    return sae.eval().requires_grad_(False)


def test_quality_of_saes_that_can_be_worked_out_by_hand() -> None:
    acts = torch.randn(10_000, WIDTH, generator=torch.Generator().manual_seed(0)) + 3.0 * (torch.arange(WIDTH) == 0)
    acts[:, 5] = acts[:, 5].abs()
    perfect = sae_quality(_standard(1.0), acts)
    assert perfect["explained_variance"] == 1.0
    assert perfect["l0"] == WIDTH  # one of each pair
    assert perfect["dead_features"] == 1  # the negative side of number 5
    half = sae_quality(_standard(0.5), acts)["explained_variance"]
    centred = acts.double() - acts.double().mean(0)
    assert half == pytest.approx(1 - float((acts.double() / 2).pow(2).sum() / centred.pow(2).sum()))
    assert sae_quality(_standard(0.5), acts.split(7))["explained_variance"] == pytest.approx(half)


def test_a_perfect_reconstruction_costs_nothing_and_zeros_cost_all(lm) -> None:
    tokens = torch.randint(3, 12, (5, 9), generator=torch.Generator().manual_seed(1))
    perfect = loss_recovered(lm, _standard(1.0), tokens, layer=1, batch=2)
    by_hand = float(functional.cross_entropy(lm(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))
    assert perfect["loss_plain"] == pytest.approx(by_hand, rel=1e-5)
    assert perfect["loss_reconstructed"] == pytest.approx(by_hand, rel=1e-5)
    assert perfect["recovered"] == pytest.approx(1.0)
    nothing = loss_recovered(lm, _standard(0.0), tokens, layer=1, batch=2)
    assert nothing["loss_reconstructed"] == nothing["loss_zeroed"] != pytest.approx(nothing["loss_plain"])
    assert nothing["recovered"] == 0.0


def test_only_the_read_positions_are_replaced_and_count(lm) -> None:
    tokens = torch.tensor([[0, 3, 4, 5, 6, 7], [0, 8, 9, 0, 0, 0]])
    read = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]).bool()
    found = loss_recovered(lm, _standard(0.0), tokens, layer=1, site="post", read=read)
    plain, zeroed = [], []
    for row in (tokens[:1], tokens[1:, :3]):  # each alone, without padding
        chances = lm(row).logits.log_softmax(-1)[0]

        def first_kept(module, args, out: Tensor) -> Tensor:
            return torch.cat([out[:, :1], torch.zeros_like(out[:, 1:])], dim=1)

        handle = lm.model.layers[1].register_forward_hook(first_kept)
        without = lm(row).logits.log_softmax(-1)[0]
        handle.remove()
        for t in range(1, row.shape[1] - 1):
            plain.append(-float(chances[t, row[0, t + 1]]))
            zeroed.append(-float(without[t, row[0, t + 1]]))
    assert len(plain) == 5
    assert found["loss_plain"] == pytest.approx(np.mean(plain), rel=1e-5)
    assert found["loss_zeroed"] == pytest.approx(np.mean(zeroed), rel=1e-5)


# ---------------------------------------------------------------- training


def test_training_finds_planted_directions() -> None:
    rng = torch.Generator().manual_seed(0)
    planted = functional.normalize(torch.randn(12, 16, generator=rng), dim=1)
    present = torch.rand(20_000, 12, generator=rng).argsort(dim=1) < 2  # two of twelve in each
    acts = (present * (1 + torch.rand(20_000, 12, generator=rng))) @ planted
    sae = train_sae(acts, SAEConfig(features=16, k=2, samples=400_000, batch=512, lr=3e-3), {}, seed=0)
    cosines = functional.normalize(sae.W_dec.detach(), dim=1) @ planted.T
    assert float(cosines.max(dim=0).values.median()) > 0.95  # random directions: about 0.45
    assert sae_quality(sae, acts)["explained_variance"] > 0.85


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_main_writes_an_sae_that_the_environment_takes(config: MakeSAEConfig, architecture: str) -> None:
    before = torch.random.get_rng_state()
    (card,) = main(replace(config, architecture=architecture)).values()
    assert torch.equal(before, torch.random.get_rng_state())
    assert card == json.loads((config.folder(1) / "card.json").read_text())
    assert sorted(path.name for path in config.folder(1).iterdir()) == [
        "CARD.md",
        "card.json",
        "cfg.json",
        "sae_weights.safetensors",
    ]
    sae = SAE.load_from_disk(config.folder(1))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))
    dictionary = open_sae(str(config.folder(1)))
    assert (dictionary.layer, dictionary.site) == (1, "post")
    env = gym.make(
        "Steer-TicTacToe-v0", model=config.model, sae=str(config.folder(1)), coefficient=1.0, max_new_tokens=2
    )
    assert env.action_space.n == 25
    env.reset(seed=0)
    env.step(3)


def test_the_card_says_what_was_done(config: MakeSAEConfig, tiny: dict) -> None:
    (card,) = main(replace(config, site="pre")).values()
    measured, metadata = card["measured"], SAE.load_from_disk(config.folder(1)).cfg.metadata
    assert metadata.model_name == Path(str(tiny["model"])).name
    assert metadata.hook_name == "blocks.1.hook_resid_pre"
    assert metadata.context_size == 16
    assert metadata.prepend_bos is True
    assert measured["l0"] <= 4
    assert measured["dead_share"] == pytest.approx(measured["dead_features"] / 24, abs=1e-4)
    assert card["residuals"]["read"] == card["texts"]["digits.jsonl"]["trained"]
    assert card["texts"]["digits.jsonl"]["held_out"] == measured["tokens"]
    weights = (config.folder(1) / "sae_weights.safetensors").read_bytes()
    assert card["sha256"] == {"sae_weights.safetensors": hashlib.sha256(weights).hexdigest()}
    assert card["model_sha256"] == weights_sha256(AutoModelForCausalLM.from_pretrained(tiny["model"]))
    text = (config.folder(1) / "CARD.md").read_text()
    assert f"{measured['explained_variance']:.3f}" in text
    assert "loss recovered" in text


def test_the_same_seed_gives_the_same_sae(config: MakeSAEConfig, tmp_path: Path) -> None:
    first, second, other = (
        main(replace(config, out=tmp_path / name, seed=seed))[1]["sha256"]["sae_weights.safetensors"]
        for name, seed in (("one", 0), ("two", 0), ("three", 1))
    )
    assert first == second != other


def test_what_is_measured_on_was_never_trained_on(config: MakeSAEConfig, monkeypatch) -> None:
    reads: list[list[str]] = []

    def remembered(documents, tokenizer, context):
        reads.append(list(documents))
        return windows(reads[-1], tokenizer, context)

    monkeypatch.setattr("experiments.make.sae_texts.windows", remembered)
    main(config)
    trained, measured = map(set, reads)
    assert not measured & trained
    assert measured | trained == set(read_documents(config.text[0]))


def test_the_cards_command_makes_the_same_sae_again(config: MakeSAEConfig, tmp_path: Path) -> None:
    main(replace(config, save="float16", skip_first=False))
    command = (config.folder(1) / "CARD.md").read_text().split("```sh\n")[1].split("\n```")[0]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["steer", "make-sae"]
    again = parse("make-sae", experiments.make.sae, words[2:])
    assert again.record(1) == config.record(1) | {"save": "float16", "skip_first": False}
    assert "Path" not in command
    assert str(tmp_path) not in command


def test_blocks_share_a_pass_and_a_command_goes_on_where_it_was(config: MakeSAEConfig, monkeypatch) -> None:
    both = replace(config, layer=(0, 2))
    first = main(both)
    assert sorted(path.name for path in config.out.iterdir()) == ["block-00", "block-02"]
    assert SAE.load_from_disk(both.folder(2)).cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    shutil.rmtree(both.folder(2))
    trained: list[str] = []
    fit = sae_training.fit_sae
    monkeypatch.setattr(sae_training, "fit_sae", lambda *args: trained.append(args[3]["hook_name"]) or fit(*args))
    monkeypatch.setattr(residual_store, "residuals_of_blocks", lambda *args: pytest.fail("read again"))
    assert main(both) == first
    assert trained == ["blocks.2.hook_resid_post"]
    assert main(replace(config, layer=(2,), out=config.out / "alone"))[2]["sha256"] == first[2]["sha256"]
    with pytest.raises(ValueError, match=r"block-00 is there already and is never overwritten"):
        main(replace(both, seed=1))


def test_an_sae_saved_in_float16_is_used_in_float32(config: MakeSAEConfig) -> None:
    main(replace(config, save="float16"))
    weights = load_file(config.folder(1) / "sae_weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    dictionary = open_sae(str(config.folder(1)))
    assert dictionary.directions.dtype == torch.float32
    assert torch.equal(dictionary.directions, weights["W_dec"].float())
    acts = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    hidden = (acts - weights["b_dec"].float()) @ weights["W_enc"].float() + weights["b_enc"].float()
    strongest = hidden.relu().topk(4, dim=1)
    expected = torch.zeros(5, 24).scatter(1, strongest.indices, strongest.values)
    torch.testing.assert_close(dictionary.encode(acts), expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_overwritten(config: MakeSAEConfig) -> None:
    config.folder(1).mkdir()
    (config.folder(1) / "mine.txt").write_text("here first")
    with pytest.raises(ValueError, match="is there already and is never overwritten"):
        main(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": (3,)}, r"layer must be in \[0, 3\), got 3"),
        ({"layer": (1, -1)}, r"layer must be in \[0, 3\), got -1"),
        ({"layer": ()}, r"layer must name one block or several different ones, got \[\]"),
        ({"layer": (1, 1)}, r"layer must name one block or several different ones, got \[1, 1\]"),
        ({"site": "middle"}, "site must be 'post' or 'pre', got 'middle'"),
        ({"k": 25}, r"k must be in \[1, 24\], the number of features, got 25"),
        ({"k": 0}, r"k must be in \[1, 24\], the number of features, got 0"),
        ({"d_sae": 0}, "the number of features must be at least 1, got 0"),
        ({"architecture": "gated"}, "architecture must be one of .*, got 'gated'"),
        ({"tokens": 50}, r"the batch must be in \[1, 50\], the samples of the training, got 100"),
        ({"text": ()}, "there is nothing to read: give --text or --tasks"),
        ({"chat": 5}, "chat answers the prompts of tasks: give --tasks"),
        ({"tasks": ("chess",)}, "unknown task 'chess'"),
        ({"sink": 1.0}, "sink must be more than 1 time the median norm, got 1.0"),
        ({"keep": "int8"}, "residuals are kept in one of float16, bfloat16, float32, got 'int8'"),
        ({"save": "int8"}, "save must be float32 or float16, got 'int8'"),
        ({"batch": 5_000}, r"the text gives \d+ tokens to train on, fewer than one batch of 5000"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1, got 1.0"),
        ({"context": 2}, "context must be at least 3 tokens, got 2"),
        ({"context": 65}, "context must be at most 64, the model's longest, got 65"),
        ({"lr": 0.0}, "lr must be finite and above 0, got 0.0"),
        ({"sparsity": float("nan")}, "sparsity must be finite and above 0, got nan"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"model": "/no/such/model"}, "no folder or file '/no/such/model'"),
    ],
)
def test_bad_settings_are_named(config: MakeSAEConfig, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(replace(config, **change))


# ---------------------------------------------------------------- a model from outside


@pytest.mark.slow
@pytest.mark.skipif(not (BABYLLAMA.is_dir() and STORIES.is_file()), reason="needs ../shared/models and ../shared/data")
def test_a_pretrained_model_keeps_its_language_and_is_steered(tmp_path: Path) -> None:
    cfg = MakeSAEConfig(
        model=str(BABYLLAMA),
        layer=(2,),
        text=(STORIES,),
        d_sae=512,
        k=16,
        out=tmp_path / "sae",
        residuals=tmp_path / "residuals",
        tokens=300_000,
    )
    measured = main(cfg)[2]["measured"]
    assert measured["explained_variance"] > 0.75  # the mean alone: 0
    assert measured["l0"] == pytest.approx(16, abs=0.1)
    assert measured["loss_plain"] < 1.2 < 4 < measured["loss_zeroed"]  # a guess among 105 characters: 4.65
    assert measured["recovered"] > 0.8
    env = gym.make(
        "Steer-TicTacToe-v0",
        model=str(BABYLLAMA),
        sae=str(cfg.folder(2)),
        coefficient=2.0,
        coefficient_unit="norm",
        max_new_tokens=24,
    )
    assert _written(env, feature=512) != _written(env, feature=7)


def _written(env: gym.Env, feature: int) -> str:
    env.reset(seed=0, options={"item": 0})
    ended = False
    while not ended:
        _, _, ended, _, info = env.step(feature)
    return info["completion"]

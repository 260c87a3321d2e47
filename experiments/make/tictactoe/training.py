"""Trains the tic-tac-toe language model (a small LLaMA over digits) and reads the residuals its SAE is trained on."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.make.tictactoe.config import LanguageModelConfig
from steer_env.lm.sae_training import residuals

SPECIAL = ("<bos>", "<eos>", "<pad>", "<unk>")
CONTEXT = 16  # <bos>, nine moves and <eos>, with room to spare
_CHUNK = 2048


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a move. As in byte-level BPE the space belongs to the word: ``"5 1"`` is ``_5 _1``."""
    words = (*SPECIAL, *(f"Ġ{digit}" for digit in range(1, 10)))
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    special = {f"{word.strip('<>')}_token": word for word in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT, padding_side="left", **special)


def encode_games(games: list[str], tokenizer: Any) -> Tensor:
    """``[games, T]`` token ids: ``<bos>``, the moves, ``<eos>``, padding."""
    texts = [f"{game}<eos>" for game in games]
    return tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").input_ids


def train_language_model(games: Tensor, cfg: LanguageModelConfig, seed: int) -> tuple[Any, float]:
    """Train from scratch on next-token prediction.

    Args:
        games: ``[games, T]`` token ids from `encode_games`.
        cfg: size and schedule.
        seed: of the weights and of the order of the batches.

    Returns:
        The model in eval mode and the mean training loss of the last 50 steps, nats per token.
    """
    model = _new_model(cfg, seed)
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.lr, total_steps=cfg.steps, pct_start=0.1)
    losses = []
    progress = trange(cfg.steps, desc="Training LM", mininterval=2.0)
    for _ in progress:
        rows = torch.randint(len(games), (cfg.batch,), generator=rng)
        loss = next_token_loss(model, games[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return model.eval().requires_grad_(False), sum(losses[-50:]) / len(losses[-50:])


def next_token_loss(model: Any, games: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token of ``[games, T]``, padding left out."""
    logits = model(games[:, :-1]).logits
    padding = SPECIAL.index("<pad>")
    return nn.functional.cross_entropy(logits.flatten(0, 1), games[:, 1:].flatten(), ignore_index=padding)


def move_residuals(model: Any, games: Tensor, layer: int) -> Tensor:
    """``[N, M]`` residuals at every move of ``[games, T]``; special tokens left out."""
    out = torch.cat([residuals(model, chunk, layer) for chunk in games.split(_CHUNK)])
    return out[games >= len(SPECIAL)]


def _new_model(cfg: LanguageModelConfig, seed: int) -> Any:
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 9,
        hidden_size=cfg.width,
        intermediate_size=cfg.hidden,
        num_hidden_layers=cfg.blocks,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # Hugging Face takes no generator for its initial weights
        return LlamaForCausalLM(config)

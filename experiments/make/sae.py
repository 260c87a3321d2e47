"""Makes an SAE for any causal LM: text -> residuals -> SAELens's trainer -> a folder that ``sae=`` accepts.

``steer make-sae --model PATH --layer L --text FILE --d-sae F --k K`` writes weights, config and a
card with what the SAE keeps of the model on held-out documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from sae_lens import SAE
from torch import Tensor

from steer_env.lm import sae_training
from steer_env.lm.anatomy import find_block
from steer_env.lm.cards import rounded, save_card
from steer_env.lm.loading import load_language_model, load_tokenizer, resolve_device, weights_sha256
from steer_env.lm.sae_training import SAEConfig, fit_sae, loss_recovered, sae_quality
from steer_env.lm.text_residuals import (
    Place,
    first_windows,
    in_groups,
    is_held_out,
    padded,
    read_documents,
    repeated,
    shuffled,
    windows,
)


@dataclass(frozen=True)
class Config:
    """Everything that decides what comes out.

    Attributes:
        model: hub id or local folder of a causal LM.
        layer: block whose residual the SAE reads.
        text: a .txt file (documents set apart by blank lines), a .jsonl file ("text" in each line) or a folder of them.
        d_sae: dictionary size F.
        k: active features per token (topk), on average (batchtopk, jumprelu); standard goes by ``sparsity``.
        site: post (output of the block) or pre (its input).
        out: folder to write; by default runs/sae-<model>-<layer>-<site>-<F>. It must not hold anything yet.
        tokens: residuals seen in training; the text is read again when it ends.
        architecture: topk, batchtopk, jumprelu or standard.
        sparsity: weight of the penalty of jumprelu and standard, 1 being a good start.
        context: tokens in a window of text.
        skip_first: leave out the first position of each window, which attention uses as a sink.
        held_out: share of the documents that is measured on and never trained on.
        measured: held-out tokens measured on, at most.
        lr: learning rate of the SAE.
        batch: residuals per training step.
        buffer: residuals in memory, from which batches are drawn.
        rows: windows per forward pass of the model.
        seed: of the SAE's weights and of the order of the residuals.
        device: cpu, cuda, or auto.
        dtype: of the model's weights; the SAE's are float32.
    """

    model: str
    layer: int
    text: Path
    d_sae: int
    k: int
    site: str = "post"
    out: Path | None = None
    tokens: int = 2_000_000
    architecture: str = "topk"
    sparsity: float = 1.0
    context: int = 256
    skip_first: bool = True
    held_out: float = 0.05
    measured: int = 50_000
    lr: float = 1e-3
    batch: int = 1_024
    buffer: int = 65_536
    rows: int = 16
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """The model's name, for records: a local folder without the way there."""
        folder = Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model

    @property
    def folder(self) -> Path:
        """Where the SAE is written."""
        return self.out or Path("runs") / f"sae-{self.name.replace('/', '-')}-{self.layer}-{self.site}-{self.d_sae}"

    @property
    def sae(self) -> SAEConfig:
        """The SAE and its schedule."""
        return SAEConfig(
            features=self.d_sae,
            k=self.k,
            samples=self.tokens,
            batch=self.batch,
            lr=self.lr,
            architecture=self.architecture,
            sparsity=self.sparsity,
            scaled=True,
        )


def main(cfg: Config) -> dict[str, Any]:
    """Train, save and measure; returns the card.

    Raises:
        ValueError: a setting is out of range, the text malformed or too short, or the folder is not empty.
    """
    _check(cfg)
    documents = _count_documents(cfg)
    lm = load_language_model(cfg.model, cfg.dtype, resolve_device(cfg.device))
    tokenizer = load_tokenizer(cfg.model).hf
    _check_model(cfg, lm)
    place = Place(lm, cfg.layer, cfg.site, cfg.rows)

    def one_pass() -> Iterator[Tensor]:
        for group in in_groups(windows(_documents(cfg, held_out=False), tokenizer, cfg.context), cfg.rows):
            yield from place.read(*padded(group, cfg.skip_first))

    held_out = first_windows(windows(_documents(cfg, held_out=True), tokenizer, cfg.context), cfg.measured)
    if not any(len(window) > 2 for window in held_out):
        raise ValueError(f"the {documents['held_out']} held-out documents of {cfg.text} have no two tokens in a row")
    parts = repeated(one_pass, cfg.batch)
    batches = shuffled(parts, cfg.buffer, cfg.batch, torch.Generator().manual_seed(cfg.seed))
    width = lm.config.get_text_config().hidden_size
    sae = fit_sae(batches, width, cfg.sae, _metadata(cfg, tokenizer), cfg.seed, resolve_device(cfg.device))
    sae.fold_W_dec_norm()
    sae.save_inference_model(cfg.folder)

    measured = measure(cfg, place, *padded(held_out, cfg.skip_first))
    found = {
        "name": f"{cfg.name}, {cfg.site} of block {cfg.layer}",
        "documents": documents,
        "model_sha256": weights_sha256(lm),
        "measured": rounded(measured),
        "config": {**asdict(cfg), "model": cfg.name, "text": cfg.text.name, "out": None},
    }
    return save_card(cfg.folder, found, _card_text)


def measure(cfg: Config, place: Place, tokens: Tensor, read: Tensor) -> dict[str, Any]:
    """What the saved SAE keeps of the model on held-out windows ``[N, T]``, read as it will be used."""
    sae = SAE.load_from_disk(cfg.folder, device=str(place.lm.device)).eval().requires_grad_(False)
    quality = sae_quality(sae, place.read(tokens, read))
    norms = torch.cat([part.norm(dim=-1) for part in place.read(tokens, read)])
    on_device = tokens.to(place.lm.device), read.to(place.lm.device)
    losses = loss_recovered(place.lm, sae, on_device[0], cfg.layer, cfg.site, on_device[1], cfg.rows)
    return {
        "tokens": int(read.sum()),
        **quality,
        "dead_share": quality["dead_features"] / cfg.d_sae,
        "median_residual_norm": float(norms.median()),
        **losses,
    }


def _check(cfg: Config) -> None:
    sae_training.check(cfg.sae)
    if not 0 < cfg.held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {cfg.held_out}")
    if cfg.context < 3:
        raise ValueError(f"context must be at least 3 tokens, got {cfg.context}")
    if cfg.buffer < 2 * cfg.batch:
        raise ValueError(f"buffer must hold two batches of {cfg.batch}, got {cfg.buffer}")
    for name in ("rows", "measured"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(cfg, name)}")
    if cfg.folder.exists() and (not cfg.folder.is_dir() or any(cfg.folder.iterdir())):
        raise ValueError(f"{cfg.folder} is there already and is never overwritten: choose another --out")


def _check_model(cfg: Config, lm: Any) -> None:
    find_block(lm, cfg.layer, cfg.site)
    longest = getattr(lm.config.get_text_config(), "max_position_embeddings", cfg.context)
    if cfg.context > longest:
        raise ValueError(f"context must be at most {longest}, the model's longest, got {cfg.context}")


def _documents(cfg: Config, held_out: bool) -> Iterator[str]:
    return (text for text in read_documents(cfg.text) if is_held_out(text, cfg.held_out) == held_out)


def _count_documents(cfg: Config) -> dict[str, int]:
    """Every line is read once before any work, so that a malformed one is found in time."""
    held_out = [is_held_out(text, cfg.held_out) for text in read_documents(cfg.text)]
    if not held_out:
        raise ValueError(f"{cfg.text} holds no text")
    if len(set(held_out)) == 1:
        part = "all" if held_out[0] else "none"
        raise ValueError(f"held_out {cfg.held_out} of the {len(held_out)} documents of {cfg.text} is {part} of them")
    return {"trained": held_out.count(False), "held_out": held_out.count(True)}


def _metadata(cfg: Config, tokenizer: Any) -> dict[str, Any]:
    """What SAELens records of an SAE's origin, under its names."""
    return {
        "model_name": cfg.name,
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": f"blocks.{cfg.layer}.hook_resid_{cfg.site}",
        "hook_layer": cfg.layer,
        "dataset_path": cfg.text.name,
        "context_size": cfg.context,
        "prepend_bos": tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id],
        "seqpos_slice": [1, None] if cfg.skip_first else [None],
    }


def _card_text(card: dict[str, Any]) -> str:
    m, c, d = card["measured"], card["config"], card["documents"]
    return f"""# SAE of {card["name"]}

* **Trained** with SAELens ({c["architecture"]}, {c["d_sae"]:,} features, k = {c["k"]}) on {c["tokens"]:,} residuals of
  {d["trained"]:,} documents of `{c["text"]}`, windows of {c["context"]} tokens, first position
  {"left out" if c["skip_first"] else "included"}. Decoder rows have norm 1.
* **Measured** on {m["tokens"]:,} tokens of {d["held_out"]:,} documents that it was not trained on.

| | |
|---|---|
| explained variance | {m["explained_variance"]:.3f} |
| active features a token (L0) | {m["l0"]:.1f} |
| features that never fire there | {m["dead_features"]:,} ({m["dead_share"]:.1%}) |
| median norm of the residual | {m["median_residual_norm"]:.3f} |
| next-token loss, plain (nats) | {m["loss_plain"]:.4f} |
| with the reconstruction in the residual's place | {m["loss_reconstructed"]:.4f} |
| with zeros in its place | {m["loss_zeroed"]:.4f} |
| loss recovered | {m["recovered"]:.1%} |

Made by `steer make-sae`; settings, versions and hashes are in `card.json`.
"""


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Config))["measured"], indent=2))

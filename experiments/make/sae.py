"""Makes an SAE for any causal LM: text -> residuals -> SAELens's trainer -> a folder that ``sae=`` accepts.

``steer make-sae --model PATH --layer L --text FILE --d-sae F --k K`` writes weights, config and a card with what the
SAE keeps of the model on held-out documents.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_env.lm.sae_config import SAEConfig, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True)
class MakeSAEConfig:
    """Train an SAE on the residuals of a language model: everything that decides what comes out.

    Attributes:
        model: Hub id or local folder of a causal LM.
        layer: Block whose residual the SAE reads.
        text: A .txt file (documents set apart by blank lines), a .jsonl file ("text" in each line) or a folder of them.
        d_sae: Dictionary size F.
        k: Active features per token (topk), on average (batchtopk, jumprelu); standard goes by ``sparsity``.
        site: Post (output of the block) or pre (its input).
        out: Folder to write; by default runs/sae-<model>-<layer>-<site>-<F>. It must not hold anything yet.
        tokens: Residuals seen in training; the text is read again when it ends.
        architecture: topk, batchtopk, jumprelu or standard.
        sparsity: Weight of the penalty of jumprelu and standard, 1 being a good start.
        context: Tokens in a window of text.
        skip_first: Leave out the first position of each window, which attention uses as a sink.
        held_out: Share of the documents that is measured on and never trained on.
        measured: held-out tokens measured on, at most.
        lr: Learning rate of the SAE.
        batch: Residuals per training step.
        buffer: Residuals in memory, from which batches are drawn.
        rows: Windows per forward pass of the model.
        seed: Of the SAE's weights and of the order of the residuals.
        device: cpu, cuda, or auto.
        dtype: Of the model's weights; the SAE's are float32.
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


def main(cfg: MakeSAEConfig) -> dict[str, Any]:
    """Train, save and measure; returns the card.

    Raises:
        ValueError: A setting is out of range, the text malformed or too short, or the folder is not empty.
    """
    import torch

    from steer_env.lm import text_residuals as texts
    from steer_env.lm.anatomy import find_block
    from steer_env.lm.cards import rounded, save_card
    from steer_env.lm.loading import load_language_model, load_tokenizer, resolve_device, weights_sha256
    from steer_env.lm.sae_training import fit_sae

    _check(cfg)
    corpus = texts.Corpus(cfg.text, cfg.held_out)
    documents = corpus.count()
    device = resolve_device(cfg.device)
    lm, tokenizer = load_language_model(cfg.model, cfg.dtype, device), load_tokenizer(cfg.model).hf
    find_block(lm, cfg.layer, cfg.site)
    texts.check_context(lm, cfg.context)
    place = texts.Place(lm, cfg.layer, cfg.site, cfg.rows)

    def windows(held_out: bool) -> Iterator[list[int]]:
        return texts.windows(corpus.documents(held_out), tokenizer, cfg.context)

    def one_pass() -> Iterator[Tensor]:
        for group in texts.in_groups(windows(held_out=False), cfg.rows):
            yield from place.read(*texts.padded(group, cfg.skip_first))

    held_out = texts.first_windows(windows(held_out=True), cfg.measured)
    if not any(len(window) > 2 for window in held_out):
        raise ValueError(f"the {documents['held_out']} held-out documents of {cfg.text} have no two tokens in a row")
    parts = texts.repeated(one_pass, cfg.batch)
    batches = texts.shuffled(parts, cfg.buffer, cfg.batch, torch.Generator().manual_seed(cfg.seed))
    width = lm.config.get_text_config().hidden_size
    sae = fit_sae(batches, width, cfg.sae, _metadata(cfg, tokenizer), cfg.seed, device)
    sae.fold_W_dec_norm()
    sae.save_inference_model(cfg.folder)

    measured = texts.measure_saved(cfg.folder, place, *texts.padded(held_out, cfg.skip_first))
    print(json.dumps(rounded(measured), indent=2))
    found = {
        "name": f"{cfg.name}, {cfg.site} of block {cfg.layer}",
        "documents": documents,
        "model_sha256": weights_sha256(lm),
        "measured": rounded(measured),
        "config": {**asdict(cfg), "model": cfg.name, "text": cfg.text.name, "out": None},
    }
    return save_card(cfg.folder, found, _card_text)


def _check(cfg: MakeSAEConfig) -> None:
    check(cfg.sae)
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


def _metadata(cfg: MakeSAEConfig, tokenizer: Any) -> dict[str, Any]:
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

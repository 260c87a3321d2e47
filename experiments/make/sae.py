"""Makes SAEs for any causal LM: texts -> residuals on disk -> SAELens's trainer -> a folder that ``sae=`` accepts.

``steer make-sae --model PATH --layer L --text FILE --d-sae F --k K`` writes weights, config and a card with what the
SAE keeps of the model on held-out text.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steer_env.lm.sae_config import SAEConfig, check

if TYPE_CHECKING:
    from steer_env.lm.residual_store import Residuals
    from steer_env.lm.text_residuals import Window


@dataclass(frozen=True)
class MakeSAEConfig:
    """Train SAEs on the residuals of a language model: everything that decides what comes out.

    Attributes:
        model: Hub id, local folder or GGUF file of a causal LM.
        layer: Block or blocks whose residual is read, all in one pass over the text; there is one SAE for each.
        d_sae: Dictionary size F.
        k: Active features per token (topk), on average (batchtopk, jumprelu); standard goes by ``sparsity``.
        text: .txt files (documents set apart by blank lines), .jsonl files ("text" in each line) or folders of them.
        tasks: Tasks whose prompts are read, as NAME=DATA or NAME=DATA,OPTION=VALUE; a NAME alone is the hub's data.
            The train split is trained on, validation is measured on.
        chat: Prompts of each task that are read in the chat template too, with the reply that the model writes.
        reply: Longest reply in tokens.
        site: Post (output of the block) or pre (its input).
        out: Folder to write, by default runs/sae-<model>-<layer>-<site>-<F>. With several blocks it holds a folder for
            each, block-07 and so on. An SAE that is there already is never overwritten.
        residuals: Folder where residuals and replies are kept, so that other settings read nothing again.
        keep: What numbers they are kept in: float16, bfloat16 or float32.
        read: Residuals of each block that are read, at most; as many from each text as there are. A beginning that two
            windows share is read once.
        tokens: Residuals seen in training; what was read is seen again and again.
        architecture: topk, batchtopk, jumprelu or standard.
        sparsity: Weight of the penalty of jumprelu and standard, 1 being a good start.
        context: Tokens in a window of text; a prompt that is longer is read up to there.
        skip_first: Leave out the first position of each window, which attention uses as a sink.
        sink: Leave out residuals whose norm is more than this many times the median: other attention sinks.
        held_out: Share of the documents of ``text`` that is measured on and never trained on.
        measured: Held-out tokens measured on, at most.
        lr: Learning rate of the SAE.
        batch: Residuals per training step.
        dead_after: Training steps without firing after which a feature counts as dead and is trained to come back.
        rows: Windows per forward pass of the model.
        seed: Of the SAE's weights, of the order of the prompts and of the residuals.
        device: cpu, cuda, or auto.
        dtype: Of the model's weights; the SAE is trained in float32.
        save: What numbers the SAE is saved in: float32 or float16.
    """

    model: str
    layer: tuple[int, ...]
    d_sae: int
    k: int
    text: tuple[Path, ...] = ()
    tasks: tuple[str, ...] = ()
    chat: int = 0
    reply: int = 32
    site: str = "post"
    out: Path | None = None
    residuals: Path = Path("runs/residuals")
    keep: str = "float16"
    read: int = 500_000
    tokens: int = 2_000_000
    architecture: str = "topk"
    sparsity: float = 1.0
    context: int = 256
    skip_first: bool = True
    sink: float = 10.0
    held_out: float = 0.05
    measured: int = 50_000
    lr: float = 1e-3
    batch: int = 256
    dead_after: int = 30
    rows: int = 16
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    save: str = "float32"

    @property
    def name(self) -> str:
        """The model's name, for records: a local folder or file without the way there."""
        place = Path(self.model)
        return place.resolve().name if place.exists() else self.model

    def folder(self, layer: int) -> Path:
        """Where the SAE of a block is written."""
        if self.out is None:
            return Path("runs") / f"sae-{self.name.replace('/', '-')}-{layer}-{self.site}-{self.d_sae}"
        return self.out if len(self.layer) == 1 else self.out / f"block-{layer:02d}"

    def record(self, layer: int) -> dict[str, Any]:
        """The settings of one SAE as its card has them: names of files, not the way there."""
        named = {
            "model": self.name,
            "layer": layer,
            "text": [path.name for path in self.text],
            "tasks": [_without_path(task) for task in self.tasks],
        }
        return {name: value for name, value in {**asdict(self), **named}.items() if name not in ("out", "residuals")}

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
            dead_after=self.dead_after,
        )


def main(cfg: MakeSAEConfig) -> dict[int, dict[str, Any]]:
    """Train, save and measure an SAE for each block; returns their cards by block.

    A command that was stopped goes on where it was: what was read is kept, and an SAE that is there with the same
    settings is not made again.

    Raises:
        ValueError: A setting is out of range, a text malformed or too short, or a folder holds something else.
    """
    from steer_env.lm.anatomy import find_block
    from steer_env.lm.loading import load_language_model, load_tokenizer, resolve_device
    from steer_env.lm.residual_store import read_residuals
    from steer_env.lm.text_residuals import check_context

    _check(cfg)
    cards = {layer: card for layer in cfg.layer if (card := _card_there(cfg, layer)) is not None}
    lm = load_language_model(cfg.model, cfg.dtype, resolve_device(cfg.device))
    for layer in cfg.layer:
        find_block(lm, layer, cfg.site)
    check_context(lm, cfg.context)
    tokenizer = load_tokenizer(cfg.model).hf
    texts = _read_texts(cfg, lm, tokenizer)
    missing = [layer for layer in cfg.layer if layer not in cards]
    if missing:
        kept = read_residuals(cfg.residuals, lm, cfg.layer, cfg.site, texts.trained, cfg.rows, cfg.keep)
        cards |= {layer: _make(cfg, lm, tokenizer, layer, kept[layer], texts) for layer in missing}
    return {layer: cards[layer] for layer in cfg.layer}


class _Texts(NamedTuple):
    """What is trained on and what is measured on, with the positions that each source gives to either."""

    trained: list[Window]
    held_out: list[Window]
    sources: dict[str, dict[str, int]]


def _read_texts(cfg: MakeSAEConfig, lm: Any, tokenizer: Any) -> _Texts:
    from experiments.make import sae_texts
    from steer_env.lm.text_residuals import Prefixes, mixed

    asked = sae_texts.prompts(cfg.tasks, cfg.seed)
    sources = sae_texts.files(cfg.text, cfg.held_out, tokenizer, cfg.context)
    sources |= sae_texts.plain(asked, tokenizer, cfg.context)
    if cfg.chat:
        chat = sae_texts.Chat(lm, tokenizer, cfg.chat, cfg.reply, cfg.rows, cfg.residuals)
        sources |= chat.sources(asked, cfg.context)
    prefixes = Prefixes()
    parts = {}
    for held_out, tokens in ((False, cfg.read), (True, cfg.measured)):
        rows = {name: texts(held_out) for name, texts in sources.items()}
        parts[held_out] = mixed(rows, tokens, prefixes, cfg.skip_first)
    if not any(len(window.tokens) > window.first + 1 for window in parts[True][0]):
        raise ValueError(f"the held-out part of {', '.join(sources)} has no two tokens in a row")
    given = {name: {"trained": parts[False][1][name], "held_out": parts[True][1][name]} for name in sources}
    return _Texts(parts[False][0], parts[True][0], given)


def _make(cfg: MakeSAEConfig, lm: Any, tokenizer: Any, layer: int, kept: Residuals, texts: _Texts) -> dict[str, Any]:
    """Train an SAE, measure it, and put its folder where it belongs when all of it is there."""
    import torch

    from steer_env.lm.cards import rounded, save_card
    from steer_env.lm.loading import weights_sha256
    from steer_env.lm.sae_training import fit_sae
    from steer_env.lm.text_residuals import Place, measure_saved

    limit = kept.limit(cfg.sink)
    batches = kept.batches(limit, cfg.batch, torch.Generator().manual_seed(cfg.seed))
    sae = fit_sae(batches, kept.rows.shape[1], cfg.sae, _metadata(cfg, tokenizer, layer), cfg.seed, str(lm.device))
    sae.fold_W_dec_norm()
    folder = cfg.folder(layer)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    sae.cfg.dtype = cfg.save
    sae.to(getattr(torch, cfg.save)).save_inference_model(part)
    measured = rounded(measure_saved(part, Place(lm, layer, cfg.site, cfg.rows), texts.held_out, limit))
    print(json.dumps({"layer": layer, **measured}, indent=2), flush=True)
    found = {
        "name": f"{cfg.name}, {cfg.site} of block {layer}",
        "texts": texts.sources,
        "residuals": {"read": len(kept.norms), "sinks": int((kept.norms > limit).sum()), "limit": round(limit, 2)},
        "model_sha256": weights_sha256(lm),
        "measured": measured,
        "config": cfg.record(layer),
    }
    card = save_card(part, found, _card_text)
    if folder.exists():
        folder.rmdir()  # it is empty
    part.rename(folder)
    return card


def _check(cfg: MakeSAEConfig) -> None:
    check(cfg.sae)
    if not cfg.layer or len(set(cfg.layer)) < len(cfg.layer):
        raise ValueError(f"layer must name one block or several different ones, got {list(cfg.layer)}")
    if not (cfg.text or cfg.tasks):
        raise ValueError("there is nothing to read: give --text or --tasks")
    if cfg.chat and not cfg.tasks:
        raise ValueError("chat answers the prompts of tasks: give --tasks")
    if not 0 < cfg.held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {cfg.held_out}")
    if cfg.context < 3:
        raise ValueError(f"context must be at least 3 tokens, got {cfg.context}")
    if not cfg.sink > 1:
        raise ValueError(f"sink must be more than 1 time the median norm, got {cfg.sink}")
    if cfg.save not in ("float32", "float16"):
        raise ValueError(f"save must be float32 or float16, got {cfg.save!r}")
    for name, least in {"rows": 1, "measured": 1, "read": 1, "reply": 1, "dead_after": 1, "chat": 0}.items():
        if getattr(cfg, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(cfg, name)}")
    for layer in cfg.layer:
        _card_there(cfg, layer)


def _card_there(cfg: MakeSAEConfig, layer: int) -> dict[str, Any] | None:
    """The card of the same SAE, if it was made before.

    Raises:
        ValueError: The folder holds something else.
    """
    folder = cfg.folder(layer)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    path = folder / "card.json"
    card = json.loads(path.read_text()) if path.is_file() else {}
    if card.get("config") != json.loads(json.dumps(cfg.record(layer))):
        raise ValueError(f"{folder} is there already and is never overwritten: choose another --out")
    return card


def _without_path(task: str) -> str:
    """``mmlu=data/mmlu,splits=seeded`` with ``mmlu`` alone of the way there."""
    first, comma, options = task.partition(",")
    name, equals, data = first.partition("=")
    return f"{name}{equals}{Path(data).name if Path(data).exists() else data}{comma}{options}"


def _metadata(cfg: MakeSAEConfig, tokenizer: Any, layer: int) -> dict[str, Any]:
    """What SAELens records of an SAE's origin, under its names."""
    return {
        "model_name": cfg.name,
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": f"blocks.{layer}.hook_resid_{cfg.site}",
        "hook_layer": layer,
        "dataset_path": ", ".join([path.name for path in cfg.text] + [_without_path(task) for task in cfg.tasks]),
        "context_size": cfg.context,
        "prepend_bos": tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id],
        "seqpos_slice": [1, None] if cfg.skip_first else [None],
    }


def _card_text(card: dict[str, Any]) -> str:
    m, c, r = card["measured"], card["config"], card["residuals"]
    rows = "\n".join(f"| {name} | {n['trained']:,} | {n['held_out']:,} |" for name, n in card["texts"].items())
    return f"""# SAE of {card["name"]}

* **Trained** with SAELens ({c["architecture"]}, {c["d_sae"]:,} features, k = {c["k"]}) for {c["tokens"]:,} residuals,
  drawn from {r["read"] - r["sinks"]:,} that were read in windows of {c["context"]} tokens, first position
  {"left out" if c["skip_first"] else "included"}. Left out as attention sinks: {r["sinks"]:,} with a norm above
  {r["limit"]:.4g}, {c["sink"]:g} times the median. Decoder rows have norm 1.
* **Measured** on {m["tokens"]:,} tokens of texts that it was not trained on ({m["sinks"]:,} sinks left out).
* **Saved** in {c["save"]}, used in float32.

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

| text | tokens to train on | tokens to measure on |
|---|---|---|
{rows}

Versions and hashes are in `card.json`. Made by:

```sh
{_command(c)}
```
"""


def _command(config: dict[str, Any]) -> str:
    """The command line of a card's settings, those alone that are not the defaults."""
    words = ["steer make-sae"]
    for field in fields(MakeSAEConfig):
        value = config.get(field.name, field.default)
        if value == field.default or value == []:
            continue
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-"))
        else:
            words.append(" ".join([flag, *map(str, value if isinstance(value, list) else [value])]))
    return textwrap.fill(" ".join(words), 110, break_on_hyphens=False, break_long_words=False).replace("\n", " \\\n  ")

"""Trains SAEs with SAELens's own trainer on residuals of plain Hugging Face models, and measures them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial, reduce
from itertools import islice
from typing import Any

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    SAETrainer,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from torch.nn import functional

from steer_env.lm.anatomy import find_block, forward_options
from steer_env.lm.passes import hooked_pass
from steer_env.lm.sae_config import SAEConfig, check

_CHUNK = 4096
_SEEN_FIRST = 20  # batches from which mean and scale are taken


def _topk(cfg: SAEConfig, common: dict[str, Any]) -> Any:
    return TopKTrainingSAE(TopKTrainingSAEConfig(k=cfg.k, **common))


def _batchtopk(cfg: SAEConfig, common: dict[str, Any]) -> Any:
    return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=float(cfg.k), **common))


def _jumprelu(cfg: SAEConfig, common: dict[str, Any]) -> Any:
    """With gradients through the threshold to the encoder: without, L0 stayed at 350 for a k of 16."""
    return JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            jumprelu_sparsity_loss_mode="quadratic",
            target_l0=float(cfg.k),
            l0_coefficient=cfg.sparsity / 10,
            l0_warm_up_steps=cfg.samples // cfg.batch // 5,
            jumprelu_init_threshold=0.5,
            jumprelu_bandwidth=1.0,
            jumprelu_ste_to_input=True,
            **common,
        )
    )


def _standard(cfg: SAEConfig, common: dict[str, Any]) -> Any:
    warm_up = cfg.samples // cfg.batch // 5
    return StandardTrainingSAE(
        StandardTrainingSAEConfig(l1_coefficient=cfg.sparsity, l1_warm_up_steps=warm_up, **common)
    )


_BUILDERS: dict[str, Callable[[SAEConfig, dict[str, Any]], Any]] = {
    "topk": _topk,
    "batchtopk": _batchtopk,
    "jumprelu": _jumprelu,
    "standard": _standard,
}


def train_sae(acts: Tensor, cfg: SAEConfig, metadata: dict[str, Any], seed: int) -> Any:
    """Train an SAE on residuals that fit into memory.

    Args:
        acts: ``[N, M]`` residuals.
        cfg: size and schedule.
        metadata: written into the SAE's config (model name, hook name).
        seed: of the weights and of the order of the batches.

    Returns:
        SAELens's training SAE in eval mode; fold its decoder norms and save it with ``save_inference_model``.

    Raises:
        ValueError: a setting is out of range.
    """
    return fit_sae(_batches(acts, cfg.batch, seed), acts.shape[1], cfg, metadata, seed)


def fit_sae(
    batches: Iterator[Tensor], width: int, cfg: SAEConfig, metadata: dict[str, Any], seed: int, device: str = "cpu"
) -> Any:
    """Train an SAE with SAELens's own trainer on a stream of residuals.

    Args:
        batches: endless, each ``[cfg.batch, M]`` float32, well mixed.
        width: residual width M.
        cfg: size and schedule.
        metadata: written into the SAE's config (model name, hook name).
        seed: of the weights.
        device: where the SAE is trained.

    Returns:
        SAELens's training SAE in eval mode.

    Raises:
        ValueError: a setting is out of range.
    """
    check(cfg)
    common = {
        "d_in": width,
        "d_sae": cfg.features,
        "apply_b_dec_to_input": True,
        "normalize_activations": "expected_average_only_in" if cfg.scaled else "none",
        "metadata": SAEMetadata(**metadata),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # SAELens takes no generator for its initial weights
        sae = _BUILDERS[cfg.architecture](cfg, common).to(device)
    _begin_at_mean(sae, list(islice(batches, _SEEN_FIRST)), cfg.scaled)
    trainer_cfg = SAETrainerConfig(
        total_training_samples=cfg.samples,
        train_batch_size_samples=cfg.batch,
        lr=cfg.lr,
        lr_end=cfg.lr / 10,
        lr_decay_steps=cfg.samples // cfg.batch // 5,
        device=device,
        dead_feature_window=cfg.dead_after,
        n_batches_for_norm_estimate=_SEEN_FIRST,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return _Trainer(trainer_cfg, sae, batches).fit().eval()


@torch.no_grad()
def _begin_at_mean(sae: Any, batches: Sequence[Tensor], scaled: bool) -> None:
    """Let the decoder's bias begin at the mean residual: else features near it fire everywhere and the others die."""
    acts = torch.cat(list(batches)).to(sae.b_dec)
    scale = acts.shape[1] ** 0.5 / acts.norm(dim=1).mean() if scaled else 1.0
    sae.b_dec.copy_(scale * acts.mean(dim=0))


class _Trainer(SAETrainer):
    """SAELens's trainer with a bar that moves at every step: a hundred steps can take minutes."""

    def _update_pbar(self, step_output: Any, pbar: Any, update_interval: int = 1) -> None:
        pbar.update(self.cfg.train_batch_size_samples)


def residuals(lm: Any, tokens: Tensor, layer: int, site: str = "post") -> Tensor:
    """``[B, T, M]`` residuals of a causal LM at one block for ``[B, T]`` token ids.

    Padding, if any, must be on the right: what comes later cannot be seen, so no attention mask is needed.

    Raises:
        SteeringError: the site is unknown or the layer out of range.
    """
    return residuals_of_blocks(lm, tokens, (layer,), site)[layer]


@torch.no_grad()
def residuals_of_blocks(lm: Any, tokens: Tensor, layers: Sequence[int], site: str = "post") -> dict[int, Tensor]:
    """``[B, T, M]`` residuals at each of several blocks, from one pass that ends at the highest of them.

    Otherwise as :func:`residuals`.
    """
    seen: dict[int, Tensor] = {}
    top = max(layers)

    def keep(layer: int, hidden: Tensor) -> None:
        seen[layer] = hidden
        if layer == top:
            raise _ReachedError  # what lies above the block would be computed for nothing

    def hooked(inner: Any, layer: int) -> Callable[..., Any]:
        block = find_block(lm, layer, site)
        return lambda **inputs: hooked_pass(inner, inputs, block, site, partial(keep, layer))

    with suppress(_ReachedError):
        reduce(hooked, layers, lm)(input_ids=tokens, use_cache=False, **forward_options(lm))
    return seen


class _ReachedError(Exception):
    """The pass has come to the highest block that is read."""


@torch.no_grad()
def sae_quality(sae: Any, acts: Tensor | Iterable[Tensor]) -> dict[str, float]:
    """Explained variance, mean active features (L0) and features that never fire.

    Args:
        sae: any SAE of SAELens.
        acts: ``[N, M]`` residuals, at once or in parts.

    Returns:
        ``explained_variance`` (1 less the squared error over the squared distance from the mean), ``l0`` and
        ``dead_features`` (a count).
    """
    count, active, error, squares = 0, 0, 0.0, 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=sae.W_dec.device)
    total = torch.zeros(sae.cfg.d_in, dtype=torch.float64, device=sae.W_dec.device)
    for part in acts.split(_CHUNK) if isinstance(acts, Tensor) else acts:
        features = sae.encode(part)
        count += len(part)
        active += int((features > 0).sum())
        error += float((sae.decode(features) - part).double().pow(2).sum())
        squares += float(part.double().pow(2).sum())
        total += part.double().sum(0)
        fired |= (features > 0).any(0)
    return {
        "explained_variance": 1.0 - error / (squares - float(total.pow(2).sum()) / count),
        "l0": active / count,
        "dead_features": int(fired.logical_not().sum()),
    }


@torch.no_grad()
def loss_recovered(
    lm: Any, sae: Any, tokens: Tensor, layer: int, site: str = "post", read: Tensor | None = None, batch: int = 16
) -> dict[str, float]:
    """What the SAE's reconstruction, put in the residual's place, costs the model.

    Args:
        lm: a frozen causal LM.
        sae: any SAE of SAELens; its inference form, for one whose training form looks at the whole batch.
        tokens: ``[N, T]`` token ids, padding on the right.
        layer: block whose residual is replaced.
        site: ``"post"`` or ``"pre"`` of that block.
        read: ``[N, T]`` positions to replace, all by default. A next token counts where both it and the position
            that predicts it are among them.
        batch: rows per forward pass.

    Returns:
        Mean next-token loss in nats: ``loss_plain``, ``loss_reconstructed``, ``loss_zeroed`` (zeros in the
        residual's place), and ``recovered``, the share of the way back from zeros to plain. The share means
        nothing where zeros do no harm.
    """
    block = find_block(lm, layer, site)
    read = torch.ones_like(tokens, dtype=torch.bool) if read is None else read
    losses = dict.fromkeys(_INSTEAD, 0.0)
    for rows, mask in zip(tokens.split(batch), read.split(batch), strict=True):
        for name, instead in _INSTEAD.items():
            edit = partial(_replaced, sae, instead, mask)
            logits = hooked_pass(lm, {"input_ids": rows, "use_cache": False}, block, site, edit).logits
            losses[name] += _summed_loss(logits, rows, mask)
    count = int((read[:, :-1] & read[:, 1:]).sum())
    losses = {name: loss / count for name, loss in losses.items()}
    return {**losses, "recovered": recovered_share(losses)}


def recovered_share(losses: Mapping[str, float]) -> float:
    """The share of the way from the loss with zeros to the plain one that the reconstruction leads back."""
    back = losses["loss_zeroed"] - losses["loss_reconstructed"]
    return back / (losses["loss_zeroed"] - losses["loss_plain"])


_INSTEAD: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "loss_plain": lambda sae, hidden: hidden,
    "loss_reconstructed": lambda sae, hidden: sae(hidden.float()),
    "loss_zeroed": lambda sae, hidden: torch.zeros_like(hidden),
}
LOSSES = tuple(_INSTEAD)


def _replaced(sae: Any, instead: Callable[[Any, Tensor], Tensor], mask: Tensor, hidden: Tensor) -> Tensor:
    """``[b, T, M]`` residuals with something else at the masked positions, the rest as it is."""
    return torch.where(mask[..., None], instead(sae, hidden).to(hidden), hidden)


def _summed_loss(logits: Tensor, tokens: Tensor, mask: Tensor) -> float:
    """Next-token loss in nats over the pairs of neighbours that are both in the mask."""
    counted = mask[:, :-1] & mask[:, 1:]
    return float(functional.cross_entropy(logits[:, :-1][counted].float(), tokens[:, 1:][counted], reduction="sum"))


def _batches(acts: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    while True:
        yield acts[torch.randint(len(acts), (batch,), generator=rng)]

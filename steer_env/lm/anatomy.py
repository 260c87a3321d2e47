"""What the engine must know of a model's build: its blocks, the masks it wants, what its ``forward`` takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from steer_env.errors import SteeringError
from steer_env.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steer_env.lm.cache import Plan

MaskMaker: TypeAlias = "Callable[[Plan], Tensor | dict[str, Tensor | None] | None]"


def find_block(lm: Any, layer: int, site: str) -> nn.Module:
    """Block ``layer`` of any decoder-only model that keeps its blocks in one list.

    Raises:
        SteeringError: The site is unknown, the layer out of range, or there is no such list.
    """
    if site not in ("post", "pre"):
        raise SteeringError(f"site must be 'post' or 'pre', got {site!r}")
    blocks = find_blocks(lm)
    if not 0 <= layer < len(blocks):
        raise SteeringError(f"layer must be in [0, {len(blocks)}), got {layer}")
    return blocks[layer]


def find_blocks(lm: Any) -> nn.ModuleList:
    """The blocks of a decoder-only model.

    Raises:
        SteeringError: It keeps them in no list.
    """
    count = lm.config.get_text_config().num_hidden_layers
    for module in lm.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise SteeringError(f"{type(lm).__name__} holds no list of {count} blocks to steer")


def forward_options(lm: Any) -> dict[str, Any]:
    """Options of this model's ``forward`` that spare the logits nobody reads.

    Raises:
        SteeringError: Positions cannot be given, so lanes of different lengths cannot share a pass.
    """
    parameters = inspect.signature(lm.forward).parameters
    if "position_ids" not in parameters:
        raise SteeringError(
            f"{type(lm).__name__} takes no position_ids, so lanes of different lengths cannot share a pass"
        )
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}


def mask_maker(lm: Any) -> MaskMaker:
    """How this model wants its attention masks: one, or one for each kind of layer.

    Raises:
        SteeringError: Its attention or one of its kinds of layers takes no mask of ours.
    """
    config = lm.config.get_text_config()
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise SteeringError(f"attention must be 'sdpa' or 'eager', got {attention!r}: pass attn_implementation='sdpa'")
    for trait in ("attention_types", "alibi"):
        if getattr(config, trait, None):
            raise SteeringError(
                f"{type(lm).__name__} places its tokens by {trait}, which lanes of different lengths would break"
            )
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise SteeringError(f"layers of kind {sorted(unknown)} have no per-lane cache; full and sliding attention do")

    def mask(plan: Plan, width: int | None) -> Tensor | None:
        if attention == "sdpa":
            return None if plan.is_plainly_causal(width) else plan.mask(width)
        visible = plan.mask(width)
        bias = torch.zeros(visible.shape, dtype=lm.dtype, device=visible.device)
        return bias.masked_fill(~visible, torch.finfo(lm.dtype).min)

    if kinds:
        widths = {"full_attention": None, "sliding_attention": window}
        return lambda plan: {kind: mask(plan, widths[kind]) for kind in kinds}
    return lambda plan: mask(plan, window)

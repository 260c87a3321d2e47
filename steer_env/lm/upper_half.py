"""The blocks above a steering site as a model of their own, for turns of one token.

Where the model's turn is one token and nothing is written behind it, the blocks below the site are needed only to read
the prompt: with its keys and values above the site and its last residual at hand, an answer costs the blocks above.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from steer_env.lazy import torch
from steer_env.lm.anatomy import find_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn


class UpperHalf:
    """What a causal language model does with the residual at one site; it shares all parameters with the model.

    Args:
        lm: A Hugging Face causal LM.
        layer: Block ``L``.
        site: ``"post"`` = output of block ``L``; ``"pre"`` = its input.

    Attributes:
        first: The lowest block above the site.

    Raises:
        SteeringError: The model keeps its blocks in no list.
    """

    def __init__(self, lm: Any, layer: int, site: str):
        self.first = layer + (site == "post")
        blocks = find_blocks(lm)
        self._lm = _with_blocks(lm, blocks, blocks[self.first :])

    def __call__(self, residual: Tensor, inputs: dict[str, Any]) -> Tensor:
        """``[b, V]`` float32 logits for the residuals ``[b, M]`` of one token a lane.

        Args:
            residual: At the site, after steering.
            inputs: The other arguments of the model's ``forward``.
        """
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        with torch.no_grad():
            logits: Tensor = self._lm(inputs_embeds=residual[:, None], **rest).logits
        return logits[:, -1].float()


def _with_blocks(module: nn.Module, blocks: nn.Module, others: nn.Module) -> nn.Module:
    """The module with ``others`` in the place of ``blocks``: what holds these is copied, all else is shared."""
    if module is blocks:
        return others
    for name, child in module.named_children():
        changed = _with_blocks(child, blocks, others)
        if changed is not child:
            twin = copy.copy(module)
            twin._modules = {**module._modules, name: changed}
            return twin
    return module

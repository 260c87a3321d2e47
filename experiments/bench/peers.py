"""The same step, observe, choose, steer and decode, as it is written with other libraries.

An environment must stop at the site, since the agent acts outside of the model. With hooks alone that takes two passes
a token; a policy inside the hook takes one, and is no environment. Libraries that are not installed are left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from experiments.bench.engine import play
from experiments.bench.models import load, prompts
from experiments.bench.timing import Row, Run, Sizes, compare
from steer_env.lazy import torch
from steer_env.lm.anatomy import find_block
from steer_env.lm.model import SteeredModel

FEATURES = 4_096


def measure(sizes: Sizes) -> Iterator[Row]:
    """Tokens a second on one model, each library with a cache of keys and values."""
    lm = load(sizes)
    text = lm.config.get_text_config()
    directions = torch.randn(FEATURES, text.hidden_size, device=sizes.device)
    layer = text.num_hidden_layers // 2
    for batch in sizes.batches:
        heads = prompts(lm, batch, sizes.prompt_tokens)
        engine = SteeredModel(lm, layer, batch)
        runs: dict[str, Run] = {"Steer": partial(play, engine, heads, directions, sizes.new_tokens)}
        for name, (needs, loop) in PEERS.items():
            if find_spec(needs) is not None:
                step = loop(lm, layer, directions)
                runs[name] = partial(_write, step, heads, sizes)
        yield compare(f"batch {batch}", "tokens/s", "Steer", runs, sizes)


Step = Callable[[Any, Any], tuple[Any, Any]]


def _write(step: Step, heads: list[list[int]], sizes: Sizes) -> int:
    tokens, cache = torch.tensor(heads, device=sizes.device), None
    with torch.no_grad():
        for _ in range(sizes.new_tokens):
            logits, cache = step(tokens, cache)
            tokens = logits[:, -1].argmax(-1, keepdim=True)
    return len(heads) * sizes.new_tokens


def _choose(hidden: Any, directions: Any) -> Any:
    return directions[(hidden[:, -1, 0] * 1e4).long().abs() % len(directions)]


def _two_passes(lm: Any, layer: int, directions: Any) -> Step:
    """Hugging Face and PyTorch's hooks: a pass to observe, whose keys and values are cut off, and one to steer."""
    from transformers import DynamicCache

    block = find_block(lm, layer, "post")
    seen: list[Any] = []

    def observe(module: Any, args: Any, output: Any) -> None:
        seen[:] = [output[0] if isinstance(output, tuple) else output]

    def steer(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, -1] += _choose(seen[0], directions)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def step(tokens: Any, cache: Any) -> tuple[Any, Any]:
        cache = DynamicCache(config=lm.config) if cache is None else cache
        for hook in (observe, steer):
            handle = block.register_forward_hook(hook)
            try:
                logits = lm(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            finally:
                handle.remove()
            if hook is observe:
                cache.crop(-tokens.shape[1])
        return logits, cache

    return step


def _policy_in_hook(lm: Any, layer: int, directions: Any) -> Step:
    """Hugging Face and one hook that chooses by itself: one pass, and no place for an agent outside."""
    from transformers import DynamicCache

    block = find_block(lm, layer, "post")

    def steer(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, -1] += _choose(hidden, directions)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def step(tokens: Any, cache: Any) -> tuple[Any, Any]:
        cache = DynamicCache(config=lm.config) if cache is None else cache
        handle = block.register_forward_hook(steer)
        try:
            logits = lm(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        finally:
            handle.remove()
        return logits, cache

    return step


def _transformer_lens(lm: Any, layer: int, directions: Any) -> Step:
    """TransformerLens, random weights of the same size (its own implementation of the blocks), two passes a token."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    text = lm.config.get_text_config()
    heads = text.num_attention_heads
    config = HookedTransformerConfig(
        **{"n_layers": text.num_hidden_layers, "d_model": text.hidden_size, "n_heads": heads},
        **{"d_head": text.hidden_size // heads, "d_mlp": text.intermediate_size, "n_ctx": 1024},
        **{"d_vocab": text.vocab_size, "act_fn": "silu", "gated_mlp": True, "normalization_type": "RMS"},
        **{"positional_embedding_type": "rotary", "rotary_dim": text.hidden_size // heads, "device": "cpu"},
    )
    with warnings.catch_warnings():  # its successor makes no models of a shape alone
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = HookedTransformer(config).eval()
    name = f"blocks.{layer}.hook_resid_post"
    seen: list[Any] = []

    def observe(hidden: Any, hook: Any) -> None:
        seen[:] = [hidden]

    def steer(hidden: Any, hook: Any) -> Any:
        hidden[:, -1] += _choose(seen[0], directions)
        return hidden

    def step(tokens: Any, cache: Any) -> tuple[Any, Any]:
        if cache is None:
            cache = TransformerLensKeyValueCache.init_cache(theirs.cfg, "cpu", len(tokens))
        inputs = {"past_kv_cache": cache, "attention_mask": torch.ones_like(tokens)}
        cache.freeze()  # the pass that observes leaves nothing behind
        theirs.run_with_hooks(tokens, fwd_hooks=[(name, observe)], stop_at_layer=layer + 1, **inputs)
        cache.unfreeze()
        return theirs.run_with_hooks(tokens, fwd_hooks=[(name, steer)], **inputs), cache

    return step


def _nnsight(lm: Any, layer: int, directions: Any) -> Step:
    """nnsight on the model itself: reading and writing are in one trace, the choice inside it; nothing is cached."""
    from nnsight import NNsight

    wrapped = NNsight(lm)
    path = next(name for name, module in lm.named_modules() if module is find_block(lm, layer, "post"))

    def step(tokens: Any, cache: Any) -> tuple[Any, Any]:
        tokens = tokens if cache is None else torch.cat([cache, tokens], dim=1)
        with wrapped.trace(input_ids=tokens):
            block = wrapped
            for part in path.split("."):
                block = block[int(part)] if part.isdigit() else getattr(block, part)
            hidden = block.output[0] if isinstance(block.output, tuple) else block.output
            hidden[:, -1] += _choose(hidden, directions)
            logits = wrapped.output.logits.save()
        return logits, tokens

    return step


PEERS: dict[str, tuple[str, Callable[[Any, int, Any], Step]]] = {
    "two passes with hooks": ("transformers", _two_passes),
    "a policy inside a hook": ("transformers", _policy_in_hook),
    "TransformerLens, two passes": ("transformer_lens", _transformer_lens),
    "nnsight, no cache": ("nnsight", _nnsight),
}
"""By name: the package that it needs, and what makes its step. Adding one is a row."""

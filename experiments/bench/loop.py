"""The whole loop of a user: the environment, with random actions and with PPO learning, beside plain generation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.models import SHAPES, generate, load
from experiments.bench.timing import Row, Sizes, compare
from steer_env.lazy import torch

FEATURES, K = 4_096, 32
ITEMS = 200


def measure(sizes: Sizes) -> Iterator[Row]:
    """Tokens a second of replies of ``new_tokens`` tokens to short questions, steered at half depth."""
    import gymnasium as gym

    import steer_env  # noqa: F401  # registers the environments
    from agents.algos import make_algo
    from agents.vec_env import SB3VecEnv
    from steer_env.envs.base import unwrap

    with tempfile.TemporaryDirectory() as folder:
        kwargs = _world(Path(folder), sizes)
        for batch in sizes.batches:
            envs = gym.make_vec("Steer-SimpleQA-v0", num_envs=batch, **kwargs)
            inner = unwrap(envs)
            learner = make_algo("ppo", SB3VecEnv(gym.make_vec("Steer-SimpleQA-v0", num_envs=batch, **kwargs)), seed=0)
            openings = [inner.task.start(item).opening for item in inner.dealt[:batch]]
            heads = _even([list(inner.tokenizer.prompt(opening)) for opening in openings])
            actions = np.random.default_rng(0).integers(FEATURES, size=(sizes.new_tokens, batch))
            runs = {
                "generate": partial(generate, inner.lm, heads, sizes.new_tokens),
                "environment": partial(_play, envs, actions),
                "environment, one feature": partial(_play, envs, np.zeros_like(actions)),
                "PPO in the loop": partial(_learn, learner, batch * sizes.new_tokens),
            }
            yield compare(f"batch {batch}", "tokens/s", "generate", runs, sizes)


def _play(envs: Any, actions: Any) -> int:
    envs.reset(seed=0)
    for row in actions:
        envs.step(row)
    return int(actions.size)


def _learn(learner: Any, steps: int) -> int:
    before = learner.num_timesteps
    learner.learn(steps, reset_num_timesteps=False)
    return int(learner.num_timesteps - before)


def _even(heads: list[list[int]]) -> list[list[int]]:
    """The prompts cut to the length of the shortest, for a ``generate`` without padding."""
    shortest = min(map(len, heads))
    return [head[-shortest:] for head in heads]


def _world(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Arguments of an environment: the model, a random SAE, and questions."""
    from sae_lens import TopKSAE, TopKSAEConfig

    lm = load(sizes)
    text = lm.config.get_text_config()
    sae = TopKSAE(TopKSAEConfig(d_in=text.hidden_size, d_sae=FEATURES, k=K, device="cpu"))
    torch.nn.init.normal_(sae.W_dec, std=text.hidden_size**-0.5)
    sae.save_model(folder / "sae")
    rng = np.random.default_rng(0)
    words = [f"{rng.integers(100)}" for _ in range(16)]
    rows = [{"problem": " ".join(rng.permutation(words)), "answer": "7", "metadata": "{}"} for _ in range(ITEMS)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = sizes.model
    if model in SHAPES:
        from transformers import AutoTokenizer

        model = str(folder / "model")
        lm.save_pretrained(model)
        AutoTokenizer.from_pretrained(str(files("steer_env") / "embedded" / "locked")).save_pretrained(model)
    return {
        **{"model": model, "sae": str(folder / "sae"), "layer": text.num_hidden_layers // 2, "device": sizes.device},
        **{"data": str(folder / "questions.jsonl"), "max_new_tokens": sizes.new_tokens, "dtype": sizes.dtype},
        **{"coefficient": 1.0, "coefficient_unit": "residual", "observation": "normalized", "prompt_store": "off"},
    }

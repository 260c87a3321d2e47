"""Steer: a frozen language model as a Gymnasium environment, steered one SAE feature a token.

Importing this package registers the environments and takes a fraction of a second: PyTorch, Transformers and SAELens
load when a model does. What is listed in ``__all__`` is public; everything else is free to move.
"""

import gymnasium as gym

from steer_env.envs.base import unwrap
from steer_env.envs.env import SteerEnv
from steer_env.envs.observations import OBSERVATIONS
from steer_env.envs.settings import Settings
from steer_env.envs.vector_env import SteerVectorEnv
from steer_env.errors import NotTheBenchmark, SteeringError
from steer_env.evaluation.comparison import Comparison, compare
from steer_env.evaluation.controls import CONTROLS
from steer_env.evaluation.masks import MASKS
from steer_env.evaluation.play import Lanes, Played, Policy, evaluate
from steer_env.lm.loading import load_language_model, load_sae, load_tokenizer
from steer_env.lm.model import SteeredModel
from steer_env.lm.presets import PRESETS
from steer_env.lm.sae_sources import SOURCES
from steer_env.tasks import TASKS, Conversation, Task, Turn

__all__ = [
    "CONTROLS",
    "MASKS",
    "OBSERVATIONS",
    "PRESETS",
    "SOURCES",
    "TASKS",
    "Comparison",
    "Conversation",
    "Lanes",
    "NotTheBenchmark",
    "Played",
    "Policy",
    "Settings",
    "SteerEnv",
    "SteerVectorEnv",
    "SteeredModel",
    "SteeringError",
    "Task",
    "Turn",
    "compare",
    "evaluate",
    "load_language_model",
    "load_sae",
    "load_tokenizer",
    "unwrap",
]

_IDS: dict[str, dict[str, object]] = {
    "Steer-MMLU-v0": {"task": "mmlu"},
    "Steer-MMLUPro-v0": {"task": "mmlu_pro"},
    "Steer-BBQ-v0": {"task": "bbq"},
    "Steer-GSM8K-v0": {"task": "gsm8k"},
    "Steer-HarmBench-v0": {"task": "harmbench"},
    "Steer-XSTest-v0": {"task": "xstest"},
    "Steer-SimpleQA-v0": {"task": "simpleqa"},
    "Steer-Stories-v0": {"task": "stories"},
    "Steer-TicTacToe-v0": {"task": "tictactoe"},
    "AutoSteer-TicTacToe-v0": {"task": "tictactoe", "action": "strengths", "observation": "board"},
}

for _id, _kwargs in _IDS.items():
    gym.register(
        _id,
        entry_point="steer_env.envs.registry:make_env",
        vector_entry_point="steer_env.envs.registry:make_vector_env",
        kwargs=_kwargs,
    )

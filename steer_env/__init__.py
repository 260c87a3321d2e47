"""Steer: a frozen language model as a Gymnasium environment, steered one SAE feature a token.

Importing this package registers the environments; models and SAEs load when one is made.
"""

from typing import Any

import gymnasium as gym

_IDS: dict[str, dict[str, Any]] = {
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

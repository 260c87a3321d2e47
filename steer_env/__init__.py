"""Steer: a frozen language model as a Gymnasium environment, steered one SAE feature a token.

Importing this package registers the environments and takes a fraction of a second: PyTorch, Transformers and SAELens
load when a model does. What is listed in ``__all__`` is public; everything else is free to move.
"""

from steer_env.envs.base import unwrap
from steer_env.envs.env import SteerEnv
from steer_env.envs.observations import OBSERVATIONS
from steer_env.envs.settings import Settings
from steer_env.envs.vector_env import SteerVectorEnv
from steer_env.errors import NotTheBenchmark, SteeringError
from steer_env.evaluation.comparison import Comparison, compare
from steer_env.evaluation.controls import CONTROLS, fixed
from steer_env.evaluation.masks import MASKS
from steer_env.evaluation.play import Lanes, Played, Policy, evaluate
from steer_env.lm.loading import load_language_model, load_sae, load_tokenizer
from steer_env.lm.model import SteeredModel
from steer_env.lm.presets import PRESETS
from steer_env.lm.sae_sources import SOURCES
from steer_env.registration import register_task
from steer_env.steered import Generation, SteeredLM, steer, unsteered
from steer_env.tasks import TASKS, Conversation, Task, Turn
from steer_env.tasks.bbq import BBQ
from steer_env.tasks.gsm8k import GSM8K
from steer_env.tasks.harmbench import HarmBench
from steer_env.tasks.mmlu import MMLU
from steer_env.tasks.mmlu_pro import MMLUPro
from steer_env.tasks.reasoning_gym import ReasoningGym
from steer_env.tasks.simpleqa import SimpleQA
from steer_env.tasks.stories.task import Stories
from steer_env.tasks.text import Text
from steer_env.tasks.tictactoe.task import TicTacToe
from steer_env.tasks.xstest import XSTest

__all__ = [
    "CONTROLS",
    "MASKS",
    "OBSERVATIONS",
    "PRESETS",
    "SOURCES",
    "TASKS",
    "Comparison",
    "Conversation",
    "Generation",
    "Lanes",
    "NotTheBenchmark",
    "Played",
    "Policy",
    "Settings",
    "SteerEnv",
    "SteerVectorEnv",
    "SteeredLM",
    "SteeredModel",
    "SteeringError",
    "Task",
    "Turn",
    "compare",
    "evaluate",
    "fixed",
    "load_language_model",
    "load_sae",
    "load_tokenizer",
    "register_task",
    "steer",
    "unsteered",
    "unwrap",
]

register_task("Steer-MMLU-v0", MMLU)
register_task("Steer-MMLUPro-v0", MMLUPro)
register_task("Steer-BBQ-v0", BBQ)
register_task("Steer-GSM8K-v0", GSM8K)
register_task("Steer-HarmBench-v0", HarmBench)
register_task("Steer-XSTest-v0", XSTest)
register_task("Steer-SimpleQA-v0", SimpleQA)
register_task("Steer-Stories-v0", Stories)
register_task("Steer-Text-v0", Text)
register_task("Steer-ReasoningGym-v0", ReasoningGym)
register_task("Steer-TicTacToe-v0", TicTacToe)
register_task("AutoSteer-TicTacToe-v0", TicTacToe, action="strengths", observation="board")

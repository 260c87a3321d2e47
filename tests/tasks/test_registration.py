"""One call makes a task an environment, from anybody's module; what cannot be one is refused with one clear error."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import steer_env
from steer_env.registration import register_task, task_of
from steer_env.tasks import TASKS, Conversation, Task, find_task
from steer_env.tasks.bbq import BBQ
from steer_env.tasks.tictactoe import TicTacToe
from tests.toys import Quiz

ROOT = Path(steer_env.__file__).parents[1]
EXAMPLE = ROOT / "experiments" / "examples" / "own_task.py"


@pytest.fixture(autouse=True)
def clean():
    """Whatever a test registers is forgotten after it."""
    tasks, ids = dict(TASKS), dict(gym.registry)
    yield
    for table, before in ((TASKS, tasks), (gym.registry, ids)):
        table.clear()
        table.update(before)


def test_our_own_ids_are_registered_in_the_same_way():
    ours = {name: spec.kwargs for name, spec in gym.registry.items() if "steer_env" in str(spec.entry_point)}
    assert {kwargs["task"] for kwargs in ours.values()} == set(TASKS)
    assert ours["AutoSteer-TicTacToe-v0"] == {"task": "tictactoe", "action": "strengths", "observation": "board"}
    assert all(TASKS[name].name == name for name in TASKS)


def test_a_task_of_somebody_else_is_played_singly_and_batched(tiny):
    register_task("Steer-Quiz-v0", Quiz, kind="long")
    assert TASKS["quiz"] is Quiz
    env = gym.make("Steer-Quiz-v0", **tiny, coefficient_unit="residual")
    env.reset(seed=0, options={"item": 3})
    assert env.unwrapped.task.split == "train"
    assert env.unwrapped.episode.conversations[0].opening == Quiz().start(3).opening
    envs = gym.make_vec("Steer-Quiz-v0", num_envs=2, **tiny, coefficient_unit="residual", split="test")
    assert (envs.unwrapped.task.split, envs.num_envs) == ("test", 2)


def test_a_class_may_have_several_ids():
    register_task("Steer-HardTicTacToe-v0", TicTacToe, epsilon=0.0)
    assert gym.spec("Steer-HardTicTacToe-v0").kwargs == {"task": "tictactoe", "epsilon": 0.0}
    assert task_of("Steer-HardTicTacToe-v0") is task_of("AutoSteer-TicTacToe-v0") is TicTacToe


class SplitLess(Quiz):
    name = "split_less"

    def __init__(self):
        super().__init__()


class Nameless(Task):
    def __init__(self, split: str = "train"):
        self.split = split

    def __len__(self):
        return 1

    def start(self, item: int) -> Conversation:
        raise NotImplementedError


class Unfinished(Task):
    name = "unfinished"


class OtherBBQ(Quiz):
    name = "bbq"


class Limited(Quiz):
    name = "limited"

    def __init__(self, split: str = "train", limit: int = 3):
        super().__init__(split)


@pytest.mark.parametrize(
    ("env_id", "task", "defaults", "message"),
    [
        ("Steer-BBQ-v0", BBQ, {}, "environment id 'Steer-BBQ-v0' is registered already"),
        ("Steer-Mine-v0", dict, {}, "must be a subclass of steer_env.Task, got <class 'dict'>"),
        ("Steer-Mine-v0", Quiz(), {}, "must be a subclass of steer_env.Task, got <tests.toys.Quiz"),
        ("Steer-Mine-v0", "bbq", {}, "must be a subclass of steer_env.Task, got 'bbq'"),
        ("Steer-Mine-v0", Unfinished, {}, r"Unfinished must define __len__, start"),
        ("Steer-Mine-v0", Nameless, {}, "Nameless must have a name, a text that is not empty, got None"),
        ("Steer-Mine-v0", SplitLess, {}, "SplitLess must take split='train'"),
        ("Steer-Mine-v0", OtherBBQ, {}, "task name 'bbq' is taken by steer_env.tasks.bbq.BBQ: give .*OtherBBQ another"),
        ("Steer-Mine-v0", Limited, {}, "argument 'limit' of task 'limited' is one of the environment's own"),
        ("Steer-Mine-v0", Quiz, {"decode": "free"}, "default 'decode' is no argument of 'Steer-Mine-v0'; there are"),
        ("Steer-Mine-v0", Quiz, {"task": "bbq"}, "got multiple values|default 'task' is no argument"),
    ],
)
def test_what_cannot_be_an_environment_is_refused_and_leaves_nothing_behind(env_id, task, defaults, message):
    before = dict(TASKS), set(gym.registry)
    with pytest.raises((ValueError, TypeError), match=message):
        register_task(env_id, task, **defaults)
    assert (dict(TASKS), set(gym.registry)) == before


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="unknown task 'chess'; there are"):
        find_task("chess")
    with pytest.raises(ValueError, match="'CartPole-v1' is no registered environment of a task"):
        task_of("CartPole-v1")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The example, copied to where nothing of this repository lies beside it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(EXAMPLE, tmp_path / "mine.py"))


def test_the_example_runs_where_it_is_copied(copied, capsys):
    assert len(copied.read_text().splitlines()) <= 60
    runpy.run_path(str(copied), run_name="__main__")
    assert "unsteered score on 10 test items: 0." in capsys.readouterr().out


def test_another_process_finds_an_id_by_the_module_that_registers_it(copied):
    made = (
        "import gymnasium as gym\n"
        "env = gym.make('mine:Steer-Larger-v0', preset='embedded-locked')\n"
        "from steer_env.registration import task_of\n"
        "print(env.unwrapped.task.name, task_of('mine:Steer-Larger-v0').__module__)"
    )
    environment = {"PYTHONPATH": f"{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", made], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["larger mine"], done.stderr


def test_the_code_of_the_page_runs():
    page = (ROOT / "steer_env" / "tasks" / "README.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert names["info"]["item"] == 0
    assert names["env"].unwrapped.task.name == "reversed"

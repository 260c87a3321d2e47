"""A task of your own, in one class: check it, make it an environment, and play it without steering.

Copy this file and change the class. ``python experiments/examples/own_task.py`` runs it.
"""

import gymnasium as gym

import steer_env
from steer_env.tasks.data import Items, Row
from steer_env.tasks.multiple_choice import MultipleChoice, Question
from steer_env.testing import check_task

SPLITS = {"train": range(2, 50), "validation": range(50, 60), "test": range(60, 90)}


class Larger(MultipleChoice):
    """Which of two numbers is larger; score and reward are 1 for the right letter, else 0."""

    name = "larger"
    instruction = "Answer with the letter of the larger number."

    def __init__(self, split: str = "train", decode: str = "constrained") -> None:
        rows = [Row({"number": number}, f"larger:{split}:{number}") for number in SPLITS[split]]
        super().__init__(Items(rows, "generated", split, seeded=False), decode=decode)

    def question(self, row: Row) -> Question:
        """Two neighbours, of which every other time the first is the larger one."""
        low = row.values["number"]
        options = (str(low), str(low + 1)) if low % 2 else (str(low + 1), str(low))
        return Question("Which is larger?", options, options.index(str(low + 1)), row.where)


steer_env.register_task("Steer-Larger-v0", Larger)


def main() -> None:
    """Check the task, and play ten test items with the no-op at every token."""
    check_task(Larger(split="test"))
    # Any causal language model and SAE will do (model=, sae=, or another preset); this one is tiny and in the package.
    env = gym.make("Steer-Larger-v0", split="test", preset="embedded-locked")
    no_op = steer_env.unwrap(env).features.size
    scores = []
    for item in range(10):
        env.reset(seed=0, options={"item": item})
        ended = False
        while not ended:
            _, _, ended, _, info = env.step(no_op)
        scores.append(info["score"])
    print(f"unsteered score on {len(scores)} test items: {sum(scores) / len(scores):.2f}")


if __name__ == "__main__":
    main()

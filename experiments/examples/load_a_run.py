"""Open a run folder: what was trained, how it plays, and what it did at each token.

    python experiments/examples/load_a_run.py runs/first

Without a folder it trains a short run first, in a temporary one.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import agents


def main(path: Path | None) -> None:
    """Play a run's agent on items of test and say what it did."""
    with tempfile.TemporaryDirectory() as folder:
        run = agents.load_run(path) if path else train_one(Path(folder))
        print(run)
        returns = [row["return"] for row in run.folder.rows("episodes")]
        tenth = max(1, len(returns) // 10)
        print(f"mean return: first tenth {mean(returns[:tenth]):.2f}, last tenth {mean(returns[-tenth:]):.2f}")

        played = run.play(items=200)
        low, high = played.interval
        print(f"score on 200 items of test: {played.score:.2f} ({low:.2f} to {high:.2f})")
        features = Counter(played.tokens["feature"].tolist())
        print("features it used most:", ", ".join(f"{name} ({count})" for name, count in features.most_common(5)))

        first = played.tokens["episode"] == 0
        for name in ("feature", "token_text", "value", "entropy"):
            values = played.tokens[name][first]
            print(f"{name:10}", *(f"{value:.2f}" if isinstance(value, float) else value for value in values))
        print("score", played.episodes[0]["score"])


def train_one(folder: Path) -> agents.Run:
    """A short training, of the kind that ``steer train`` makes."""
    return agents.train("Steer-TicTacToe-v0", "short", total_timesteps=20_000, runs_dir=folder, wandb="disabled")


def mean(values: list[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)

"""Each example runs as printed, from any folder, learns something visible, and is short enough to copy."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "experiments" / "examples"


def printed(name: str, folder: Path) -> str:
    """What the example prints when it is run in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "it leaves nothing behind"
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"python experiments/examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.slow
def test_the_quickstart_learns_and_names_the_feature_of_each_move(tmp_path):
    """Unsteered 0.06, ceiling 1.0; trained was 0.59."""
    text = printed("quickstart", tmp_path)
    unsteered, trained = map(float, re.search(r"(\S+) unsteered, (\S+) trained", text).groups())
    assert trained > unsteered + 0.2
    moves = re.findall(r"^move \d   feature +(-?\d+)   \S.*$", text, re.MULTILINE)
    assert any(int(feature) >= 0 for feature in moves)
    assert text.rstrip().endswith("score 1")


@pytest.mark.slow
def test_any_policy_is_compared_with_the_unsteered_model(tmp_path):
    """Unsteered 0.06, ceiling 1.0; REINFORCE was 0.80."""
    text = printed("any_policy", tmp_path)
    scores = {row.split()[0]: float(row.split()[2]) for row in text.splitlines()[1:]}
    assert scores["REINFORCE"] > scores["unsteered"] + 0.35


@pytest.mark.slow
def test_a_run_is_loaded_and_played(tmp_path):
    """Unsteered 0.06, ceiling 1.0; trained was 0.79."""
    text = printed("load_a_run", tmp_path)
    assert "total_timesteps=20000" in text
    first, last = map(float, re.search(r"first tenth (\S+), last tenth (\S+)", text).groups())
    assert last > first
    assert float(re.search(r"200 items of test: (\S+)", text).group(1)) > 0.4
    assert re.search(r"features it used most: -?\d+ \(\d+\)", text)

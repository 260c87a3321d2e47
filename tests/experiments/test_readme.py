"""The README's promises that a machine can check: its Python runs, its files exist, its commands are the scripts'."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = [
    block
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    if not re.search("path/or/hub-id|preset=", block)
]


@pytest.mark.slow
def test_the_examples_run_as_printed(capsys):
    """All in one session, as a reader would paste them."""
    session: dict[str, object] = {}
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), session)
    assert session["ended"] is not False
    assert "student O" in capsys.readouterr().out


def test_the_tree_names_files_that_exist():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", TEXT, re.DOTALL)
    assert tree
    folder, seen = ROOT, 0
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name
            assert folder.is_dir(), name
        else:
            assert (folder / name).exists(), f"{folder.name}/{name}"
            seen += 1
    modules = {path.name for path in (ROOT / "steer_env").glob("*.py")} - {"errors.py"}
    assert modules == {name for name in modules if f"  {name}" in tree.group(1)}, "a module of steer_env is missing"
    assert seen > 25


def test_every_module_it_tells_to_run_exists():
    for name in re.findall(r"python -m (experiments\.\w+)", TEXT):
        assert (ROOT / (name.replace(".", "/") + ".py")).is_file(), name

"""What the pages promise that a machine can check: their Python runs, their commands parse, their links exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from experiments.__main__ import COMMANDS, load, parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "steer_env/README.md", "steer_env/tasks/README.md", "agents/README.md")]
PAGES += [ROOT / "experiments" / name for name in ("README.md", "RESULTS.md", "INSIDE.md")]
SCRIPTS = sorted((ROOT / "experiments" / "runs").glob("*.sh"))
NEEDS_THE_HUB = re.compile("path/or/hub-id|preset=")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[str]:
    """Every ``steer`` command with flags that a page prints, comments left out."""
    text = "\n".join(blocks(page, "sh")) + "\n" + "\n".join(re.findall(r"`(steer [^`]+ --[^`]+)`", page.read_text()))
    lines = [line.partition("#")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("steer ")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_as_printed(page, tmp_path, monkeypatch):
    """All in one session, as a reader would paste it."""
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    for block in blocks(page, "python"):
        if not NEEDS_THE_HUB.search(block):
            exec(compile(block, str(page), "exec"), session)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one(page):
    for command in commands(page):
        name, *flags = shlex.split(command.replace("*", "x").replace("--resume", ""))[1:]  # there is no run to resume
        if name != "COMMAND":
            assert name in COMMANDS, command
            parse(name, load(name), flags)


def test_the_first_page_is_short_and_prints_commands():
    assert len((ROOT / "README.md").read_bytes()) < 10_000
    assert len(commands(ROOT / "README.md")) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_sound_shell_and_runs_commands_that_there_are(script):
    subprocess.run(["bash", "-n", script], check=True)
    named = re.findall(r"\bsteer ([\w-]+)", script.read_text())
    assert set(named) <= set(COMMANDS)
    assert named

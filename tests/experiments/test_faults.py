"""Plant each fault in a copy of the product and see that its test catches it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chromium import find_chromium
from tests.faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
PACKAGES = ("steer_env", "agents", "experiments", "tests")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_change_and_its_test_exists(fault: Fault):
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
    file, name = fault.test.split("::")
    found = re.search(rf"def {name}\(([^)]*)\)", (ROOT / "tests" / file).read_text())
    assert found
    assert fault.browser == bool({"browser", "opened"} & set(re.findall(r"\w+", found[1])))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_planted_fault_is_caught(fault: Fault, tmp_path: Path):
    if fault.browser:
        find_chromium()  # a test that is skipped, or fails for want of a browser, tells nothing of the fault
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sound = (tmp_path / fault.file).read_text()
    (tmp_path / fault.file).write_text(sound.replace(fault.old, fault.new))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{fault.test}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1, f"the test did not fail:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"

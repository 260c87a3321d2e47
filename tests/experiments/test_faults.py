"""Every planted fault fits the code, and the command that plants them knows a caught one from one that is not."""

import subprocess
import sys

import pytest

from tests.faults import FAULTS
from tests.planting import ROOT, Fault, Result, id_of_test, misfit, problem

CAUGHT = next(fault for fault in FAULTS if fault.name == "few seeds look sure")
TEST = id_of_test(CAUGHT)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_change_of_the_code_and_its_test_exists(fault: Fault) -> None:
    assert misfit(fault) is None


def test_every_fault_has_its_own_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_row_that_does_not_fit_says_where_its_code_stands() -> None:
    assert "_student (steer_env/evaluation/" in str(misfit(CAUGHT._replace(where="nowhere")))
    assert "nowhere" in str(misfit(CAUGHT._replace(old="stats.t.ppf(0.5)")))
    assert "in one file" in str(misfit(CAUGHT._replace(test="test_that_is_not_there")))


@pytest.mark.parametrize(
    ("without", "within", "caught"),
    [
        ("passed", "AssertionError", True),
        ("passed", "passed", False),
        ("passed", "NameError", False),  # the row names what is no longer there
        ("passed", "not run", False),
        ("AssertionError", "AssertionError", False),
        ("skipped", "skipped", False),
    ],
)
def test_a_fault_is_caught_only_by_a_test_that_passes_without_it(without: str, within: str, caught: bool) -> None:
    sound, faulty = (Result({TEST: outcome}, {}, "") for outcome in (without, within))
    assert (problem(CAUGHT, sound, faulty) is None) == caught


@pytest.mark.slow
def test_the_command_fails_for_a_harmless_change() -> None:
    planted = (
        "from tests import planting, faults; [row] = [r for r in faults.FAULTS if r.name == 'few seeds look sure']; "
    )
    ran = [
        subprocess.run(
            [sys.executable, "-c", f"{planted}raise SystemExit(planting.main([{row}], []))"],
            **{"cwd": ROOT, "capture_output": True, "text": True, "check": False},
        )
        for row in ("row", "row._replace(new=row.old)")
    ]
    assert [done.returncode for done in ran] == [0, 1], ran
    assert "1 of 1 faults are caught" in ran[0].stdout
    assert "its test ends in: passed" in ran[1].stdout

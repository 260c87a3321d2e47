"""Plant faults in copies of the product and see that the test named for each fails because of it.

``python -m tests.faults [-k NAME]`` imports the large libraries once and forks a process for each fault. A test must
pass without the fault, and fail with it by an assertion or an error of the product; an import error, an unknown name
or a timeout means that the row is wrong, not that the fault was found.
"""

import argparse
import ast
import contextlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("steer_env", "agents", "experiments")


class Fault(NamedTuple):
    """One change of the product, and the test that must fail because of it.

    Attributes:
        name: What goes wrong, in words.
        where: The definition that holds ``old`` exactly once: a function, ``Class.method`` or a module's variable, in
            whichever file of the three packages it is; or the name of a file (``page.html``, ``check.py``).
        old: An expression, or statements, compared as syntax: formatting and comments do not matter.
        new: What replaces it; if it is empty the statements are removed.
        test: The name of a test function, in whichever file of the tests it is; where several files have a test of
            this name, ``test_file.py::test_name``.
    """

    name: str
    where: str
    old: str
    new: str
    test: str


class UnmatchedError(ValueError):
    """A row does not fit the code."""


@cache
def _sources() -> dict[Path, ast.Module]:
    """Every Python file of the three packages, parsed."""
    return {
        path: ast.parse(path.read_text()) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    }


@cache
def _tests() -> dict[str, list[Path]]:
    """Every test function's name with the files that have one of this name."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE):
            found.setdefault(name, []).append(path)
    return found


def definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions, classes and variables with their qualified names; what a function defines is part of the function."""
    for child in node.body:
        targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [child.name]
        yield from ((prefix + name, child) for name in names)
        if isinstance(child, ast.ClassDef):
            yield from definitions(child, f"{prefix}{child.name}.")


def parsed(fault: Fault) -> tuple[list[Any], list[Any]]:
    """``old`` and ``new`` as syntax: both one expression, or both statements."""
    old, new = (ast.parse(textwrap.dedent(code)).body for code in (fault.old, fault.new))
    if all(len(code) == 1 and isinstance(code[0], ast.Expr) for code in (old, new)):
        return [old[0].value], [new[0].value]  # type: ignore[attr-defined]
    return list(old), list(new)


def shape(nodes: Sequence[Any]) -> str:
    """Syntax as text, the same for a name that is read and one that is assigned."""
    return "\n".join(re.sub(r"(, )?ctx=\w+\(\)", "", ast.dump(node)) for node in nodes)


def spots(old: list[Any], node: ast.AST) -> list[tuple[Any, Any]]:
    """Where ``old`` stands inside a node: lists with an index, or nodes with the name of a field."""
    wanted, found = shape(old), []
    for parent in ast.walk(node):
        for name, value in ast.iter_fields(parent):
            key, nodes = (None, value) if isinstance(value, list) else (name, [value])
            for i in range(len(nodes) - len(old) + 1):
                part = nodes[i : i + len(old)]
                if type(part[0]) is type(old[0]) and all(map(_is_node, part)) and shape(part) == wanted:
                    found.append((nodes, i) if key is None else (parent, key))
    return found


def _is_node(value: Any) -> bool:
    return isinstance(value, ast.AST)


def changed(fault: Fault) -> tuple[Path, str]:
    """The file that a fault changes, and its faulty text.

    Raises:
        UnmatchedError: ``old`` does not stand exactly once in the definition; the message says where else it stands.
    """
    if fault.where.endswith((".js", ".html", ".css")):
        return _changed_text(fault)
    old, new = parsed(fault)
    named = [(path, node) for path, tree in _sources().items() for node in _named(fault.where, path, tree)]
    fitting = [path for path, node in named for _ in spots(old, node)]
    if len(fitting) != 1:
        elsewhere = ", ".join(_elsewhere(old)) or "nowhere"
        raise UnmatchedError(
            f"{fault.name!r}: {fault.old!r} must stand once in a definition {fault.where!r}, of which there are "
            f"{len(named)}; it stands there {len(fitting)} times. In all the code it stands in: {elsewhere}"
        )
    tree = ast.parse(fitting[0].read_text())
    [(place, key)] = [spot for node in _named(fault.where, fitting[0], tree) for spot in spots(old, node)]
    if isinstance(place, list):
        place[key : key + len(old)] = new or ([] if len(place) > len(old) else [ast.Pass()])
    else:
        setattr(place, key, new[0])
    return fitting[0], ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _named(where: str, path: Path, tree: ast.Module) -> list[ast.AST]:
    return [tree] if path.name == where else [node for name, node in definitions(tree) if name == where]


def _elsewhere(old: list[Any]) -> list[str]:
    return [
        f"{name} ({path.relative_to(ROOT)}:{node.lineno})"
        for path, tree in _sources().items()
        for name, node in definitions(tree)
        if not isinstance(node, ast.ClassDef) and spots(old, node)
    ]


def _changed_text(fault: Fault) -> tuple[Path, str]:
    """The same for a file that is not Python: the text, whatever its spaces and line breaks."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob(fault.where)]
    if len(files) != 1:
        raise UnmatchedError(f"{fault.name!r}: {len(files)} files are named {fault.where}; it must be one")
    text, pattern = files[0].read_text(), r"\s+".join(map(re.escape, fault.old.split()))
    if (count := len(re.findall(pattern, text))) != 1:
        raise UnmatchedError(
            f"{fault.name!r}: {fault.old!r} must stand once in {fault.where}; it stands there {count} times"
        )
    return files[0], re.sub(pattern, lambda _: fault.new, text)


def test_id(fault: Fault) -> str:
    """Where pytest finds the fault's test.

    Raises:
        UnmatchedError: no test, or more than one, has the name.
    """
    file, _, name = fault.test.rpartition("::")
    files = [str(path.relative_to(ROOT)) for path in _tests().get(name, []) if file in ("", path.name)]
    if len(files) != 1:
        raise UnmatchedError(
            f"{fault.name!r}: a test {fault.test!r} must stand in one file; it stands in {files or 'none'}"
        )
    return f"{files[0]}::{name}"


# --- running tests in forked processes -------------------------------------------------------------------------------

# Errors that say nothing of a fault: its row is wrong.
MISTAKES = {"NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "Timeout"}


class Watch:
    """A pytest plugin that keeps what became of each test function."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Keep "passed", "skipped" or the type of the error; of several parameters, the error counts."""
        report = yield
        test = item.nodeid.split("[")[0]
        self.seconds[test] = self.seconds.get(test, 0.0) + call.duration
        if report.failed and call.excinfo is not None:
            timed_out = call.excinfo.exconly().startswith("Failed: Timeout")
            self.outcomes[test] = "Timeout" if timed_out else call.excinfo.typename
        elif self.outcomes.get(test) in (None, "skipped"):
            self.outcomes |= {test: "skipped"} if report.skipped else {test: "passed"} if call.when == "call" else {}
        return report


class Result(NamedTuple):
    """What became of a run of pytest: outcome and seconds of each test, and what was printed."""

    outcomes: dict[str, str]
    seconds: dict[str, float]
    printed: str


class Job(NamedTuple):
    """Tests to run, with a fault or without."""

    tests: list[str]
    fault: Fault | None = None


def import_libraries() -> None:
    """Import, before the process is forked, what the product and its tests import of other packages.

    Raises:
        RuntimeError: An import started a thread, which a forked process would lack.
    """
    trees = [*_sources().values(), *(ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("*.py"))]
    wanted: dict[str, set[str]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            wanted |= {alias.name: set() for alias in node.names if alias.name not in wanted}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted.setdefault(node.module, set()).update(alias.name for alias in node.names)
    with warnings.catch_warnings(action="ignore"):
        for module in wanted:
            if not _is_ours(module):
                with contextlib.suppress(ImportError):
                    loaded = importlib.import_module(module)
                    for name in wanted[module]:
                        getattr(loaded, name, None)  # asking for it makes a lazy package load it
    if threading.active_count() > 1:
        raise RuntimeError(f"a process with threads cannot be forked safely: {threading.enumerate()}")


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in (*PACKAGES, "tests")


class Pool:
    """Runs tests in forked processes, several at a time, each in a copy of the product of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        if (shared := ROOT.parent / "shared").exists():
            (folder / "shared").symlink_to(shared.resolve())
        self.free = [folder / f"copy{i}" for i in range(workers)]
        for copy in self.free:
            for package in (*PACKAGES, "tests"):
                shutil.copytree(ROOT / package, copy / package)
            shutil.copy2(ROOT / "pyproject.toml", copy)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Run the jobs in this order and yield each with its result when it ends."""
        waiting, running = list(jobs), {}
        while waiting or running:
            while waiting and self.free:
                job, copy = waiting.pop(0), self.free.pop()
                file = None
                if job.fault is not None:
                    path, text = changed(job.fault)
                    file = path.relative_to(ROOT)
                    (copy / file).write_text(text)
                running[_forked(copy, job.tests)] = (job, copy, file)
            pid, _ = os.wait()
            job, copy, file = running.pop(pid)
            if file is not None:
                shutil.copy2(ROOT / file, copy / file)
            yield job, _result(copy)
            self.free.append(copy)


def _forked(copy: Path, tests: list[str]) -> int:
    """The id of a new process that runs the tests in a copy and leaves their outcomes beside it."""
    _outcomes(copy).unlink(missing_ok=True)
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        _run_tests(copy, tests)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the parent's must be cleaned up here


def _run_tests(copy: Path, tests: list[str]) -> None:
    printed = os.open(copy.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.chdir(copy)
    for name in [name for name in sys.modules if _is_ours(name)]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    sys.dont_write_bytecode = True  # bytecode of a fault must not outlive it
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    watch = Watch()
    already = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # Hypothesis, in the parent
    pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", already, *tests], plugins=[watch])
    _outcomes(copy).write_text(json.dumps([watch.outcomes, watch.seconds]))


def _outcomes(copy: Path) -> Path:
    return copy.with_suffix(".json")


def _result(copy: Path) -> Result:
    outcomes, seconds = json.loads(_outcomes(copy).read_text()) if _outcomes(copy).exists() else ({}, {})
    return Result(outcomes, seconds, copy.with_suffix(".txt").read_text(errors="replace"))


# --- the command -----------------------------------------------------------------------------------------------------


def verdict(outcome: str | None) -> str | None:
    """What is wrong with the outcome of a test under a fault; None where the fault was caught."""
    if outcome is None:
        return "the test did not run (a module does not import any more?)"
    if outcome == "passed":
        return "NOT CAUGHT: the test passes"
    return f"the row is wrong: the test ended by {outcome}" if outcome in MISTAKES | {"skipped"} else None


def plant(faults: Sequence[Fault], workers: int, report: Callable[[str], None] = print) -> list[str]:
    """Run every test without faults, then each fault with its test.

    Args:
        faults: The rows to plant.
        workers: Processes that run at a time.
        report: Is called with a line for each fault.

    Returns:
        What went wrong, a text for each fault concerned.

    Raises:
        UnmatchedError: A row does not fit the code.
    """
    tests = {fault.name: test_id(fault) for fault in faults}
    for fault in faults:
        changed(fault)
    by_file: dict[str, list[str]] = {}
    for test in dict.fromkeys(tests.values()):
        by_file.setdefault(test.split("::")[0], []).append(test)
    outcomes: dict[str, str] = {}
    seconds: dict[str, float] = {}
    printed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(Path(folder), workers)
        for job, result in pool.run([Job(own) for own in by_file.values()]):
            outcomes |= result.outcomes
            seconds |= result.seconds
            printed |= dict.fromkeys(job.tests, result.printed)
        problems = [
            f"{fault.name}: {tests[fault.name]} does not pass without the fault ({outcomes.get(tests[fault.name])})\n"
            f"{printed[tests[fault.name]][-2000:]}"
            for fault in faults
            if outcomes.get(tests[fault.name]) not in ("passed", "skipped")
        ]
        for fault in faults:
            if outcomes.get(tests[fault.name]) == "skipped":
                report(f"skipped      {fault.name} (so is its test)")
        sound = [fault for fault in faults if outcomes.get(tests[fault.name]) == "passed"]
        sound.sort(key=lambda fault: -seconds[tests[fault.name]])  # the longest first keeps all workers busy to the end
        for job, result in pool.run([Job([tests[fault.name]], fault) for fault in sound]):
            assert job.fault is not None
            [test] = job.tests
            wrong = verdict(result.outcomes.get(test))
            report(
                f"{'CAUGHT' if wrong is None else 'PROBLEM'} {sum(result.seconds.values()):6.1f} s  {job.fault.name}"
            )
            if wrong is not None:
                problems.append(f"{job.fault.name}: {wrong}\n{result.printed[-2000:]}")
    return problems


def main(faults: Sequence[Fault]) -> int:
    """The command: plant the faults that are asked for, and say how many were caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("-k", default="", help="only faults with this in their name, definition or test")
    parser.add_argument("-n", type=int, default=os.cpu_count() or 1, help="processes that run at a time")
    args = parser.parse_args()
    chosen = [fault for fault in faults if any(args.k in text for text in (fault.name, fault.where, fault.test))]
    if not chosen:
        print(f"no fault has {args.k!r} in its name, definition or test")
        return 1
    began = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    import_libraries()
    problems = plant(chosen, args.n, lambda line: print(line, flush=True))
    for problem in problems:
        print(f"\n{problem}")
    print(f"{len(chosen)} faults, {len(problems)} problems, {time.monotonic() - began:.0f} s")
    return bool(problems)

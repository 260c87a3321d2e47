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
from collections.abc import Iterator, Sequence
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


def id_of_test(fault: Fault) -> str:
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
                running[_forked(copy, job)] = (job, copy, file)
            pid, _ = os.wait()
            job, copy, file = running.pop(pid)
            if file is not None:
                shutil.copy2(ROOT / file, copy / file)
            yield job, _result(copy)
            self.free.append(copy)


def _forked(copy: Path, job: Job) -> int:
    """The id of a new process that runs pytest in a copy and leaves the tests' outcomes beside it."""
    _outcomes(copy).unlink(missing_ok=True)
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        _run_tests(copy, job.tests, job.fault is not None)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the parent's must be cleaned up here


def _run_tests(copy: Path, tests: list[str], fault: bool) -> None:
    printed = os.open(copy.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.chdir(copy)
    for name in [name for name in sys.modules if _is_ours(name)]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    os.environ |= {"PYTHONPATH": str(copy)}
    if fault:  # its bytecode must not outlive it; the sound code's serves all later runs in this copy
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1"}
    watch = Watch()
    already = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # Hypothesis, in the parent
    stop = ["-x"] if fault else []  # one failure is enough
    pytest.main([*stop, "-q", "-p", "no:cacheprovider", "-W", already, "-o", "timeout=120", *tests], plugins=[watch])
    _outcomes(copy).write_text(json.dumps([watch.outcomes, watch.seconds]))


def _outcomes(copy: Path) -> Path:
    return copy.with_suffix(".json")


def _result(copy: Path) -> Result:
    outcomes, seconds = json.loads(_outcomes(copy).read_text()) if _outcomes(copy).exists() else ({}, {})
    return Result(outcomes, seconds, copy.with_suffix(".txt").read_text(errors="replace"))


# --- the command -----------------------------------------------------------------------------------------------------


def misfit(fault: Fault) -> UnmatchedError | None:
    """Why a row does not fit the code, or None where it fits."""
    try:
        changed(fault)
        id_of_test(fault)
    except UnmatchedError as error:
        return error
    return None


def problem(fault: Fault, sound: Result, faulty: Result) -> str | None:
    """Why a fault does not count as caught, or None where it was caught.

    Args:
        fault: The row.
        sound: The result of its test without the fault.
        faulty: The result of its test with the fault.
    """
    before, after = sound.outcomes.get(id_of_test(fault), "not run"), faulty.outcomes.get(id_of_test(fault), "not run")
    if before != "passed":
        return f"without the fault its test is not passed but: {before}\n{sound.printed[-2000:]}"
    if after in {"passed", "skipped", "not run", *MISTAKES}:
        return f"with the fault its test ends in: {after}\n{faulty.printed[-2000:]}"
    return None


def plant(faults: Sequence[Fault], workers: int) -> int:
    """Run every test without faults, then each fault with its test; returns how many are not caught."""
    by_file: dict[str, list[str]] = {}
    for test in dict.fromkeys(map(id_of_test, faults)):
        by_file.setdefault(test.split("::")[0], []).append(test)
    sound: dict[str, Result] = {}
    problems = 0
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(Path(folder), workers)
        for job, result in pool.run([Job(tests) for tests in by_file.values()]):
            sound |= dict.fromkeys(job.tests, result)
        print(f"{len(sound)} tests run without a fault; now with", flush=True)
        jobs = [Job([id_of_test(fault)], fault) for fault in faults]
        jobs.sort(
            key=lambda job: -sound[job.tests[0]].seconds.get(job.tests[0], 0.0)
        )  # a long one last would run alone
        for job, result in pool.run(jobs):
            assert job.fault is not None
            found = problem(job.fault, sound[job.tests[0]], result)
            problems += found is not None
            print(
                f"{'caught' if found is None else 'NOT CAUGHT'}  {job.fault.name}  {found or ''}".rstrip(), flush=True
            )
    return problems


def main(faults: Sequence[Fault], argv: Sequence[str] | None = None) -> int:
    """The command: 0 where every fault that was asked for is caught, 1 where one is not, 2 where a row does not fit."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Plant faults, a process for each.")
    parser.add_argument(
        "-k", default="", metavar="WORD", help="only faults with this in their name, definition or test"
    )
    parser.add_argument("-n", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at a time")
    args = parser.parse_args(argv)
    chosen = [fault for fault in faults if any(args.k in text for text in (fault.name, fault.where, fault.test))]
    misfits = [str(error) for fault in chosen if (error := misfit(fault))]
    if misfits or not chosen:
        print(*misfits, f"{len(misfits)} of {len(chosen)} rows do not fit the code", sep="\n")
        return 2
    began = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    import_libraries()
    print(f"libraries imported in {time.monotonic() - began:.0f} s", flush=True)
    problems = plant(chosen, args.n)
    print(f"{len(chosen) - problems} of {len(chosen)} faults are caught, in {time.monotonic() - began:.0f} s")
    return int(problems > 0)

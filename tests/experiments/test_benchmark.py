"""Every part of the benchmark at a tiny size, and what is said of a baseline."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from experiments import benchmark
from experiments.__main__ import main as steer
from experiments.bench import timing
from experiments.bench.timing import Row, Sizes, compare

SIZES = Sizes("small-llama", (2,), 16, 4, (1_100,), 1, "cpu", "float32")
TINY = {"batches": (2,), "prompt_tokens": 16, "new_tokens": 12, "actions": (1_100,), "rounds": 1}
NAMES = {
    "engine": {"generate", "closed loop", "closed loop, one feature"},
    "loop": {"generate", "environment", "environment, one feature", "PPO in the loop"},
    "ragged": {"even", "ragged"},
    "prompt": {"read", "known", "known, upper half"},
    "learner": {"linear head", "tied head", "linear head, all legal", "tied head, all legal", "MaskablePPO"},
    "adapter": {"environment", "SB3VecEnv"},
    "sae": {"whole pass", "to half depth"},
    "floor": {"bandwidth floor", "generate", "closed loop"},
    "workers": {"one process", "2 workers"},
    "peers": {"Steer", "two passes with hooks", "a policy inside a hook", "TransformerLens, two passes"},
}


@pytest.mark.parametrize(
    "part", [pytest.param(n, marks=pytest.mark.slow) if n in ("loop", "workers") else n for n in NAMES]
)
def test_every_part_measures_all_that_it_compares(part, tmp_path, capsys):
    out = tmp_path / "deep" / "bench.json"
    assert benchmark.main(benchmark.BenchmarkConfig(parts=(part,), out=out, **TINY)) == 0
    saved = json.loads(out.read_text())
    assert saved["machine"]["device"]
    first = saved["parts"][part][0]
    assert NAMES[part] <= set(first["rates"])
    assert all(rate > 0 for rate in first["rates"].values())
    assert first["ratios"][first["base"]] == 1.0
    assert f"{part}: {first['case']}" in capsys.readouterr().out


def test_ratios_are_medians_of_the_rounds_own(monkeypatch):
    """A burst of noise that slows a whole round down says nothing of what is compared in it."""
    # Seconds of slow and fast by turns: a round that warms up, then three, the second of which meets other work.
    seconds: Iterator[float] = iter([9, 9, 2, 1, 40, 20, 2, 1])
    clock = {"now": 0.0, "odd": False}

    def now() -> float:
        if clock["odd"]:
            clock["now"] += next(seconds)
        clock["odd"] = not clock["odd"]
        return clock["now"]

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=now))
    sizes = Sizes("", (), 1, 1, (), 3, "cpu", "float32")
    row = compare("two", "things/s", "slow", {"slow": lambda: 10, "fast": lambda: 10}, sizes)
    assert row.ratios == {"slow": 1.0, "fast": 2.0}
    assert row.rates == {"slow": 5.0, "fast": 10.0}


def test_what_fell_by_more_than_a_tenth_is_said_and_fails(tmp_path, monkeypatch, capsys):
    def part(ratio: float) -> SimpleNamespace:
        rates = {"base": 100.0, "ours": 100 * ratio}
        return SimpleNamespace(
            measure=lambda sizes: [Row("one", "things/s", "base", rates, {"base": 1, "ours": ratio})]
        )

    baseline = tmp_path / "baseline.json"
    monkeypatch.setattr(benchmark.importlib, "import_module", lambda name: part(2.0))
    assert benchmark.main(benchmark.BenchmarkConfig(parts=("engine",), out=baseline)) == 0
    for ratio, code in ((2.5, 0), (1.85, 0), (1.75, 1)):
        monkeypatch.setattr(benchmark.importlib, "import_module", lambda name, ratio=ratio: part(ratio))
        assert benchmark.main(benchmark.BenchmarkConfig(parts=("engine",), baseline=baseline)) == code
        said = capsys.readouterr().out
        assert ("engine, one, ours: 1.75 of base, was 2.00" in said) == bool(code)
        assert ("nothing fell" in said) == (not code)


def test_bad_settings_are_named(tmp_path, capsys):
    for flags, message in (
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--batches", "0"], "batches must be numbers of at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            steer(["benchmark", "adapter", *flags])
        assert stopped.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
    missing = str(tmp_path / "none.json")
    assert steer(["benchmark", "adapter", "--baseline", missing]) == 2
    assert "none.json is no file that steer benchmark --out wrote" in capsys.readouterr().err

"""Tables over studies: what stands in them is what the studies say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.inside.summary import InsideSummaryConfig, main


def controller(gain: float, low: float, p: float) -> dict[str, Any]:
    bar = {"gain": gain, "low": low, "p": p, "p_holm": p}
    areas = {"critic": {"lost": 0.6 + gain}, "actor": {"lost": 0.55}}
    gains = {"critic": {"observation": {"lost": bar}, "untrained": {"lost": bar}}}
    probes = {"observation": {"lost": 0.6}, "trained": areas, "untrained": {"critic": {"lost": 0.5}}, "gains": gains}
    return {
        **{"run": "r", "env": "Steer-TicTacToe-v0", "algo": "ppo", "benchmark": False, "wall_s": 1.0, "cpu_s": 1.0},
        **{key: {} for key in ("numbers", "values", "features", "config")},
        "states": {"facts": {"lost": 0.25}},
        "layers": {"actor": "actor", "critic": "critic"},
        "probes": probes,
    }


def study() -> dict[str, Any]:
    spread = {"explained_variance": 0.91, "l0": 20.0, "features": 12.0, "detected": 3.0}
    chosen = {
        "over_seeds": {name: {"mean": value} for name, value in spread.items()},
        "return_kept": 0.97,
        "predicates": {"mate_in_one": {}, "rook_hanging": {}, "opposition": {}, "safe_check": {}},
    }
    columns = {
        "neurons": 4,
        "untrained neurons": 3,
        "neurons after ReLU": 6,
        "principal components": 2,
        "untrained topk-24-k6": 1,
        "outputs": 0,
    }
    told = {name: {"auroc": 0.8} for name in chosen["predicates"]}
    return {
        **{"module": "q_net.q_net.2", "wall_s": 1.0},
        **{key: {} for key in ("rows", "substitutions", "config")},
        "agent": {"env": "KingRookKing-v0", "seed": 2},
        "plain": {"return": 94.28},
        "chosen": "topk-24-k6",
        "saes": {"topk-24-k6": chosen},
        "columns": {name: {"features": count, "predicates": told} for name, count in columns.items()},
        "close": {
            "mate_in_one": {"gain_low": 0.1, "p_holm": 0.01, "feature": 0.9},
            "safe_check": {"gain_low": 0.1, "p_holm": 0.01, "feature": 0.7},
            "rook_hanging": {"gain_low": 0.1, "p_holm": 0.2, "feature": 0.9},
            "opposition": {"gain_low": -0.1, "p_holm": 0.01, "feature": 0.9},
        },
    }


def folder(path: Path, name: str, content: dict[str, Any]) -> Path:
    path.mkdir()
    (path / f"{name}.json").write_text(json.dumps({"version": 1, **content}))
    return path


def test_a_study_of_saes_is_a_row(tmp_path: Path) -> None:
    head, _, row = main(InsideSummaryConfig(saes=(folder(tmp_path / "a", "rl_sae", study()),))).splitlines()
    assert head.count("|") == row.count("|")
    told = (
        "KingRookKing-v0, 2 | 94.3 | topk-24-k6 | 0.910 | 20.0 | 97.0% | 12 | 6 | 2 | 1 | 3 of 4 | 2 | 1: mate in one"
    )
    assert row == f"| {told} |"


def test_runs_are_put_together_by_fact(tmp_path: Path) -> None:
    runs = [
        folder(tmp_path / str(number), "controller", controller(*each))
        for number, each in enumerate([(0.1, 0.02, 0.01), (0.2, 0.1, 0.3), (0.0, -0.1, 1.0)])
    ]
    head, _, row = main(InsideSummaryConfig(controllers=tuple(runs))).splitlines()
    assert head.count("|") == row.count("|")
    assert row == "| lost | 25% | 0.600 | 0.550 | 0.700 | 0.500 | +0.100 (+0.000 to +0.200) | 1 of 3 |"
    other = controller(0.1, 0.0, 1.0)
    other["states"]["facts"] = {"won": 0.5}
    runs.append(folder(tmp_path / "other", "controller", other))
    with pytest.raises(ValueError, match="asked different facts"):
        main(InsideSummaryConfig(controllers=tuple(runs)))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rl_sae\.json is missing: steer rl-sae makes it"):
        main(InsideSummaryConfig(saes=(tmp_path,)))
    with pytest.raises(ValueError, match="either saes or controllers"):
        main(InsideSummaryConfig())

"""The study of value probes: scores by hand, and the whole of it on tiny agents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agents.inside.value_report import summarize
from agents.inside.value_study import Line, r2, spearman
from experiments.inside.value_probe import ValueProbeConfig, main
from experiments.make.agents import AgentsConfig
from experiments.make.agents import main as make_agents

LAYERS = {
    "mlp_extractor.policy_net.1",
    "mlp_extractor.policy_net.3",
    "mlp_extractor.value_net.1",
    "mlp_extractor.value_net.3",
    "action_net",
}


def test_scores_by_hand() -> None:
    truth = np.array([0.0, 1.0, 2.0, 3.0])
    assert r2(truth, truth) == 1.0
    assert r2(np.full(4, 1.5), truth) == 0.0
    assert r2(truth + 1, truth) == pytest.approx(1 - 1 / 1.25)
    assert np.isnan(r2(truth, np.ones(4)))
    assert spearman(np.exp(truth), truth) == pytest.approx(1.0)
    assert spearman(np.ones(4), truth) == 0.0
    assert np.isnan(spearman(truth, np.ones(4)))


def test_the_line_gives_a_unit_and_no_sign() -> None:
    values = np.array([-1.0, 0.0, 1.0])
    line = Line.fit(values, 5 + 2 * values)
    assert (line.slope, line.offset) == (pytest.approx(2.0), pytest.approx(5.0))
    assert Line.fit(values, 5 - 2 * values) == Line(0.0, 5.0)
    assert Line.fit(np.ones(3), values + 1)(np.ones(3)).tolist() == [1.0] * 3


def test_means_over_agents_leave_out_what_is_unknown() -> None:
    agents = [{"data": {"a": a}, "references": {}, "probes": {"x": {"b": b}}} for a, b in ((1, float("nan")), (3, 2.0))]
    found = summarize(agents)
    assert found["data"]["a"] == {"mean": 2.0, "std": pytest.approx(2**0.5)}
    assert found["probes"]["x"]["b"] == {"mean": 2.0, "std": 0.0}
    assert summarize([agents[0]])["probes"]["x"]["b"]["mean"] is None


def tiny(out: Path, **changes: object) -> ValueProbeConfig:
    settings: dict[str, object] = {
        "env": "GridWorld-v0",
        "env_kwargs": {"layout": '["...", "..G"]'},
        "seeds": (0,),
        "steps": 2_048,
        "losses": ("returns", "variance+10*dominance"),
        "noises": (0.5,),
        "episodes": 60,
        "rows": 200,
        "folds": 2,
        "fit_steps": 60,
        "restarts": 1,
    }
    return ValueProbeConfig(out, **(settings | changes))  # type: ignore[arg-type]


def test_the_whole_study_of_a_small_world(tmp_path: Path) -> None:
    cfg = tiny(tmp_path / "grid")
    result = main(cfg)
    (agent,) = result.agents
    assert agent["data"]["train_trajectories"] == agent["data"]["test_trajectories"] == 60
    assert 1 <= agent["data"]["test_states_seen_in_train"] <= agent["data"]["test_states"] <= 5
    assert set(agent["probes"]["trained"]) == set(agent["probes"]["shuffled"]) == LAYERS | {"observation"}
    assert set(agent["probes"]["untrained"]) == LAYERS
    assert agent["references"]["exact value"]["exact_r2"] == 1.0
    best = agent["references"]["optimal policy"]["planned"]
    assert agent["references"]["exact value"]["planned"] <= best + 1e-9
    for layer in agent["probes"]["trained"].values():
        assert layer["returns"]["planned"] <= best + 1e-9
        assert {"unseen_r2", "critic_spearman", "returns_raw_r2"} <= set(layer["variance+10*dominance"])
    assert agent["probes"]["trained"]["observation"]["returns"]["exact_spearman"] > 0.5
    assert result.supervised == ["returns"]
    assert json.loads((cfg.out / "value_probe.json").read_text())["summary"].keys() == result.summary.keys()
    text = (cfg.out / "value_probe.md").read_text()
    assert "| critic 3 |" in text
    assert "states in tested trajectories" in text
    assert (cfg.out / "value_by_layer.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(FileExistsError, match="grid exists"):
        main(cfg)


def test_saved_agents_of_a_world_without_a_table(tmp_path: Path) -> None:
    make_agents(AgentsConfig(tmp_path / "agents", "CartPole-v1", steps=0, episodes=2))
    folder = str(tmp_path / "agents" / "seed-0")
    result = main(tiny(tmp_path / "pole", agents=(folder,), episodes=8))
    (agent,) = result.agents
    assert "exact_r2" not in agent["probes"]["trained"]["action_net"]["returns"]
    assert np.isfinite(agent["probes"]["trained"]["observation"]["returns"]["returns_r2"])
    assert set(agent["references"]) == {"critic"}
    assert "R2 / Spearman against returns" in (tmp_path / "pole" / "value_probe.md").read_text()
    make_agents(AgentsConfig(tmp_path / "lakes", "FrozenLake-v1", steps=0, episodes=2))
    with pytest.raises(ValueError, match="of one world, got CartPole-v1, FrozenLake-v1"):
        main(tiny(tmp_path / "both", agents=(folder, str(tmp_path / "lakes" / "seed-0"))))


def test_losses_that_cannot_be_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'tdd' in 'tdd' is no loss"):
        main(tiny(tmp_path / "a", losses=("tdd",), steps=10**9))

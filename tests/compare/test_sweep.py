"""Variants side by side: each as its flags say, scored where it should be, and reported as it scored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.compare.results import Sweep
from agents.compare.sweep import learning, read_variants, trainings_of
from agents.policies import policy_of
from agents.runs.folder import RunFolder
from agents.runs.loading import load_trained, make_envs
from experiments.sweep import SweepConfig, main
from steer_env.evaluation.play import drawn_items, play

VARIANTS = [
    {"name": "defaults"},
    {"name": "tied, masked", "head": "tied", "mask": "current", "algo_kwargs": {"n_steps": 8}},
    {"name": "louder", "env_kwargs": {"coefficient": 2.0, "coefficient_unit": "norm"}, "total_timesteps": 256},
]


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> SweepConfig:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "variants.json").write_text(json.dumps(VARIANTS))
    return SweepConfig(
        env="Steer-XSTest-v0",
        name="policy",
        variants=folder / "variants.json",
        seeds=2,
        total_timesteps=128,
        mask="off",
        items=20,
        env_kwargs={"temperature": 0.0},
        algo_kwargs={"n_steps": 4},
        num_envs=16,
        jobs=1,
        runs_dir=folder,
    )


@pytest.fixture(scope="module")
def result(cfg) -> Sweep:
    return main(cfg)


def run_of(cfg: SweepConfig, name: str, seed: int) -> RunFolder:
    return RunFolder.open(cfg.runs_dir / "policy" / f"{name}-{seed}")


def test_every_variant_is_trained_as_its_flags_say_with_every_seed(cfg, result):
    assert list(result.variants) == [row["name"] for row in VARIANTS]
    for seed in range(2):
        plain = run_of(cfg, "defaults", seed).config
        assert (plain["seed"], plain["head"], plain["mask"], plain["total_timesteps"]) == (seed, "linear", "off", 128)
        assert plain["env_kwargs"] == {"temperature": 0.0}
        assert plain["algo_kwargs"] == {"n_steps": 4}
        tied = run_of(cfg, "tied--masked", seed).config
        assert (tied["head"], tied["mask"], tied["algo_kwargs"]) == ("tied", "current", {"n_steps": 8})
        loud = run_of(cfg, "louder", seed).config
        assert loud["env_kwargs"] == {"temperature": 0.0, "coefficient": 2.0, "coefficient_unit": "norm"}
        assert loud["total_timesteps"] == 256


@pytest.mark.parametrize(("split", "key"), [("validation", "scores"), ("train", "train_score")])
def test_the_scores_are_those_of_the_trained_agents(cfg, result, split, key):
    scores = []
    for seed in range(2):
        run = run_of(cfg, "louder", seed)
        envs = make_envs(run.config, split, 4)
        items = drawn_items(envs.unwrapped.episode.order.items.tolist(), 20, seed=0)
        played = play(envs, policy_of(*load_trained(run, envs)), items, seed=0)
        scores.append(float(played.scores.mean()))
    assert np.mean(getattr(result.variants["louder"], key)) == pytest.approx(np.mean(scores))


def test_what_is_written_is_what_came_out(cfg, result):
    folder = cfg.runs_dir / "policy"
    assert Sweep.read(folder / "sweep.json") == result
    assert result.variants["louder"].flags == {name: value for name, value in VARIANTS[2].items() if name != "name"}
    table = (folder / "sweep.md").read_text()
    for name, row in result.variants.items():
        assert f"| {name} | {row.score:.3f} |" in table
    assert (folder / "sweep.png").stat().st_size > 5_000
    with pytest.raises(FileExistsError, match="policy"):
        main(cfg)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "must hold a JSON list of variants"),
        ("[]", "must hold a JSON list of variants"),
        ('[{"head": "tied"}]', "needs a name of its own, got None"),
        ('[{"name": "a"}, {"name": "a"}]', "needs a name of its own, got 'a'"),
        ('[{"name": "a", "haed": "tied"}]', "variant 'a' sets 'haed'; it can set algo, algo_kwargs"),
        ('[{"name": "a", "seed": 3}]', "variant 'a' sets 'seed'"),
    ],
)
def test_a_wrong_file_is_named_and_nothing_is_made(cfg, tmp_path, content, message):
    path = tmp_path / "variants.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        main(replace(cfg, variants=path, runs_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_the_variants_that_come_with_the_project_can_be_trained(cfg):
    for path in ("policy.json", "sentences.json", "steps.json", "recall.json", "exploration.json"):
        for name, flags in read_variants(Path(__file__).parents[2] / "experiments" / "grids" / path).items():
            assert len(trainings_of(cfg, name, flags)) == cfg.seeds


def test_how_variants_learned_is_what_their_trainings_wrote(cfg, result):
    rows = [list(run_of(cfg, "louder", seed).rows("metrics")) for seed in range(2)]
    row = result.variants["louder"]
    assert row.tokens_to_reach == [], "no score was asked for"
    assert [[tokens for tokens, _ in curve] for curve in row.curves] == [
        [r["num_timesteps"] for r in own] for own in rows
    ]
    best = [max(score for _, score in curve) for curve in row.curves]
    runs = [cfg.folder / f"louder-{seed}" for seed in range(2)]
    reached = learning(runs, max(best))["tokens_to_reach"]
    assert [tokens is None for tokens in reached] == [score < max(best) for score in best]
    first = next(tokens for tokens, score in row.curves[int(np.argmax(best))] if score == max(best))
    assert reached[int(np.argmax(best))] == first
    assert learning(runs, 1.01)["tokens_to_reach"] == [None, None]


def test_a_sweep_goes_on_where_it_was_killed(cfg, result, monkeypatch):
    (cfg.folder / "sweep.json").unlink()
    monkeypatch.setattr("agents.runs.training.main", None)  # nothing is trained again
    monkeypatch.setattr("agents.compare.bench.play", None)  # nor played
    again = main(replace(cfg, resume=True, jobs=1))
    assert again.variants == result.variants
    with pytest.raises(ValueError, match=r"items was 20 when .* was begun, got 21"):
        main(replace(cfg, resume=True, items=21))

"""The comparison of layers on a tiny model: what is chosen where, and whether the numbers are those of the episodes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.compare.arms import gain
from agents.compare.bench import Arm
from agents.compare.layers import ALL_KINDS, best_strength, envs_of, kind_shares, mean_bits
from agents.compare.results import Layers, Strength
from agents.policies import policy_of
from agents.runs.config import parse_settings
from agents.runs.folder import RunFolder
from agents.runs.loading import load_trained, make_envs
from experiments import layers as command
from experiments.__main__ import parse
from experiments.layers import LayersConfig, given_saes, main
from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import fixed, search_best_fixed
from steer_env.evaluation.play import Played, drawn_items, play
from steer_env.evaluation.statistics import wilson
from steer_env.lm.sae_config import SAEConfig
from steer_env.lm.sae_sources import open_sae

GAME = ("opponent=random", "illegal=random_move", "limit=16")
COEFFICIENTS = (0.5, 3.0)


@pytest.fixture(scope="module")
def cfg(tiny, tmp_path_factory) -> LayersConfig:
    return LayersConfig(
        env="Steer-TicTacToe-v0",
        name="game",
        layers=(2, 0),
        sae=SAEConfig(features=8, k=4, samples=10_000, batch=100, lr=3e-3, scaled=True),
        sae_items=60,
        coefficients=COEFFICIENTS,
        tuning_items=20,
        seeds=2,
        total_timesteps=256,
        mask="off",
        env_kwargs=tiny | parse_settings(GAME),
        algo_kwargs={"n_steps": 4},
        items=20,
        oracle_items=4,
        num_envs=64,
        jobs=1,
        runs_dir=tmp_path_factory.mktemp("layers"),
    )


@pytest.fixture(scope="module")
def result(cfg) -> Layers:
    return main(cfg)


def run_of(cfg: LayersConfig, layer: int, seed: int) -> RunFolder:
    return RunFolder.open(cfg.folder / f"layer-{layer}-seed-{seed}")


def test_every_layer_is_trained_alike_but_for_its_own_sae_and_strength(cfg, result):
    assert [row.layer for row in result.layers] == [2, 0]
    for row in result.layers:
        sae, kept = open_sae(row.sae["name"]), []
        assert (sae.layer, sae.site, sae.width) == (row.layer, "post", 8)
        assert row.sae["explained_variance"] > 0.2
        for seed in range(2):
            config = run_of(cfg, row.layer, seed).config
            kwargs = config["env_kwargs"]
            assert (kwargs.pop("layer"), kwargs.pop("sae")) == (row.layer, row.sae["name"])
            assert kwargs.pop("coefficient") == row.chosen.residual_units
            assert config["steering"]["coefficient"] == pytest.approx(row.chosen.residual_units)
            kept.append((config.pop("seed"), kwargs))
        assert [seed for seed, _ in kept] == [0, 1]
        assert kept[0][1] == kept[1][1]


def test_the_strength_is_the_one_whose_best_fixed_feature_is_best_on_validation(cfg, result):
    for row in result.layers:
        assert [each.coefficient for each in row.tuning] == list(COEFFICIENTS)
        config = run_of(cfg, row.layer, 0).config
        for each in row.tuning:
            own = {"coefficient": each.residual_units, "coefficient_unit": "residual"}
            train, validation = (make_envs(config, split, 16, **own) for split in ("train", "validation"))
            best = search_best_fixed(train, 0).best
            assert int(train.unwrapped.features[best]) == each.feature
            items = drawn_items(validation.unwrapped.episode.order.items.tolist(), 20, cfg.seed)
            assert play(validation, fixed(best), items, 0).scores.mean() == pytest.approx(each.validation_score)
        scores = [each.validation_score for each in row.tuning]
        assert row.chosen == row.tuning[int(np.argmax(scores))], "the weaker one of equals"


def test_the_unit_of_strength_is_the_norm_of_what_is_steered(cfg, result):
    for row in result.layers:
        envs = make_envs(run_of(cfg, row.layer, 0).config, "train", 8)
        envs.reset(seed=0, options={"items": list(range(8))})
        norms = []
        for _ in range(40):
            norms += envs.unwrapped.episode.hidden.norm(dim=1).tolist()
            envs.step(np.full(8, envs.single_action_space.n - 1))
        for each in row.tuning:
            assert each.residual_units / each.coefficient == pytest.approx(np.median(norms), rel=0.25)


def test_of_equal_strengths_the_weaker_is_chosen():
    rows = [Strength(c, c, 0, score) for c, score in ((2.0, 0.5), (1.0, 0.5), (0.5, 0.25))]
    assert best_strength(rows) == rows[1]


def test_the_scores_are_those_of_the_trained_agents(cfg, result):
    alone = {row.arms["unsteered"].score for row in result.layers}
    assert len(alone) == 1, "without steering all layers are one model"
    for row in result.layers:
        used, tokens = {}, 0
        for seed in range(2):
            run = run_of(cfg, row.layer, seed)
            envs = make_envs(run.config, "test", 4)
            items = drawn_items(range(len(unwrap(envs).task)), 20, cfg.seed)
            played = play(envs, policy_of(*load_trained(run, envs)), items, seed=0)
            assert played.scores.mean() == pytest.approx(row.arms["trained"].scores[seed])
            assert row.gain.by_seed[seed] == pytest.approx(played.scores.mean() - min(alone))
            for feature in played.tokens["feature"][played.tokens["feature"] >= 0]:
                used[int(feature)] = used.get(int(feature), 0) + 1
                tokens += 1
        found = row.features.used
        assert {each["feature"]: each["tokens"] for each in found} == used
        assert [each["tokens"] for each in found] == sorted(used.values(), reverse=True)
        shares = row.features.kinds
        assert {name: sum(own.values()) for name, own in shares.items()} == pytest.approx(dict.fromkeys(shares, 1.0))
        silent = sum(each["tokens"] for each in found if each["kind"] == "silent")
        assert shares["tokens"]["silent"] == pytest.approx(silent / tokens)
        assert shares["dictionary"]["digits"] + shares["dictionary"]["silent"] == pytest.approx(1.0), (
            "all text is moves"
        )


def test_what_is_written_is_what_came_out(cfg, result):
    assert Layers.read(cfg.folder / "layers.json").layers == result.layers
    assert result.settings["sae"]["features"] == 8
    table = (cfg.folder / "layers.md").read_text()
    assert "Intervals: over seeds (t)" in table
    assert "of these, likewise. The items have no topic.\n" in table
    for row in result.layers:
        assert f"| {row.arms['trained'].score:.3f} | {row.gain.mean:+.3f} (" in table
    assert (cfg.folder / "layers.png").stat().st_size > 5_000
    with pytest.raises(FileExistsError, match="game"):
        main(cfg)


def test_saes_that_are_given_are_taken(cfg, result, tmp_path):
    template = str(cfg.folder / "sae-{layer}")
    again = replace(cfg, saes=(template,), layers=(2,), runs_dir=tmp_path, seeds=1, oracle_items=0)
    (row,) = main(again).layers
    assert row.sae == {"name": template.replace("{layer}", "2")}
    assert not list(again.folder.glob("sae-*"))
    before = result.layers[0]
    assert row.tuning == before.tuning
    assert row.arms["trained"].scores == before.arms["trained"].scores[:1]
    assert row.item_oracle is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": (0, 3)}, r"layers must be in \[0, 3\), the blocks of the model, got 3"),
        ({"layers": (-1,)}, r"layers must be in \[0, 3\), .* got -1"),
        ({"saes": ("nowhere-{layer}",)}, "no SAE called 'nowhere-2'"),
        ({"env_kwargs": {"features": [1, 2]}}, "'features' is of one SAE"),
    ],
)
def test_what_cannot_be_compared_is_named_before_anything_is_made(cfg, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        main(replace(cfg, runs_dir=tmp_path / "new", **wrong))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": (1, 1)}, r"layers must be different blocks, at least one, got \(1, 1\)"),
        ({"layers": ()}, r"at least one, got \(\)"),
        ({"coefficients": ()}, r"coefficients must be .* got \(\)"),
        ({"coefficients": (1.0, 0.0)}, r"got \(1\.0, 0\.0\)"),
        ({"coefficients": (float("nan"),)}, r"got \(nan,\)"),
        ({"saes": ("a", "b", "c")}, r"one for each of the 2 layers, got \['a', 'b', 'c'\]"),
        ({"sae_items": 0}, "sae_items must be at least 1, got 0"),
        ({"tuning_items": 0}, "tuning_items must be at least 1, got 0"),
        ({"oracle_items": -1}, "oracle_items must be at least 0, got -1"),
        ({"sae": SAEConfig(features=4, k=5)}, r"k must be in \[1, 4\]"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(cfg, wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(cfg, **wrong)


def test_a_template_or_one_sae_a_layer():
    assert given_saes(["a/{layer}/b"], [0, 3]) == {0: "a/0/b", 3: "a/3/b"}
    assert given_saes(["x", "y"], [3, 0]) == {3: "x", 0: "y"}
    assert given_saes(["x"], [3]) == {3: "x"}
    with pytest.raises(ValueError, match=r"\{layer\} in it or one for each of the 2 layers, got \['x'\]"):
        given_saes(["x"], [3, 0])


def test_the_gain_is_over_the_unsteered_model_on_the_same_items():
    def played(*scores: float) -> Played:
        return Played([{"score": score} for score in scores], {})

    arms = {"unsteered": Arm([played(0, 1, 0, 0)], 0.0), "trained": Arm([played(1, 1, 1, 1), played(1, 0, 0, 0)], 0.0)}
    found = gain(arms["trained"], arms["unsteered"], seed=0)
    assert found.by_seed == [0.75, 0.0]
    assert found.mean == 0.375
    assert found.ci95 == (-1.0, 1.0), "two seeds this far apart say nothing"
    alone = gain(Arm([played(1, 1, 1, 1)], 0.0), arms["unsteered"], seed=0)
    assert alone.ci95 == pytest.approx(wilson(3, 4)), "over items"


def test_shares_of_kinds_and_mean_bits():
    told = [{"position": {"bits": bits}} for bits in (0.5, 0.25, 8.0)]
    kinds = ("content", "digits", "silent")
    known = {n: {"kind": kind, "information": own} for n, (kind, own) in enumerate(zip(kinds, told, strict=True))}
    shares = kind_shares(known, {0: 3, 2: 1})
    assert list(shares) == list(ALL_KINDS)
    assert {kind: share for kind, share in shares.items() if share} == {"content": 0.75, "silent": 0.25}
    assert mean_bits(known, [0, 1, 2]) == {"position": 0.375}, "what is never active tells nothing of anything"
    assert (kind_shares(known, {}), mean_bits(known, [2])) == (None, None)


def test_the_command_line_takes_lists_and_an_sae():
    asked = parse("layers", command, ["--env", "x", "--name", "n", "--layers", "1", "3", "--sae.k", "4"])
    assert (asked.layers, asked.sae.k, asked.sae.samples, asked.runs_dir) == ((1, 3), 4, 500_000, Path("runs"))


def test_the_site_is_the_environments_own(cfg, result):
    assert unwrap(envs_of(cfg, "train", {})).site == run_of(cfg, 2, 0).config["env_kwargs"]["site"]


def test_a_comparison_goes_on_where_it_was_killed(cfg, result, monkeypatch):
    (cfg.folder / "layers.json").unlink()
    for name in (
        "agents.compare.layers.search_best_fixed",
        "agents.compare.layers.train_sae",
        "agents.compare.bench.play",
    ):
        monkeypatch.setattr(name, None)  # nothing is done twice
    monkeypatch.setattr("agents.runs.training.main", None)
    again = main(replace(cfg, resume=True))
    assert replace(again, wall_s=0.0) == replace(result, wall_s=0.0)
    with pytest.raises(ValueError, match=r"items was 20 when .* was begun, got 21"):
        main(replace(cfg, resume=True, items=21))

"""Score against sample size: who learns from what, and whether the table says what came out."""

from dataclasses import replace

import pytest

from agents.compare.results import SampleEfficiency
from agents.runs.folder import RunFolder
from experiments.sample_efficiency import SampleEfficiencyConfig, main

FEW = {"features": list(range(8))}


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> SampleEfficiencyConfig:
    return SampleEfficiencyConfig(
        env="Steer-MMLU-v0",
        name="samples",
        sizes=(10, 25),
        seeds=2,
        total_timesteps=64,
        mask="off",
        env_kwargs=FEW,
        algo_kwargs={"n_steps": 4},
        items=10,
        lora_steps=5,
        num_envs=16,
        jobs=1,
        runs_dir=tmp_path_factory.mktemp("samples"),
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_size_has_its_arms_and_every_seed_its_items(cfg):
    result = main(cfg)
    assert result.sizes == [10, 25, 1824]
    assert {"unsteered", "trained", "best_fixed", "corrsteer", "lora"} <= set(result.arms)
    for name in ("trained", "lora", "best_fixed"):
        assert [len(point.scores) for point in result.arms[name]] == [2, 2, 2]
    for size in (10, 25):
        for seed in range(2):
            config = RunFolder.open(cfg.runs_dir / "samples" / str(size) / f"seed-{seed}").config
            assert config["env_kwargs"] == FEW | {"limit": size, "limit_seed": seed}
    assert SampleEfficiency.read(cfg.runs_dir / "samples" / "samples.json") == result
    table = (cfg.runs_dir / "samples" / "samples.md").read_text()
    for point in result.arms["lora"]:
        assert f"{point.score:.3f} (" in table
    assert (cfg.runs_dir / "samples" / "samples.png").stat().st_size > 5_000


@pytest.mark.parametrize("sizes", [(0, 10), (10, 10), (50, 10), (10, 1824), (5000,)])
def test_wrong_sizes_are_named_before_anything_is_made(cfg, tmp_path, sizes):
    with pytest.raises(ValueError, match="sizes must increase from at least 1 to below the 1824 items of train, got"):
        main(replace(cfg, sizes=sizes, runs_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()

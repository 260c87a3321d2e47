"""Every preset against SAELens's own table, what its models are known to be, and what may be called a benchmark."""

import hashlib
import json
import re
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import load_file

import steer_env  # noqa: F401
from steer_env.envs import registry
from steer_env.envs.registry import make_env
from steer_env.errors import NotTheBenchmark
from steer_env.lm.loading import _unreachable
from steer_env.lm.presets import PRESETS, Preset, find_preset, ungated_alternative
from steer_env.lm.sae_sources import open_sae
from steer_env.tasks import TASKS
from tests.conftest import save_sae
from tests.toys import Quiz

SHARED = Path(__file__).parents[3] / "shared"
SMOLLM2 = SHARED / "models" / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BBQ = SHARED / "data" / "bbq"

# Blocks and residual width, from the models' published configurations.
MODELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": (30, 576),
    "openai-community/gpt2": (12, 768),
    "EleutherAI/pythia-70m-deduped": (6, 512),
    "google/gemma-3-270m": (18, 640),
    "google/gemma-2-2b": (26, 2304),
    "google/gemma-2-2b-it": (26, 2304),
    "google/gemma-2-9b-it": (42, 3584),
    "meta-llama/Llama-3.1-8B": (32, 4096),
    "meta-llama/Llama-3.1-8B-Instruct": (32, 4096),
    "Qwen/Qwen3-1.7B-Base": (28, 2048),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (32, 4096),
}
# What SAELens calls the model, where its name is not the last part of the hub's. The paper of gemma-2-2b-it steers it
# with the base model's SAE.
CALLED = {"openai-community/gpt2": "gpt2-small", "google/gemma-2-2b-it": "gemma-2-2b"}
# Their configurations come from SAELens's code alone; those of the others are read from a file on the hub.
CONFIGURED = ["gemma-2-2b", "gemma-2-2b-it", "gemma-2-9b-it", "llama-3.1-8b-instruct", "qwen3-1.7b"]
CONFIGURED += ["deepseek-r1-distill-llama-8b"]
# The SAEs of these are in the package; those of the others are in SAELens's table.
SHIPPED = sorted(name for name, row in PRESETS.items() if row.saes)


@pytest.fixture(params=sorted(PRESETS))
def row(request):
    return PRESETS[request.param]


@pytest.fixture(params=sorted(set(PRESETS) - set(SHIPPED)))
def listed(request):
    return PRESETS[request.param]


def in_the_table(row):
    name, _, sae_id = row.sae.partition(":")
    table = get_pretrained_saes_directory()
    assert name in table, f"SAELens has no release {name!r}"
    assert sae_id in table[name].saes_map, f"release {name!r} has no SAE {sae_id!r}"
    return table[name], sae_id


def test_the_table_is_the_contract():
    assert set(PRESETS) == {
        "smollm2-135m-instruct",
        "gpt2",
        "pythia-70m",
        "gemma-3-270m",
        "gemma-2-2b",
        "gemma-2-2b-it",
        "gemma-2-9b-it",
        "llama-3.1-8b",
        "llama-3.1-8b-instruct",
        "qwen3-1.7b",
        "deepseek-r1-distill-llama-8b",
    }


def test_the_sae_is_of_this_model(listed):
    release, _ = in_the_table(listed)
    called = CALLED.get(listed.model, listed.model.split("/")[-1])
    assert release.model.split("/")[-1] == called


def test_the_sae_is_of_the_output_of_this_block(listed):
    """The block is in the SAE's id, its place there or in the repository's name."""
    release, sae_id = in_the_table(listed)
    block = re.search(r"(?:layer_?|blocks\.|\bl)(\d+)", sae_id)
    assert int(block.group(1)) == listed.layer < MODELS[listed.model][0]
    named = f"{release.repo_id} {release.saes_map[sae_id]} {sae_id}"
    assert re.search(r"resid_post|pt-res|it-res|LXR|SAE-Res|SAE-l\d", named)
    assert not re.search(r"resid_pre|mlp|att|transcoder", named)
    assert listed.site == "post"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_saes_are_those_of_their_blocks_and_small(name):
    row = PRESETS[name]
    blocks, width = MODELS[row.model]
    assert row.sae == row.saes[row.layer]
    for layer, folder in row.saes.items():
        sae, card = open_sae(folder), json.loads((Path(folder) / "card.json").read_text())
        assert (sae.layer, sae.site) == (layer, row.site)
        assert card["config"]["layer"] == layer < blocks
        assert card["config"]["model"].startswith(row.model.split("/")[-1])
        assert sae.directions.shape[1] == width
        assert sae.directions.dtype == torch.float32
        torch.testing.assert_close(sae.directions.norm(dim=1), torch.ones(sae.width), rtol=1e-3, atol=0)
        assert sae.encode(sae.directions[:3] * card["measured"]["median_residual_norm"]).dtype == torch.float32
        weights = Path(folder) / "sae_weights.safetensors"
        assert weights.stat().st_size <= 6e6
        assert card["sha256"] == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
        assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}


@pytest.mark.parametrize("name", CONFIGURED)
def test_width_hook_and_normalisation_agree_with_saelenss_configuration(name):
    row = PRESETS[name]
    release, sae_id = in_the_table(row)
    config = loaders.load_sae_config_from_huggingface(release.release, sae_id)
    assert config["d_in"] == MODELS[row.model][1]
    assert config["metadata"]["hook_name"] == f"blocks.{row.layer}.hook_resid_{row.site}"
    assert config["normalize_activations"] == "none", "a scale that is not in the weights is refused"
    assert config["metadata"]["model_name"].split("/")[-1] == CALLED.get(row.model, row.model.split("/")[-1])


def test_llama_scopes_scale_is_in_the_table():
    """It wants its input scaled, and SAELens folds the scale into the weights only where its table has the factor."""
    release, sae_id = in_the_table(PRESETS["llama-3.1-8b"])
    assert release.norm_scaling_factor[sae_id] > 0


def test_the_gated_name_an_alternative_that_is_not(row):
    gated = row.model.startswith(("google/gemma", "meta-llama/"))
    assert row.gated == gated
    if gated:
        assert not PRESETS[row.alternative].gated
        message = str(_unreachable("model", row.model, OSError("401 Client Error\nmore")))
        assert f"preset={ungated_alternative(row.model)!r}, which is not gated" in message
        assert "hf auth login" in message
    else:
        assert row.alternative == ""
        assert ungated_alternative(row.model) is None


def test_every_row_may_bear_the_benchmarks_name_but_the_embedded():
    assert all(row.benchmark for row in PRESETS.values())
    assert not find_preset("embedded", "tictactoe").benchmark
    with pytest.raises(ValueError, match="no embedded model knows task 'chess'"):
        find_preset("embedded", "chess")


@pytest.fixture
def quiz(monkeypatch):
    """A text task that bears a benchmark's name, with no warning given yet."""
    monkeypatch.setitem(TASKS, "quiz", Quiz)
    monkeypatch.setitem(
        gym.registry, "Steer-Quiz-v0", gym.envs.registration.EnvSpec("Steer-Quiz-v0", kwargs={"task": "quiz"})
    )
    registry._warn_of_instrument.cache_clear()


def made(tiny, **kwargs):
    return make_env(task="quiz", coefficient_unit="residual", **{**tiny, **kwargs}).episode.scene


def test_embedded_items_are_no_benchmark_and_that_is_said_once(quiz, tiny):
    with pytest.warns(
        NotTheBenchmark, match=r"Steer-Quiz-v0 with the embedded items .* never report its scores as Quiz"
    ):
        assert made(tiny).benchmark is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(tiny).benchmark is False


def test_the_embedded_model_is_no_benchmark_even_on_real_data(quiz, tiny, monkeypatch):
    embedded = find_preset("embedded", "tictactoe")
    monkeypatch.setattr(registry, "find_preset", lambda name, task: embedded)
    with pytest.warns(
        NotTheBenchmark, match="with the embedded model .* preset='gemma-2-2b-it' is the published setting"
    ):
        assert make_env(task="quiz", data="hub").episode.scene.benchmark is False


@pytest.fixture
def two_saes(tiny, tmp_path, monkeypatch):
    """A preset with an SAE at blocks 1 and 2 of the tiny model, and its two folders."""
    save_sae(tmp_path / "2", hook="blocks.2.hook_resid_post")
    saes = {1: str(tiny["sae"]), 2: str(tmp_path / "2")}
    tiny_row = Preset(model=str(tiny["model"]), sae=saes[1], layer=1, coefficient_unit="residual", saes=saes)
    monkeypatch.setattr(registry, "find_preset", lambda name, task: tiny_row)
    return saes


def test_a_layer_takes_the_presets_sae_of_that_block(quiz, two_saes):
    def found(**kwargs):
        scene = make_env(task="quiz", preset="two", data="own.jsonl", **kwargs).episode.scene
        return scene.dictionary.name, scene.model.layer

    assert found() == (two_saes[1], 1)
    assert found(layer=2) == (two_saes[2], 2)
    assert found(sae=two_saes[2]) == (two_saes[2], 2), "an SAE that is given brings its own block"
    with pytest.warns(UserWarning, match="was trained at post of block 1, but steers post of block 2"):
        assert found(sae=two_saes[1], layer=2) == (two_saes[1], 2)
    with pytest.warns(UserWarning, match="was trained at post of block 1, but steers post of block 0"):
        assert found(layer=0) == (two_saes[1], 0)


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.is_file(), reason=f"needs {SMOLLM2}")
@pytest.mark.parametrize("layer", [None, 7])
def test_smollm2_from_a_file_is_steered_by_the_shipped_sae(layer):
    preset = PRESETS["smollm2-135m-instruct"]
    unit = {"coefficient": 150.0, "coefficient_unit": "residual"}  # to measure the norm would take a minute
    own = {"preset": "smollm2-135m-instruct", "model": str(SMOLLM2), "layer": layer}
    env = gym.make("Steer-BBQ-v0", **own, **unit, data=str(BBQ), limit=2)
    scene = env.unwrapped.episode.scene
    assert scene.dictionary.name == preset.saes[layer or preset.layer]
    env.reset(seed=0)
    info = env.step(3)[4]
    assert info["completion"].strip() in {"A", "B", "C"}


def test_ones_own_model_or_data_are_neither_warned_of_nor_called_the_benchmark(quiz, tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(tiny, data="hub").benchmark is False
        assert made(tiny, data="/my/file.jsonl").benchmark is False
        assert made(tiny, preset="gpt2").benchmark is False


def test_tic_tac_toe_bears_no_benchmarks_name(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gym.make("Steer-TicTacToe-v0").unwrapped.episode.scene.benchmark is False


@pytest.mark.parametrize(
    ("given", "data", "benchmark"),
    [
        ({"preset": "gpt2"}, "hub", True),
        ({"preset": "gpt2", "data": "embedded"}, "embedded", False),
        ({"preset": "gpt2", "data": "someone/else"}, "someone/else", False),
        ({}, None, False),
    ],
)
def test_a_real_preset_plays_the_hubs_items(quiz, tiny, monkeypatch, given, data, benchmark):
    """A row of tiny files in the place of gpt2's: without an override it is the benchmark, on the hub's items alone."""
    tiny_row = type(PRESETS["gpt2"])(**tiny, coefficient_unit="residual", benchmark="preset" in given)
    monkeypatch.setattr(registry, "find_preset", lambda name, task: tiny_row)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotTheBenchmark)
        scene = make_env(task="quiz", **given).episode.scene
    assert scene.task.data == data
    assert scene.benchmark is benchmark

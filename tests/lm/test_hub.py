"""Presets load from folders laid out as the hub's cache lays them out, offline; what is missing says how to get it.

The layout is that of huggingface_hub: content in ``blobs``, the commit in ``refs``, links in ``snapshots``.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GPT2Config, PreTrainedTokenizerFast

from steer_env.tasks.mmlu import SOURCE

ROOT = Path(__file__).parents[2]
_ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_SHAPE = {
    **_ENDS,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 270,
    "max_position_embeddings": 2048,
}
# SAELens takes the widths of Gemma Scope from its own table, not from the file: they must be the real ones.
SCOPE = {"repo": "google/gemma-scope-2b-pt-res", "path": "layer_12/width_16k/average_l0_82/params.npz"}
SCOPE_2 = {
    "repo": "google/gemma-scope-2-270m-pt",
    "path": "resid_post/layer_12_width_16k_l0_medium/params.safetensors",
}
GPT2 = {"repo": "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs", "path": "v5_32k_layer_8.pt/sae_weights.safetensors"}
WIDTH, FEATURES = 2304, 16_384


def put(home: Path, kind: str, repo: str, folder: Path, revision: str = "main") -> None:
    """Lay the files of ``folder`` out as the hub's cache would after a download of ``repo`` at ``revision``."""
    commit = revision if len(revision) == 40 else "c0ffee" + 34 * "0"
    root = home / "hub" / f"{kind}s--{repo.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = root / "blobs" / hashlib.sha256(str(file).encode()).hexdigest()
        file.rename(blob)
        link = root / "snapshots" / commit / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def save_model(folder: Path, config: object) -> None:
    """A random model with a tokenizer of bytes, in which the lettered options are tokens of their own."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    alphabet = [
        "<bos>",
        "<eos>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(f"Ġ{letter}" for letter in "ABCDEFGHIJ"),
    ]
    tokenizer = Tokenizer(
        models.BPE({token: i for i, token in enumerate(alphabet)}, [("Ġ", letter) for letter in "ABCDEFGHIJ"])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>").save_pretrained(folder)


def save_scope(file: Path) -> None:
    """Feature ``i`` reads and writes direction ``i`` (modulo the width); mostly zeros, so small on disk."""
    file.parent.mkdir(parents=True)
    rows = np.arange(FEATURES)
    decoder = np.zeros((FEATURES, WIDTH), np.float32)
    decoder[rows, rows % WIDTH] = 1.0
    np.savez_compressed(
        file,
        W_enc=np.ascontiguousarray(decoder.T),
        W_dec=decoder,
        b_enc=np.zeros(FEATURES, np.float32),
        b_dec=np.zeros(WIDTH, np.float32),
        threshold=np.full(FEATURES, 0.1, np.float32),
    )


def save_scope_2(file: Path, width: int = 32, features: int = 48) -> None:
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    decoder = torch.nn.functional.normalize(torch.randn(features, width), dim=1)
    tensors = {"w_enc": decoder.T.contiguous(), "w_dec": decoder, "threshold": torch.full((features,), 0.1)}
    save_file({**tensors, "b_enc": torch.zeros(features), "b_dec": torch.zeros(width)}, file)


def save_gpt2_sae(file: Path, width: int = 32, features: int = 48) -> None:
    """In SAELens's own format of before its sixth version, without the file of sparsities that it may have."""
    config = {
        "architecture": "standard",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 4},
        "d_in": width,
        "d_sae": features,
        "hook_name": "blocks.8.hook_resid_post",
        "hook_layer": 8,
        "normalize_activations": "layer_norm",
        "dtype": "float32",
        "model_name": "gpt2-small",
        "apply_b_dec_to_input": False,
    }
    file.parent.mkdir(parents=True)
    (file.parent / "cfg.json").write_text(json.dumps(config))
    torch.manual_seed(2)
    decoder = torch.nn.functional.normalize(torch.randn(features, width), dim=1)
    tensors = {"W_enc": decoder.T.contiguous(), "W_dec": decoder, "b_enc": torch.zeros(features)}
    save_file({**tensors, "b_dec": torch.zeros(width)}, file)


def save_mmlu(folder: Path) -> None:
    """``cais/mmlu``: a configuration with four splits, named in the card's YAML."""
    splits = ("auxiliary_train", "validation", "dev", "test")
    files = "".join(f"  - split: {split}\n    path: all/{split}-*\n" for split in splits)
    (folder / "all").mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: all\n  data_files:\n{files}---\n# MMLU\n")
    for split in splits:
        rows = [
            {
                "question": f"{split} {i}: which?",
                "subject": "" if split == "auxiliary_train" else "anatomy",  # as it is on the hub
                "choices": ["an", "ox", "a", "cow"],
                "answer": i % 4,
            }
            for i in range(12)
        ]
        pd.DataFrame(rows).to_parquet(folder / "all" / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache with what the presets gemma-2-2b, gemma-3-270m and gpt2 need, and MMLU."""
    work = tmp_path_factory.mktemp("work")
    home = tmp_path_factory.mktemp("home")
    save_model(work / "a", Gemma2Config(hidden_size=WIDTH, num_hidden_layers=13, **_SHAPE))
    put(home, "model", "google/gemma-2-2b", work / "a")
    save_model(work / "b", Gemma3TextConfig(hidden_size=32, num_hidden_layers=13, **_SHAPE))
    put(home, "model", "google/gemma-3-270m", work / "b")
    save_scope(work / "c" / SCOPE["path"])
    put(home, "model", SCOPE["repo"], work / "c")
    save_scope_2(work / "d" / SCOPE_2["path"])
    put(home, "model", SCOPE_2["repo"], work / "d")
    save_model(work / "f", GPT2Config(n_embd=32, n_head=2, n_layer=9, vocab_size=270, n_positions=2048, **_ENDS))
    put(home, "model", "openai-community/gpt2", work / "f")
    save_gpt2_sae(work / "g" / GPT2["path"])
    put(home, "model", GPT2["repo"], work / "g")
    save_mmlu(work / "e")
    put(home, "dataset", SOURCE.repo, work / "e", SOURCE.revision)
    return home


def offline(home: Path, code: str) -> dict[str, object]:
    """What ``code`` prints as JSON in a process whose only hub is the cache."""
    keep = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    environment = {**keep, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HOME": str(home)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


PLAY = """
import json, warnings
import gymnasium as gym, sae_lens.loading.pretrained_sae_loaders as loaders, steer_env, torch
from huggingface_hub import hf_hub_download
from sae_lens import SAE
from safetensors.torch import load_file
from steer_env.errors import NotTheBenchmark
from steer_env.lm.sae_sources import open_sae
warnings.simplefilter("error", NotTheBenchmark)
result = {}
for preset in ("gemma-2-2b", "gemma-3-270m", "gpt2"):
    env = gym.make("Steer-MMLU-v0", preset=preset, split="test")
    env.reset(seed=0, options={"item": 3})
    _, reward, ended, _, info = env.step(5)
    parts = env.unwrapped.episode.scene
    names = ("completion", "target", "answer", "score", "option_logprobs", "transcript")
    result[preset] = {name: info[name] for name in names} | {
        "feature": int(info["feature"]), "ended": ended, "actions": int(env.action_space.n),
        "benchmark": parts.benchmark, "record": parts.task.data_record(), "items": len(parts.task),
        "place": [parts.model.layer, parts.model.site],
    }
result["train"] = gym.make("Steer-MMLU-v0", preset="gpt2").unwrapped.episode.scene.task.data_record()
try:
    gym.make("Steer-MMLU-v0", preset="gemma-2-9b-it")
except ValueError as error:
    result["missing"] = str(error)

def shapes(repo, name):  # SAELens asks the network for these
    return {key: list(tensor.shape) for key, tensor in load_file(hf_hub_download(repo, name)).items()}

loaders.get_safetensors_tensor_shapes = shapes
release, sae_id = "gemma-scope-2-270m-pt-res", "layer_12_width_16k_l0_medium"
theirs, ours = SAE.from_pretrained(release, sae_id), open_sae(f"{release}:{sae_id}")
residual = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
activations = ours.encode(residual)
result["same"] = {
    "directions": torch.equal(ours.directions, theirs.W_dec),
    "activations": torch.equal(activations, theirs.encode(residual)),
    "some": bool((activations > 0).any()),
    "place": [ours.layer, ours.site],
    "hook": theirs.cfg.metadata.hook_name,
}
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def played(home):
    return offline(home, PLAY)


@pytest.mark.parametrize(("preset", "features"), [("gemma-2-2b", FEATURES), ("gemma-3-270m", 48), ("gpt2", 48)])
def test_a_preset_plays_from_the_cache_alone(played, preset, features):
    result = played[preset]
    assert result["ended"] is True
    assert result["benchmark"] is True
    assert (result["actions"], result["feature"]) == (features + 1, 5)
    assert result["place"] == [8 if preset == "gpt2" else 12, "post"]
    assert "test 3: which?" in result["transcript"]
    assert result["target"] == "D"
    assert len(result["option_logprobs"]) == 4
    assert result["completion"] == [" A", " B", " C", " D"][int(np.argmax(result["option_logprobs"]))]
    assert result["score"] == float(result["answer"] == "D")
    assert (result["items"], result["record"]["items"]) == (12, 12)


def test_training_plays_the_hubs_training_rows(played):
    """Their subject is empty on the hub."""
    assert (played["train"]["split"], played["train"]["items"]) == ("train", 12)


def test_a_missing_model_says_how_to_get_it_and_what_to_take_instead(played):
    for part in ("google/gemma-2-9b-it", "hf auth login", "hf download google/gemma-2-9b-it", "HF_HUB_OFFLINE=1"):
        assert part in played["missing"]
    assert "preset='deepseek-r1-distill-llama-8b', which is not gated" in played["missing"]


def test_gemma_scope_2_is_read_as_saelens_reads_it_but_without_a_network(played):
    hook = "blocks.12.hook_resid_post"
    same = {"directions": True, "activations": True, "some": True, "place": [12, "post"], "hook": hook}
    assert played["same"] == same

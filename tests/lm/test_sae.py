"""SAEs of every architecture that SAELens saves, against SAELens itself."""

import json
import re
import subprocess
import sys

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from steer_env.errors import SteeringError
from steer_env.lm.sae_folder import read_sae
from steer_env.lm.sae_sources import open_sae

WIDTH, FEATURES, K = 16, 40, 5
ARCHITECTURES = ["standard", "topk", "batchtopk", "jumprelu", "gated"]


def make_sae(architecture: str):
    torch.manual_seed(0)
    shape = {"d_in": WIDTH, "d_sae": FEATURES, "device": "cpu"}
    metadata = SAEMetadata(hook_name="blocks.3.hook_resid_pre")
    if architecture == "batchtopk":  # saved as the JumpReLU it becomes
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape, k=K, rescale_acts_by_decoder_norm=False))
        sae.cfg.metadata = metadata
        sae.topk_threshold.fill_(0.4)
    elif architecture == "topk":
        sae = TopKSAE(TopKSAEConfig(**shape, k=K, metadata=metadata))
    else:
        cls, config = {
            "standard": (StandardSAE, StandardSAEConfig),
            "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig),
            "gated": (GatedSAE, GatedSAEConfig),
        }[architecture]
        sae = cls(config(**shape, metadata=metadata))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        if architecture == "jumprelu":
            sae.threshold.copy_(torch.rand(FEATURES))
    return sae


def by_hand(architecture: str, sae, residual: torch.Tensor) -> torch.Tensor:
    """The papers' formulas, from the tensors alone."""
    centred = residual - sae.b_dec
    if architecture == "gated":
        shared = centred @ sae.W_enc
        opened = (shared + sae.b_gate) > 0
        return opened * torch.relu(shared * sae.r_mag.exp() + sae.b_mag)
    before = centred @ sae.W_enc + sae.b_enc
    if architecture == "jumprelu":
        return torch.relu(before) * (before > sae.threshold)
    if architecture == "batchtopk":
        return torch.relu(before) * (before > sae.topk_threshold)
    active = torch.relu(before)
    if architecture == "topk":
        least = active.topk(K, dim=-1).values[..., -1:]
        return active * (active >= least)
    return active


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_and_directions_are_the_papers(architecture, tmp_path):
    sae = make_sae(architecture)
    if architecture == "batchtopk":
        sae.save_inference_model(tmp_path)
    else:
        sae.save_model(tmp_path)
    dictionary = open_sae(str(tmp_path))
    residual = torch.randn(7, 3, WIDTH)
    expected = by_hand(architecture, sae, residual)
    assert (expected > 0).any()
    assert torch.allclose(dictionary.encode(residual), expected, atol=1e-5)
    assert torch.allclose(dictionary.encode(residual), SAE.load_from_disk(tmp_path).encode(residual).to_dense())
    assert torch.equal(dictionary.directions, sae.W_dec)
    assert not dictionary.directions.requires_grad
    assert (dictionary.layer, dictionary.site, dictionary.width) == (3, "pre", FEATURES)


def test_one_residual_is_encoded_as_in_a_batch(tmp_path):
    make_sae("topk").save_model(tmp_path)
    dictionary = open_sae(str(tmp_path))
    residual = torch.randn(5, WIDTH)
    alone = torch.stack([dictionary.encode(row) for row in residual])
    assert torch.allclose(alone, dictionary.encode(residual), atol=1e-6)


def test_an_unfolded_activation_scale_is_refused(tmp_path):
    sae = make_sae("standard")
    sae.cfg.normalize_activations = "expected_average_only_in"
    sae.save_model(tmp_path)
    with pytest.raises(SteeringError, match="not folded into its weights"):
        open_sae(str(tmp_path))


def test_a_folder_that_is_no_sae_is_named(tmp_path):
    with pytest.raises(SteeringError, match=r"holds no cfg\.json"):
        open_sae(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"), [("cfg.json", b"{"), ("cfg.json", b"{}"), ("sae_weights.safetensors", b"x")]
)
def test_a_spoilt_sae_is_named(tmp_path, file, content):
    make_sae("standard").save_model(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(SteeringError, match=re.escape(f"cannot read the SAE in {str(tmp_path)!r} (")):
        open_sae(str(tmp_path))


def test_an_sae_without_its_weights_is_named(tmp_path):
    make_sae("standard").save_model(tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(SteeringError, match=re.escape(f"cannot read the SAE in {str(tmp_path)!r} (")):
        open_sae(str(tmp_path))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalize_activations", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("other", [False, True], ids=["usual", "unusual"])
def test_a_folder_is_read_without_saelens_and_to_the_same_bits(architecture, normalize_activations, other, tmp_path):
    sae = make_sae(architecture)
    sae.cfg.normalize_activations = normalize_activations
    sae.cfg.apply_b_dec_to_input = not other
    if architecture == "topk":
        sae.cfg.rescale_acts_by_decoder_norm = other
    (sae.save_inference_model if architecture == "batchtopk" else sae.save_model)(tmp_path)
    found = read_sae(tmp_path, "cpu")
    assert found is not None
    residual = 3 * torch.randn(7, WIDTH) + 1
    assert torch.equal(found.encode(residual), SAE.load_from_disk(tmp_path).encode(residual).to_dense())


def test_what_is_not_known_of_a_folder_is_left_to_saelens(tmp_path):
    make_sae("standard").save_model(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    for unknown in (
        {"architecture": "temporal"},
        {"normalize_activations": "covariance_whitening"},
        {"reshape_activations": "hook_z"},
        {"d_sae": FEATURES + 1},
        {"finetuning_scaling_factor": True},
        {"metadata": {}},
    ):
        (tmp_path / "cfg.json").write_text(json.dumps(config | unknown))
        assert read_sae(tmp_path, "cpu") is None, unknown
    config.pop("normalize_activations")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert read_sae(tmp_path, "cpu") is None
    assert torch.equal(
        open_sae(str(tmp_path)).encode(torch.ones(1, WIDTH)), SAE.load_from_disk(tmp_path).encode(torch.ones(1, WIDTH))
    )


def test_an_environment_is_made_without_importing_saelens_or_a_tracker():
    """They take longer to import than PyTorch does."""
    made = "import sys, gymnasium, steer_env; gymnasium.make('Steer-TicTacToe-v0').reset(seed=0); "
    found = "print([name for name in ('sae_lens', 'transformer_lens', 'wandb', 'datasets') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", made + found], capture_output=True, text=True, check=True)
    assert run.stdout.strip().splitlines()[-1] == "[]"

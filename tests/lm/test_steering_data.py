"""A feature by the name that Neuronpedia gives it, and as llama.cpp reads it; the file adds what our hook adds."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.__main__ import main as steer
from experiments.export import ExportConfig
from steer_env.errors import SteeringError
from steer_env.lm.loading import load_sae
from steer_env.lm.steering_data import neuronpedia_feature, write_control_vector

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("prefix", ["", "https://www.neuronpedia.org/", "neuronpedia.org/"])
def test_a_reference_names_an_sae_of_saelens(prefix):
    found = neuronpedia_feature(f"{prefix}gemma-2-2b/12-gemmascope-res-16k/1234")
    assert found == ("gemma-scope-2b-pt-res-canonical:layer_12/width_16k/canonical", 1234)
    assert neuronpedia_feature(f"{prefix}gpt2-small/8-res-jb/5") == ("gpt2-small-res-jb:blocks.8.hook_resid_pre", 5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gemma-2-2b", "model/layer-sae/feature, got 'gemma-2-2b'"),
        ("gemma-2-2b/12-gemmascope-res-16k", "model/layer-sae/feature"),
        ("gemma-2-2b/12-nothing/3", "knows no SAE that Neuronpedia calls 'gemma-2-2b/12-nothing'"),
    ],
)
def test_what_is_no_reference_is_refused(reference, message):
    with pytest.raises(SteeringError, match=message):
        neuronpedia_feature(reference)


def test_the_command_writes_what_llama_cpp_reads(tiny, tmp_path):
    path = tmp_path / "a.gguf"
    flags = ["--sae", str(tiny["sae"]), "--feature", "5", "--coefficient", "2.5", "--gguf", str(path)]
    assert steer(["export", *flags, "--model-hint", "llama"]) == 0
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 1
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type) == ("direction.1", gguf.GGMLQuantizationType.F32)
    np.testing.assert_array_equal(tensor.data, 2.5 * load_sae(str(tiny["sae"])).directions[5].numpy())
    assert steer(["export", *flags]) == 2, "nothing is overwritten"


def test_what_goes_into_a_block_is_what_comes_out_of_the_one_before(tiny, tmp_path):
    sae = load_sae(str(tiny["sae"]))
    assert write_control_vector(tmp_path / "a.gguf", replace(sae, layer=2, site="pre"), 0, 1.0) == "direction.1"
    for other in (replace(sae, layer=1, site="pre"), replace(sae, layer=0, site="post")):
        with pytest.raises(SteeringError, match="behind block 1 and later"):
            write_control_vector(tmp_path / "b.gguf", other, 0, 1.0)
    with pytest.raises(SteeringError, match="does not say which block"):
        write_control_vector(tmp_path / "b.gguf", replace(sae, layer=None), 0, 1.0)
    with pytest.raises(SteeringError, match=r"feature must be in \[0, 24\), got 24"):
        write_control_vector(tmp_path / "b.gguf", sae, 24, 1.0)
    with pytest.raises(SteeringError, match="finite, got nan"):
        write_control_vector(tmp_path / "b.gguf", sae, 0, float("nan"))
    assert not (tmp_path / "b.gguf").exists()


def test_either_name_is_needed(tmp_path):
    for given in ({}, {"sae": "a"}, {"sae": "a", "feature": 1, "neuronpedia": "m/1-s/1"}):
        with pytest.raises(ValueError, match="give either sae and feature, or neuronpedia"):
            ExportConfig(tmp_path / "a.gguf", 1.0, **given)

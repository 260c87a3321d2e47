"""Features as others name them, and as llama.cpp adds them: Neuronpedia's references, and control vectors in GGUF."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from steer_env.errors import SteeringError
from steer_env.lm.sae import FeatureDictionary


class FeatureReference(NamedTuple):
    """A feature.

    Attributes:
        sae: The SAE as ``sae=`` takes it: SAELens's ``"release:sae_id"``.
        feature: Its index.
    """

    sae: str
    feature: int


def neuronpedia_feature(reference: str) -> FeatureReference:
    """The feature of a Neuronpedia reference, such as ``"gemma-2-2b/12-gemmascope-res-16k/1234"`` or its address.

    Raises:
        SteeringError: It is no reference, or SAELens's table has no SAE of this name.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory  # takes seconds to import

    name, _, number = reference.partition("neuronpedia.org/")[2].rpartition("/")
    if not name:
        name, _, number = reference.rpartition("/")
    if not name or not number.isdecimal():
        raise SteeringError(f"a Neuronpedia reference is model/layer-sae/feature, got {reference!r}")
    for release, row in get_pretrained_saes_directory().items():
        for sae_id, known in row.neuronpedia_id.items():
            if known == name:
                return FeatureReference(f"{release}:{sae_id}", int(number))
    raise SteeringError(f"SAELens knows no SAE that Neuronpedia calls {name!r}")


def write_control_vector(
    path: Path, dictionary: FeatureDictionary, feature: int, coefficient: float, model_hint: str = ""
) -> str:
    """Write a feature as a control vector for llama.cpp (``--control-vector``), which adds it at every position.

    Args:
        path: The ``.gguf`` file to write.
        dictionary: The SAE, which must say where it was trained.
        feature: Index of the feature.
        coefficient: How much of its decoder direction is added, in residual units.
        model_hint: Architecture of the model, as llama.cpp names it.

    Returns:
        The name of the tensor, ``direction.<block>``.

    Raises:
        SteeringError: There is no such feature, the coefficient is not finite, the SAE is of a place where llama.cpp
            adds nothing (before or behind its first block), or the package gguf is missing.
        FileExistsError: The file is there.
    """
    if importlib.util.find_spec("gguf") is None:
        raise SteeringError("control vectors need another package: pip install 'steer-env[gguf]'")
    import gguf  # optional

    if path.exists():
        raise FileExistsError(f"{path} is there already: give another")
    if not 0 <= feature < dictionary.width:
        raise SteeringError(f"feature must be in [0, {dictionary.width}), got {feature}")
    if not abs(coefficient) < float("inf"):
        raise SteeringError(f"coefficient must be finite, got {coefficient}")
    if dictionary.layer is None:
        raise SteeringError(f"SAE {dictionary.name!r} does not say which block it was trained on")
    # What comes out of a block is what goes into the next.
    block = dictionary.layer - (dictionary.site == "pre")
    if block < 1:
        raise SteeringError(f"llama.cpp steers behind block 1 and later ones, the SAE is of {dictionary.name!r}")
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", model_hint)
    writer.add_uint32("controlvector.layer_count", 1)
    name = f"direction.{block}"
    writer.add_tensor(name, (coefficient * dictionary.directions[feature]).float().cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return name

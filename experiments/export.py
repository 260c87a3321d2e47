"""A feature as a control vector: ``steer export --sae my_sae --feature 40 --coefficient 8 --gguf a.gguf``.

llama.cpp then steers with it at every position (``llama-cli --control-vector a.gguf``).
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportConfig:
    """Write one SAE feature as a control vector in GGUF."""

    gguf: Path
    """File to write."""
    coefficient: float
    """How much of the feature's decoder direction is added, in residual units."""
    sae: str | None = None
    """SAELens folder, or release:sae_id."""
    feature: int | None = None
    """Index of the feature."""
    neuronpedia: str | None = None
    """In place of sae and feature, as Neuronpedia names it: gemma-2-2b/12-gemmascope-res-16k/1234."""
    model_hint: str = ""
    """Architecture of the model, as llama.cpp names it, such as llama or gemma2."""

    def __post_init__(self) -> None:
        given = (self.sae is not None, self.feature is not None, self.neuronpedia is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("give either sae and feature, or neuronpedia")


def main(cfg: ExportConfig) -> Path:
    """Write the file and return its path.

    Raises:
        FileExistsError: It is there already.
        SteeringError: There is no such SAE or feature, or llama.cpp adds nothing where the SAE was trained.
    """
    from steer_env.lm.loading import load_sae
    from steer_env.lm.steering_data import neuronpedia_feature, write_control_vector

    if cfg.neuronpedia is not None:
        sae, feature = neuronpedia_feature(cfg.neuronpedia)
    else:
        assert cfg.sae is not None
        assert cfg.feature is not None
        sae, feature = cfg.sae, cfg.feature
    write_control_vector(cfg.gguf, load_sae(sae), feature, cfg.coefficient, cfg.model_hint)
    return cfg.gguf

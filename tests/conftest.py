"""A tiny random language model with a tokenizer and an SAE on disk: every path of the product, no training."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH, FEATURES, LAYER = 32, 24, 1

torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


def save_tokenizer(folder: Path) -> None:
    """Words are the digits 1 to 9; a prompt begins with ``<s>``."""
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *"123456789"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_lm(folder: Path, seed: int = 0, width: int = WIDTH) -> None:
    """A random LLaMA with weights large enough to have opinions."""
    torch.manual_seed(seed)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12,
            hidden_size=width,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    for parameter in lm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    lm.save_pretrained(folder)


def save_sae(folder: Path, width: int = WIDTH, hook: str = f"blocks.{LAYER}.hook_resid_post") -> None:
    """A random standard SAE with unit decoder rows."""
    from sae_lens import StandardSAE, StandardSAEConfig  # takes seconds, and many tests have no SAE
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(1)
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=FEATURES, device="cpu", metadata=SAEMetadata(hook_name=hook)))
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(FEATURES, width), dim=1)
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
    sae.save_model(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, object]:
    """Keyword arguments of ``gym.make`` for the tiny model: ``model``, ``sae``, ``layer``."""
    folder = tmp_path_factory.mktemp("tiny")
    save_lm(folder / "lm")
    save_tokenizer(folder / "lm")
    save_sae(folder / "sae")
    return {"model": str(folder / "lm"), "sae": str(folder / "sae"), "layer": LAYER}

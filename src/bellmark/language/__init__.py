"""Language models: loading, sampling, saving.

import bellmark as bm

model = bm.language.load("SmolLM2-135M-Instruct")        # or a folder, or a GGUF file
answers = model.sample(["Two plus two is"], group=4)     # texts, tokens, log-probabilities
model.save("somewhere")                                  # transformers reads it, with equal logits
"""

from bellmark.experience.generation import Completion, Completions
from bellmark.language.model import LanguageModel, load
from bellmark.language.tokenizers import ByteTokenizer, CharacterTokenizer
from bellmark.networks.transformer import Architecture, LinearScaling, Llama3Scaling, Transformer

__all__ = [
    "Architecture",
    "ByteTokenizer",
    "CharacterTokenizer",
    "Completion",
    "Completions",
    "LanguageModel",
    "LinearScaling",
    "Llama3Scaling",
    "Transformer",
    "load",
]

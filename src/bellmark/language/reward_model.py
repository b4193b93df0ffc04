"""Reward models on disk: a language model's folder, and beside it the head that reads a score from it.

config.json, model.safetensors, tokenizer…    as every language model's
reward_head.safetensors                       one array `weight` [width], float32
"""

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.algorithms.language.drawing import in_pieces
from bellmark.algorithms.language.reward_model import text_scores
from bellmark.errors import BadInput, CorruptFile
from bellmark.experience.generation import Completions
from bellmark.experience.texts import texts_of
from bellmark.language.model import LanguageModel, load
from bellmark.run.tree_file import Misfit, load_tree, save_tree

HEAD = "reward_head.safetensors"

_scores = eqx.filter_jit(
    lambda transformer, head, texts: in_pieces(lambda rows: text_scores(transformer, head, rows), texts, 32)
)


class RewardModel:
    """Scores of whole answers: `scores(prompts, answers)`."""

    def __init__(self, model: LanguageModel, head: Float[Array, " W"]):
        self.model, self.head = model, head

    def scores(self, prompts: list[list[int]], answers: Completions) -> np.ndarray:
        """[N], one score per answer; the prompts are the answers' own."""
        return np.asarray(
            _scores(
                self.model.transformer, self.head, texts_of(answers, context=self.model.architecture.context)
            )
        )

    def save(self, folder: str | Path) -> None:
        self.model.save(folder)
        save_tree(Path(folder) / HEAD, {"weight": self.head})


def load_reward_model(folder: str | Path) -> RewardModel:
    """Raises: `BadInput` where the folder holds no reward model."""
    path = Path(folder).expanduser()
    if not (path / HEAD).is_file():
        raise BadInput(f"{path} is no reward model: it has no {HEAD}; bellmark language reward makes one")
    model = load(path)
    template = {"weight": jnp.zeros(model.architecture.width)}
    try:
        head = load_tree(path / HEAD, template)["weight"]
    except Misfit as misfit:
        raise CorruptFile(str(misfit)) from None
    return RewardModel(model, head)

"""Models in GGUF files, read whole and dequantised; the file of llama.cpp and its relatives.

One file holds the description, the tokenizer and the weights, in four to sixteen bits each.  They come back as
float32 or bfloat16: what was lost by quantisation stays lost, nothing is lost here.  Two traps: the rows of q and k of
Llama files are permuted, because that engine turns neighbouring components where the papers' models turn components
D/2 apart; and Llama 3.1's scaling of rotary positions is stored as its result, one divisor per frequency.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.errors import BadInput, CorruptFile, unknown
from bellmark.language.families import FAMILIES, HEADS, Entry, _linear, _norm
from bellmark.language.tokenizers import BytePairTokenizer, byte_pair_from_tables
from bellmark.language.weights import Stored
from bellmark.networks.transformer import Architecture, LinearScaling, Llama3Scaling, rotary_frequencies

_BLOCK = "blk.{layer}."
_COMMON = [
    Entry("token_embd.weight", (".embedding",)),
    Entry("position_embd.weight", (".position",)),
    *_norm(_BLOCK + "attn_norm", ".layers.attention_norm"),
    *_linear(_BLOCK + "attn_output", ".layers.attention_output"),
    *_norm(_BLOCK + "ffn_norm", ".layers.feed_forward_norm"),
    *_linear(_BLOCK + "ffn_up", ".layers.up"),
    *_linear(_BLOCK + "ffn_down", ".layers.down"),
    *_norm("output_norm", ".norm"),
    Entry("output.weight", (".head",), True),
]
_APART = [
    *_linear(_BLOCK + "attn_q", ".layers.query"),
    *_linear(_BLOCK + "attn_k", ".layers.key"),
    *_linear(_BLOCK + "attn_v", ".layers.value"),
    *_norm(_BLOCK + "attn_q_norm", ".layers.query_norm"),
    *_norm(_BLOCK + "attn_k_norm", ".layers.key_norm"),
    *_linear(_BLOCK + "ffn_gate", ".layers.gate"),
]
_TOGETHER = _linear(_BLOCK + "attn_qkv", ".layers.query", ".layers.key", ".layers.value")


def entries(family: str) -> list[Entry]:
    """What a GGUF file of this family calls each array; all linear weights lie (out, in), GPT-2's too."""
    return [*_COMMON, *(_TOGETHER if family == "gpt2" else _APART)]


class GGUF:
    """An opened file: `family`, `architecture`, `tensors`, and on demand its tokenizer and chat template."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ImportError:
            raise BadInput("GGUF files need an extra: pip install 'bellmark[language]'") from None
        self.path = path
        try:
            self._reader = gguf.GGUFReader(path)
        except Exception as error:  # the package raises whatever NumPy does on a damaged file
            raise CorruptFile(f"{path} is no GGUF file: {' '.join(str(error).split())[:200]}") from None
        self._dequantize = gguf.quants.dequantize
        self.family = str(self.field("general.architecture"))
        if self.family not in FAMILIES:
            raise unknown(f"architecture in {path.name}", self.family, FAMILIES)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture = self._architecture()
        self.tensors = {
            name: Stored(tuple(int(n) for n in tensor.shape[::-1]), self._read(name, tensor))
            for name, tensor in self._tensors.items()
            if name != "rope_freqs.weight"
        }

    def field(self, name: str, default: Any = KeyError) -> Any:
        field = self._reader.get_field(name)
        if field is None:
            if default is KeyError:
                raise BadInput(f"{self.path.name} lacks {name}")
            return default
        return field.contents()

    def _architecture(self) -> Architecture:
        mine = lambda name, default=KeyError: self.field(f"{self.family}.{name}", default)  # noqa: E731
        width, heads = mine("embedding_length"), mine("attention.head_count")
        layered = self.family == "gpt2"
        epsilon = mine("attention.layer_norm_epsilon" if layered else "attention.layer_norm_rms_epsilon")
        plain = Architecture(
            vocabulary=int(self._tensors["token_embd.weight"].shape[1]),
            width=width,
            layers=mine("block_count"),
            heads=heads,
            key_value_heads=mine("attention.head_count_kv", heads),
            head_size=mine("attention.key_length", width // heads),
            feed_forward=mine("feed_forward_length"),
            context=mine("context_length"),
            # stored as float32; the models' own descriptions have the short decimal
            epsilon=float(str(np.float32(epsilon))),
            query_key_value_bias=layered or "blk.0.attn_q.bias" in self._tensors,
            attention_output_bias="blk.0.attn_output.bias" in self._tensors,
            feed_forward_bias="blk.0.ffn_up.bias" in self._tensors,
            query_key_norm="blk.0.attn_q_norm.weight" in self._tensors,
            tied=not any(name in self._tensors for name in HEADS),
        )
        if layered:
            return dataclasses.replace(plain, normalisation="layer", gate="none", positions="learned")
        turned = dataclasses.replace(plain, rotary_base=float(mine("rope.freq_base", 10_000.0)))
        return self._scaled(turned, mine("rope.scaling.type", "none"), mine("rope.scaling.factor", 0.0))

    def _scaled(self, architecture: Architecture, kind: str, factor: float) -> Architecture:
        if kind == "linear" and factor:
            return dataclasses.replace(architecture, rotary_scaling=LinearScaling(float(factor)))
        if kind not in ("none", "linear"):
            raise unknown(f"scaling of rotary positions in {self.path.name}", kind, ("none", "linear"))
        if "rope_freqs.weight" not in self._tensors:
            return architecture
        divisors = np.asarray(self._tensors["rope_freqs.weight"].data, np.float64)
        plain = rotary_frequencies(architecture)
        # Llama 3.1's and 3.2's own constants: the file holds what follows from them
        scaling = Llama3Scaling(float(divisors.max()), 1.0, 4.0, 8192)
        scaled = dataclasses.replace(architecture, rotary_scaling=scaling)
        if divisors.shape != plain.shape or not np.allclose(
            plain / divisors, rotary_frequencies(scaled), rtol=1e-5
        ):
            raise BadInput(f"{self.path.name} scales rotary positions in a way that is not Llama 3's")
        return scaled

    def _read(self, name: str, tensor: Any):
        heads = {"attn_q": self.architecture.heads, "attn_k": self.architecture.key_value_heads}
        part = name.split(".")[2] if name.startswith("blk.") else ""

        def read() -> np.ndarray:
            array = np.asarray(self._dequantize(tensor.data, tensor.tensor_type), np.float32)
            array = array.reshape(tuple(int(n) for n in tensor.shape[::-1]))
            if self.family == "llama" and part in heads:
                return unpermuted(array, heads[part])
            return array

        return read

    def tokenizer(self) -> BytePairTokenizer:
        model = self.field("tokenizer.ggml.model", None)
        if model != "gpt2":
            raise BadInput(
                f"{self.path.name} has a tokenizer of the kind {model!r}; allowed: 'gpt2' (byte pairs). "
                "Put the model's tokenizer.json beside the file to use that instead"
            )
        begins = self.field("tokenizer.ggml.add_bos_token", False)
        return byte_pair_from_tables(
            self.field("tokenizer.ggml.pre", "default"),
            self.field("tokenizer.ggml.tokens"),
            self.field("tokenizer.ggml.token_type"),
            self.field("tokenizer.ggml.merges", []),
            self.field("tokenizer.ggml.bos_token_id", None) if begins else None,
            self.field("tokenizer.ggml.eos_token_id", None),
        )


def unpermuted(array: np.ndarray, heads: int) -> np.ndarray:
    """q's or k's rows in the papers' order: within a head, all even rows of the file come first, then all odd ones."""
    rows = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)

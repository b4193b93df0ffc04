"""Families of open models: what their `config.json` says, and what their files call each array.

    gpt2     layer norm, learned positions, GELU, biases everywhere; its "Conv1D" weights lie (in, out)
    llama    RMS norm, rotary positions (Llama 3.1 scales them), SwiGLU; Llama 2, Llama 3, SmolLM2
    qwen2    llama with biases in q, k and v (Qwen2, Qwen2.5)
    qwen3    llama with norms on q and k and a head size of its own

All others store linear weights (out, in).  A file without a head means that the embedding serves for it.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.errors import BadInput, unknown
from bellmark.language.weights import Stored
from bellmark.networks.transformer import Architecture, LinearScaling, Llama3Scaling, Transformer

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")


class Entry(NamedTuple):
    """One tensor of a file: the arrays of `Transformer` that it holds, side by side along its outputs.

    `turned`: it lies (out, in), the arrays (in, out).  `{layer}` in the name stands for every layer.
    """

    name: str
    leaves: tuple[str, ...]
    turned: bool = False


def _linear(name: str, *leaves: str, turned: bool = True) -> list[Entry]:
    """A projection's weight and bias; biases that the architecture does not have are dropped later."""
    return [
        Entry(f"{name}.weight", tuple(f"{leaf}.weight" for leaf in leaves), turned),
        Entry(f"{name}.bias", tuple(f"{leaf}.bias" for leaf in leaves)),
    ]


def _norm(name: str, leaf: str) -> list[Entry]:
    return [Entry(f"{name}.weight", (f"{leaf}.weight",)), Entry(f"{name}.bias", (f"{leaf}.bias",))]


_LAYER = "model.layers.{layer}."
_LLAMA = [
    Entry("model.embed_tokens.weight", (".embedding",)),
    *_norm(_LAYER + "input_layernorm", ".layers.attention_norm"),
    *_linear(_LAYER + "self_attn.q_proj", ".layers.query"),
    *_linear(_LAYER + "self_attn.k_proj", ".layers.key"),
    *_linear(_LAYER + "self_attn.v_proj", ".layers.value"),
    *_norm(_LAYER + "self_attn.q_norm", ".layers.query_norm"),
    *_norm(_LAYER + "self_attn.k_norm", ".layers.key_norm"),
    *_linear(_LAYER + "self_attn.o_proj", ".layers.attention_output"),
    *_norm(_LAYER + "post_attention_layernorm", ".layers.feed_forward_norm"),
    *_linear(_LAYER + "mlp.gate_proj", ".layers.gate"),
    *_linear(_LAYER + "mlp.up_proj", ".layers.up"),
    *_linear(_LAYER + "mlp.down_proj", ".layers.down"),
    *_norm("model.norm", ".norm"),
    Entry("lm_head.weight", (".head",), True),
]
_BLOCK = "transformer.h.{layer}."
_GPT2 = [
    Entry("transformer.wte.weight", (".embedding",)),
    Entry("transformer.wpe.weight", (".position",)),
    *_norm(_BLOCK + "ln_1", ".layers.attention_norm"),
    *_linear(_BLOCK + "attn.c_attn", ".layers.query", ".layers.key", ".layers.value", turned=False),
    *_linear(_BLOCK + "attn.c_proj", ".layers.attention_output", turned=False),
    *_norm(_BLOCK + "ln_2", ".layers.feed_forward_norm"),
    *_linear(_BLOCK + "mlp.c_fc", ".layers.up", turned=False),
    *_linear(_BLOCK + "mlp.c_proj", ".layers.down", turned=False),
    *_norm("transformer.ln_f", ".norm"),
    Entry("lm_head.weight", (".head",), True),
]

ENTRIES = {"gpt2": _GPT2, "llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA}

HEADS = ("lm_head.weight", "output.weight")
"""What a separate head is called; files of tied models lack it or repeat the embedding there."""

_BUFFERS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""Constants that some files carry along with what was learned."""


def architecture_from(config: Mapping[str, Any]) -> tuple[str, Architecture]:
    """The family and the architecture that a `config.json` describes.

    Raises: `BadInput` naming what is unknown or missing, and what is allowed.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise unknown("model_type", str(family), FAMILIES)
    try:
        made = _gpt2(config) if family == "gpt2" else _llama(family, config)
    except KeyError as missing:
        raise BadInput(f"config.json lacks {missing.args[0]}, which every {family} model states") from None
    except (TypeError, AttributeError) as error:
        raise BadInput(f"config.json of this {family} model is malformed: {error}") from None
    return family, made


def _allowed(config: Mapping[str, Any], name: str, default: Any, *allowed: Any) -> None:
    value = config.get(name, default)
    if value not in allowed:
        shown = ", ".join(json.dumps(one) for one in allowed)
        raise BadInput(f"{name} is {json.dumps(value)} in config.json; allowed: {shown}")


def _llama(family: str, config: Mapping[str, Any]) -> Architecture:
    _allowed(config, "hidden_act", "silu", "silu", "swish")
    _allowed(config, "use_sliding_window", False, False, None)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    biased = bool(config.get("attention_bias", False))
    rope = dict(config.get("rope_parameters") or {})
    scaling = config.get("rope_scaling") or rope
    return Architecture(
        vocabulary=config["vocab_size"],
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or (128 if family == "qwen3" else width // heads),
        feed_forward=config["intermediate_size"],
        context=config.get("max_position_embeddings", 2048 if family == "llama" else 32768),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rotary_base=float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
        rotary_scaling=_scaling(scaling),
        query_key_value_bias=biased or family == "qwen2",
        attention_output_bias=biased and family != "qwen2",
        feed_forward_bias=bool(config.get("mlp_bias", False)),
        query_key_norm=family == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _scaling(scaling: Mapping[str, Any]) -> LinearScaling | Llama3Scaling | None:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(float(scaling["factor"]))
    if kind == "llama3":
        return Llama3Scaling(
            float(scaling["factor"]),
            float(scaling["low_freq_factor"]),
            float(scaling["high_freq_factor"]),
            int(scaling["original_max_position_embeddings"]),
        )
    raise unknown("scaling of rotary positions", str(kind), ("default", "linear", "llama3"))


def _gpt2(config: Mapping[str, Any]) -> Architecture:
    _allowed(config, "activation_function", "gelu_new", "gelu_new", "gelu_pytorch_tanh")
    _allowed(config, "scale_attn_weights", True, True)
    _allowed(config, "scale_attn_by_inverse_layer_idx", False, False)
    _allowed(config, "add_cross_attention", False, False)
    width, heads = config["n_embd"], config["n_head"]
    return Architecture(
        vocabulary=config["vocab_size"],
        width=width,
        layers=config["n_layer"],
        heads=heads,
        key_value_heads=heads,
        head_size=width // heads,
        feed_forward=config.get("n_inner") or 4 * width,
        context=config["n_positions"],
        normalisation="layer",
        epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        gate="none",
        positions="learned",
        query_key_value_bias=True,
        attention_output_bias=True,
        feed_forward_bias=True,
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def family_of(architecture: Architecture) -> str:
    """The family that can express an architecture: under its name a model made here is saved for others to load."""
    a = architecture
    for family in FAMILIES:
        try:
            described = architecture_from(config_of(family, a))[1]
        except BadInput:
            continue
        if described == a:
            return family
    raise BadInput(f"no family of {', '.join(FAMILIES)} has this architecture, so it cannot be saved: {a}")


def config_of(family: str, architecture: Architecture) -> dict[str, Any]:
    """`config.json` of an architecture, the inverse of `architecture_from`."""
    a = architecture
    if family == "gpt2":
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": a.vocabulary,
            "n_embd": a.width,
            "n_layer": a.layers,
            "n_head": a.heads,
            "n_inner": a.feed_forward,
            "n_positions": a.context,
            "layer_norm_epsilon": a.epsilon,
            "activation_function": "gelu_new",
            "tie_word_embeddings": a.tied,
        }
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    scaling: dict[str, Any] | None = None
    if isinstance(a.rotary_scaling, LinearScaling):
        scaling = {"rope_type": "linear", "factor": a.rotary_scaling.factor}
    elif isinstance(a.rotary_scaling, Llama3Scaling):
        scaling = {
            "rope_type": "llama3",
            "factor": a.rotary_scaling.factor,
            "low_freq_factor": a.rotary_scaling.low_frequency_factor,
            "high_freq_factor": a.rotary_scaling.high_frequency_factor,
            "original_max_position_embeddings": a.rotary_scaling.original_context,
        }
    return {
        "model_type": family,
        "architectures": [f"{names[family]}ForCausalLM"],
        "vocab_size": a.vocabulary,
        "hidden_size": a.width,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.key_value_heads,
        "head_dim": a.head_size,
        "intermediate_size": a.feed_forward,
        "max_position_embeddings": a.context,
        "rms_norm_eps": a.epsilon,
        "hidden_act": "silu",
        "rope_theta": a.rotary_base,
        "rope_scaling": scaling,
        "attention_bias": a.attention_output_bias,
        "mlp_bias": a.feed_forward_bias,
        "tie_word_embeddings": a.tied,
    }


def _template(architecture: Architecture) -> tuple[dict[str, Any], Any]:
    """Every array of the model as a shape, by its path, and the tree that they make."""
    shapes = jax.eval_shape(lambda key: Transformer.start(architecture, key), jax.random.key(0))
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}, structure


def _wanted(entries: list[Entry], shapes: Mapping[str, Any]) -> list[Entry]:
    return [entry for entry in entries if entry.leaves[0] in shapes]


def file_shape(entry: Entry, shapes: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a file has to have there."""
    parts = [shapes[leaf].shape[1 if "{layer}" in entry.name else 0 :] for leaf in entry.leaves]
    shape = (*parts[0][:-1], sum(part[-1] for part in parts))
    return shape[::-1] if entry.turned else shape


def assemble(
    architecture: Architecture,
    entries: list[Entry],
    tensors: Mapping[str, Stored],
    dtype: Any,
    source: str,
) -> Transformer:
    """The model that `tensors` hold.

    Raises: `BadInput` naming the first tensor that is missing, does not fit (with both shapes) or is not expected.
    """
    if architecture.tied is False and not any(name in tensors for name in HEADS):
        architecture = dataclasses.replace(architecture, tied=True)
    shapes, structure = _template(architecture)
    wanted = _wanted(entries, shapes)
    leaves: dict[str, np.ndarray] = {}
    seen = set()
    for entry in wanted:
        layered = "{layer}" in entry.name
        expected = file_shape(entry, shapes)
        # last axis of every leaf, where the file's tensor is cut
        cuts = np.cumsum([shapes[leaf].shape[-1] for leaf in entry.leaves])[:-1]
        for layer in range(architecture.layers if layered else 1):
            name = entry.name.format(layer=layer)
            seen.add(name)
            if name not in tensors:
                raise BadInput(f"{source} lacks {name}, {list(expected)} in this architecture")
            if tensors[name].shape != expected:
                raise BadInput(
                    f"{name} is {list(tensors[name].shape)} in {source}, but config.json says {list(expected)}"
                )
            array = tensors[name].read()
            array = array.T if entry.turned else array
            for leaf, part in zip(entry.leaves, np.split(array, cuts, axis=-1), strict=True):
                if layered:
                    leaves.setdefault(leaf, np.empty(shapes[leaf].shape, dtype))[layer] = part
                else:
                    leaves[leaf] = np.asarray(part, dtype)
    _check_surplus(tensors, seen, architecture, leaves, source)
    return structure.unflatten([jnp.asarray(leaves[path]) for path in shapes])


def _check_surplus(tensors, seen, architecture, leaves, source) -> None:
    for name in sorted(tensors.keys() - seen):
        if name.endswith(_BUFFERS):
            continue
        if name in HEADS and architecture.tied:
            head = tensors[name]
            same = head.shape == leaves[".embedding"].shape
            if same and np.array_equal(
                np.asarray(head.read(), leaves[".embedding"].dtype), leaves[".embedding"]
            ):
                continue
            raise BadInput(
                f"{source} holds {name} {list(head.shape)}, but config.json ties it to the embedding "
                f"{list(leaves['.embedding'].shape)} and the two differ; set tie_word_embeddings to false"
            )
        raise BadInput(
            f"{source} holds {name} {list(tensors[name].shape)}, which this architecture does not have"
        )


def disassemble(transformer: Transformer, entries: list[Entry]) -> dict[str, Any]:
    """Every tensor of the file, by name, as a function that makes it: the inverse of `assemble`."""
    paths, _ = jax.tree_util.tree_flatten_with_path(transformer)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in paths}

    def maker(entry: Entry, layer: int | None):
        def make() -> np.ndarray:
            parts = [
                np.asarray(leaves[leaf] if layer is None else leaves[leaf][layer]) for leaf in entry.leaves
            ]
            array = np.concatenate(parts, axis=-1)
            return np.ascontiguousarray(array.T) if entry.turned else array

        return make

    made: dict[str, Any] = {}
    for entry in _wanted(entries, leaves):
        if "{layer}" in entry.name:
            for layer in range(transformer.architecture.layers):
                made[entry.name.format(layer=layer)] = maker(entry, layer)
        else:
            made[entry.name] = maker(entry, None)
    return made

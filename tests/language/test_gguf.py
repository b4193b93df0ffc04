"""GGUF files of every family, written here with the package `gguf` as llama.cpp's converter lays them out."""

import dataclasses

import gguf
import jax
import numpy as np
import pytest

import bellmark as bm
from bellmark.errors import BadInput
from bellmark.language import Architecture, LanguageModel, LinearScaling, Llama3Scaling
from bellmark.language.families import disassemble
from bellmark.language.gguf_file import entries, unpermuted
from bellmark.networks.transformer import rotary_frequencies

LLAMA = Architecture(
    vocabulary=40,
    width=32,
    layers=2,
    heads=2,
    key_value_heads=1,
    head_size=16,
    feed_forward=32,
    context=64,
    rotary_base=500_000.0,
    tied=False,
)
BIASED = dict.fromkeys(("query_key_value_bias", "attention_output_bias", "feed_forward_bias"), True)
ARCHITECTURES = {
    "llama": LLAMA,
    "llama3-scaled": dataclasses.replace(
        LLAMA, rotary_scaling=Llama3Scaling(32.0, 1.0, 4.0, 8192), tied=True
    ),
    "linear-scaled": dataclasses.replace(LLAMA, rotary_scaling=LinearScaling(4.0)),
    "qwen2": dataclasses.replace(LLAMA, query_key_value_bias=True, epsilon=1e-6),
    "qwen3": dataclasses.replace(LLAMA, query_key_norm=True, head_size=20, tied=True),
    "gpt2": dataclasses.replace(
        LLAMA,
        **BIASED,
        key_value_heads=2,
        normalisation="layer",
        gate="none",
        positions="learned",
        rotary_base=10_000.0,
        tied=True,
    ),
}
WORDS = ["<s>", "</s>", "<0>", "1", "2", "3", "+", "12", "Ġ", *(chr(0x4E00 + i) for i in range(31))]
KINDS = [3, 3, 4] + [1] * 37
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 9))


def permuted(array, heads):
    """As the converter does to q and k of Llama: a head's two halves interleaved."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def write(path, model, **fields):
    """The model as a GGUF file; `fields` replace or add what the header says."""
    a, family = model.architecture, model.family
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(a.context)
    writer.add_embedding_length(a.width)
    writer.add_block_count(a.layers)
    writer.add_feed_forward_length(a.feed_forward)
    writer.add_head_count(a.heads)
    writer.add_head_count_kv(a.key_value_heads)
    if family == "gpt2":
        writer.add_layer_norm_eps(a.epsilon)
    else:
        writer.add_layer_norm_rms_eps(a.epsilon)
        writer.add_rope_freq_base(a.rotary_base)
        writer.add_key_length(a.head_size)
    writer.add_tokenizer_model(fields.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(fields.get("pre", "smollm"))
    writer.add_token_list(WORDS)
    writer.add_token_types(KINDS)
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(fields.get("begins", False))
    if isinstance(a.rotary_scaling, LinearScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(a.rotary_scaling.factor)
    if isinstance(a.rotary_scaling, Llama3Scaling):
        plain = rotary_frequencies(dataclasses.replace(a, rotary_scaling=None))
        writer.add_tensor("rope_freqs.weight", (plain / rotary_frequencies(a)).astype(np.float32))
    for name, make in disassemble(model.transformer, entries(family)).items():
        array = make()
        if family == "llama" and ("attn_q." in name or "attn_k." in name):
            array = permuted(array, a.heads if "attn_q." in name else a.key_value_heads)
        if "quantised" in fields and array.ndim == 2:
            kind = gguf.GGMLQuantizationType[fields["quantised"]]
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    for write_part in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
    ):
        write_part()
    writer.close()
    return path


def model_of(name):
    model = LanguageModel.start(ARCHITECTURES[name], seed=3)
    leaves, structure = jax.tree.flatten(model.transformer)
    rng = np.random.default_rng(1)
    moved = [leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32) for leaf in leaves]
    return model.with_transformer(structure.unflatten(moved))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_model_comes_back(name, tmp_path):
    model = model_of(name)
    again = bm.language.load(write(tmp_path / "model.gguf", model))
    assert again.family == model.family
    assert again.architecture == model.architecture
    jax.tree.map(np.testing.assert_array_equal, again.transformer, model.transformer)
    assert again.end_tokens == (1,)


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q4_0", 4), ("F16", 11)])
def test_quantised_weights_are_near(kind, bits, tmp_path):
    model = model_of("llama")
    again = bm.language.load(write(tmp_path / "model.gguf", model, quantised=kind))

    def near(got, want):
        # a block's largest weight sets its step; of 2^bits levels, half lie on either side
        np.testing.assert_allclose(got, want, atol=1.01 * np.abs(want).max() * 2.0 ** (1 - bits))

    jax.tree.map(near, again.transformer, model.transformer)


def test_permutation_by_hand():
    """Two heads of four rows: 0 2 1 3 is how the file has them."""
    rows = np.array([0, 2, 1, 3, 10, 12, 11, 13])[:, None]
    np.testing.assert_array_equal(unpermuted(rows, 2)[:, 0], [0, 1, 2, 3, 10, 11, 12, 13])


def test_its_tokenizer(tmp_path):
    model = bm.language.load(write(tmp_path / "model.gguf", model_of("llama")))
    assert model.encode("12+ 3") == [3, 4, 6, 8, 5]  # digits stand alone, so "12" is never merged
    assert model.encode("1</s>") == [3, 1]


def test_a_beginning_is_added_where_the_file_says_so(tmp_path):
    model = bm.language.load(write(tmp_path / "model.gguf", model_of("llama"), begins=True, pre="gpt-2"))
    assert model.encode("12+") == [0, 7, 6]
    assert model.encode("12+", special=False) == [7, 6]
    assert model.decode([0, 7, 6, 1]) == "12+"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pre": "chameleon"}, "cuts texts as 'chameleon' does; allowed: smollm, gpt-2"),
        ({"tokenizer": "bert"}, r"a tokenizer of the kind 'bert'.*tokenizer\.json beside the file"),
    ],
)
def test_tokenizers_that_are_not_known(fields, words, tmp_path):
    with pytest.raises(BadInput, match=words):
        bm.language.load(write(tmp_path / "model.gguf", model_of("llama"), **fields))

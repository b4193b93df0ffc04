"""Wrong files and wrong questions: one clear error each."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bellmark as bm
from bellmark.errors import BadInput, CorruptFile
from bellmark.language import Architecture, ByteTokenizer, CharacterTokenizer, LanguageModel
from bellmark.language.families import architecture_from

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def folder(tmp_path):
    """A copy of the llama with a head of its own, to be spoilt."""
    shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    return tmp_path / "model"


def change(folder, **tensors):
    """The folder with tensors replaced, or removed where None is given."""
    path = folder / "model.safetensors"
    held = {**load_file(path), **{name.replace("__", "."): value for name, value in tensors.items()}}
    save_file({name: value for name, value in held.items() if value is not None}, path)


def configure(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(folder, words, error=BadInput):
    with pytest.raises(error, match=words):
        bm.language.load(folder)


def test_a_missing_tensor_is_named(folder):
    change(folder, model__layers__1__mlp__up_proj__weight=None)
    refused(folder, r"lacks model.layers.1.mlp.up_proj.weight, \[24, 16\]")


def test_a_misfit_is_named_with_both_shapes(folder):
    change(folder, model__layers__0__self_attn__k_proj__weight=np.zeros((16, 16), np.float32))
    refused(folder, r"model.layers.0.self_attn.k_proj.weight is \[16, 16\].*says \[8, 16\]")


def test_a_surplus_tensor_is_named(folder):
    change(folder, model__layers__0__self_attn__q_proj__bias=np.zeros(16, np.float32))
    refused(
        folder, r"holds model.layers.0.self_attn.q_proj.bias \[16\], which this architecture does not have"
    )


def test_constants_that_some_files_carry_are_no_surplus(folder):
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=np.zeros(2, np.float32))
    bm.language.load(folder)


def test_without_a_head_the_embedding_serves(folder):
    """Even where config.json forgets to say so."""
    change(folder, lm_head__weight=None)
    model = bm.language.load(folder)
    assert model.transformer.head is None
    assert model.architecture.tied


def test_a_head_that_should_be_tied_and_is_not_the_embedding(folder):
    configure(folder, tie_word_embeddings=True)
    refused(folder, "holds lm_head.weight .* the two differ")
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, lm_head__weight=embedding)
    assert bm.language.load(folder).transformer.head is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"model_type": "lama"},
            "unknown model_type 'lama'.*did you mean 'llama'.*allowed: gpt2, llama, qwen2",
        ),
        ({"hidden_act": "relu"}, 'hidden_act is "relu" in config.json; allowed: "silu"'),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "unknown scaling of rotary positions 'yarn'"),
        ({"num_key_value_heads": 3}, "heads is 4; allowed: a multiple of key_value_heads, 3"),
        ({"hidden_size": "wide"}, "config.json of this llama model is malformed"),
    ],
)
def test_unknown_architectures(folder, fields, words):
    configure(folder, **fields)
    refused(folder, words)


def test_descriptions_that_lack_something():
    with pytest.raises(BadInput, match=r"config\.json lacks hidden_size"):
        architecture_from({"model_type": "llama", "num_attention_heads": 2})


def test_files_cut_short_or_not_of_this_kind(folder, tmp_path):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(folder, "lies outside the file; was it copied whole", CorruptFile)
    path.write_bytes(b"not a model")
    refused(folder, "is no safetensors file", CorruptFile)
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    refused(folder, r"neither model.safetensors nor .*it holds pytorch_model.bin")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    refused(tmp_path / "broken.gguf", "broken.gguf is no GGUF file", CorruptFile)
    refused(tmp_path / "empty", "is neither a folder, nor a GGUF file, nor a packaged model")


def test_an_index_that_points_elsewhere(folder):
    bm.language.load(folder).save(folder, shard_bytes=4000)
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())
    where["weight_map"]["lm_head.weight"] = "../../secret.safetensors"
    index.write_text(json.dumps(where))
    refused(folder, "points out of its folder", CorruptFile)
    where["weight_map"]["lm_head.weight"] = "model-00099-of-00099.safetensors"
    index.write_text(json.dumps(where))
    refused(folder, "lacks model-00099-of-00099.safetensors")


def test_tokenizers_that_do_not_fit(folder):
    (folder / "bellmark_tokenizer.json").write_text('{"kind": "bytes"}')
    refused(folder, "the tokenizer has tokens up to 256; the model knows 0 to 42")
    (folder / "bellmark_tokenizer.json").write_text('{"kind": "syllables"}')
    refused(folder, "describes no tokenizer; allowed kinds: bytes, characters", CorruptFile)
    (folder / "bellmark_tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, "tokenizer.json is no tokenizer", CorruptFile)


def test_an_end_that_the_tokenizer_lacks(folder):
    tokenizer = bm.language.load(GOLDEN / "llama-tiny.gguf").tokenizer
    tokenizer.save(folder)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    refused(folder, r"lacks '<\|im_end\|>', the end of a text")


@pytest.fixture(scope="module")
def tiny():
    return LanguageModel.start(Architecture(12, 8, 1, 2, 1, 4, 8, 16), CharacterTokenizer("0123456789+"))


@pytest.mark.parametrize(
    ("prompts", "fields", "words"),
    [
        (
            ["1+1"],
            {"max_new_tokens": 14},
            "prompt 0 has 3 tokens and max_new_tokens is 14: together more than the 16",
        ),
        (["1", ""], {}, "prompt 1 has no tokens"),
        (["1x"], {}, "'x' in '1x' is no character of this tokenizer; allowed: 0123456789"),
        ([[1, 12]], {}, "token 12 was given; this model knows 0 to 11"),
        ([[1.5]], {}, "prompt 0 is neither a text nor a list of tokens"),
        (["1"], {"temperature": -1.0}, "temperature is -1.0; allowed: 0 or more"),
        (["1"], {"temperature": float("nan")}, "temperature is nan"),
        (["1"], {"top_k": 0}, "top_k is 0; allowed: 1 or more"),
        (["1"], {"top_p": 0.0}, "top_p is 0.0; allowed: above 0, at most 1"),
        (["1"], {"min_p": 1.5}, "min_p is 1.5"),
        (["1"], {"group": 0}, "group is 0; allowed: 1 or more"),
        (["1"], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (["1"], {"stop": [""]}, "a stop text is empty"),
        (["1"], {"seed": -1}, "seed is -1"),
    ],
)
def test_questions_that_cannot_be_answered(tiny, prompts, fields, words):
    with pytest.raises(BadInput, match=words):
        tiny.sample(prompts, **{"max_new_tokens": 4, **fields})


def test_tokens_that_are_no_tokens(tiny):
    with pytest.raises(BadInput, match=r"tokens are float64 \[1, 2\]; allowed: whole numbers \[B, T\]"):
        tiny.logits(np.zeros((1, 2)))
    with pytest.raises(BadInput, match="token -1 was given"):
        tiny.logits(np.array([[0, -1]]))


def test_models_without_a_tokenizer_or_a_template(tiny):
    bare = LanguageModel(tiny.transformer)
    with pytest.raises(BadInput, match="no tokenizer; give prompts as lists of tokens"):
        bare.sample(["1"])
    with pytest.raises(BadInput, match="no chat template"):
        tiny.chat_prompt("hello")
    with pytest.raises(BadInput, match="stop texts need a tokenizer"):
        bare.sample([[1]], stop=["2"])


def test_own_tokenizers(tmp_path):
    for tokenizer, text in ((ByteTokenizer(), "wörld 1+1\n"), (CharacterTokenizer("ab+"), "abba+")):
        assert tokenizer.decode([*tokenizer.encode(text), tokenizer.end]) == text
        model = LanguageModel.start(Architecture(257, 8, 1, 2, 1, 4, 8, 16), tokenizer)
        model.save(tmp_path)
        again = bm.language.load(tmp_path)
        assert again.encode(text) == tokenizer.encode(text)
        assert again.end_tokens == (tokenizer.end,)
    with pytest.raises(BadInput, match="each of them once"):
        CharacterTokenizer("aa")

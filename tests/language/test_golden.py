"""Models that `transformers` wrote, with the logits that it computed (see make_golden.py)."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import bellmark as bm
from bellmark.language.families import ENTRIES, architecture_from, config_of, disassemble
from bellmark.networks.transformer import Llama3Scaling

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("gpt2", "llama", "llama-scaled", "llama-linear-biased", "qwen2", "qwen3")


def golden(name):
    arrays = np.load(GOLDEN / name / "logits.npz")
    return arrays["tokens"], arrays["logits"]


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return bm.language.load(GOLDEN / name)


def test_logits_are_those_of_transformers(name, model):
    """Float32 here, float64 there: logits of size 5 agree to a few units of float32 rounding."""
    tokens, want = golden(name)
    got = model.logits(tokens)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_what_is_saved_loads_again_with_equal_logits(name, model, tmp_path):
    model.save(tmp_path / "whole")
    again = bm.language.load(tmp_path / "whole")
    tokens, _ = golden(name)
    np.testing.assert_array_equal(again.logits(tokens), model.logits(tokens))
    assert again.architecture == model.architecture
    assert again.end_tokens == model.end_tokens == (2,)
    assert (again.family, again.transformer.head is None) == (model.family, model.transformer.head is None)


def test_files_say_the_same_as_those_of_transformers(name, model):
    """Names, shapes and values of every tensor, and the architecture from our own description."""
    from safetensors.numpy import load_file

    theirs = load_file(GOLDEN / name / "model.safetensors")
    ours = {tensor: make() for tensor, make in disassemble(model.transformer, ENTRIES[model.family]).items()}
    assert ours.keys() == theirs.keys()
    for tensor, value in ours.items():
        np.testing.assert_array_equal(value, theirs[tensor], err_msg=tensor)
    described = architecture_from(config_of(model.family, model.architecture))
    assert described == (model.family, model.architecture)


def test_several_files_are_one_model(tmp_path):
    model = bm.language.load(GOLDEN / "qwen3")
    model.save(tmp_path)
    model.save(tmp_path, shard_bytes=3000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert not (tmp_path / "model.safetensors").exists()
    tokens, _ = golden("qwen3")
    np.testing.assert_array_equal(bm.language.load(tmp_path).logits(tokens), model.logits(tokens))


def test_gguf_holds_the_same_llama(tmp_path):
    """Its q and k rows are permuted there; and a folder with nothing but such a file is a model too."""
    tokens, want = golden("llama")
    model = bm.language.load(GOLDEN / "llama-tiny.gguf")
    np.testing.assert_allclose(model.logits(tokens), want, atol=2e-5)
    assert model.architecture == bm.language.load(GOLDEN / "llama").architecture
    assert model.end_tokens == (2,)
    assert model.encode("ABC") == [3, 4, 5]
    assert model.encode("A</s>") == [3, 2]
    assert model.decode([1, 3, 2]) == "A"
    shutil.copy(GOLDEN / "llama-tiny.gguf", tmp_path)
    assert bm.language.load(tmp_path).architecture == model.architecture


def test_bfloat16(tmp_path):
    tokens, want = golden("llama")
    model = bm.language.load(GOLDEN / "llama", dtype="bfloat16")
    logits = np.asarray(model.logits(tokens))
    assert np.sqrt(np.mean((logits - want) ** 2)) < 0.05 * want.std()
    model.save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.7 * (
        GOLDEN / "llama" / "model.safetensors"
    ).stat().st_size
    np.testing.assert_array_equal(bm.language.load(tmp_path, dtype="bfloat16").logits(tokens), logits)


def test_older_spellings_of_the_same_description():
    """rope_theta and rope_scaling stood apart before transformers 5; both are read."""
    config = config_of("llama", bm.language.load(GOLDEN / "llama-scaled").architecture)
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 16)
    assert config["rope_theta"] == 500.0
    assert architecture_from(config)[1].rotary_scaling == scaling
    together = {name: value for name, value in config.items() if not name.startswith("rope")}
    together["rope_parameters"] = {"rope_theta": 500.0, **config["rope_scaling"]}
    assert architecture_from(together) == architecture_from(config)
    older = {**config, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert architecture_from(older)[1].rotary_scaling.factor == 2.0

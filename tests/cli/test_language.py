"""`bellmark language`: answers on the screen and in a file, a conversation, and one line for what cannot be done."""

import io
import json

import numpy as np
import pytest

from bellmark.cli.main import run
from bellmark.errors import BadInput
from bellmark.language import Architecture, CharacterTokenizer, LanguageModel

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}={% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    start = LanguageModel.start(Architecture(14, 8, 1, 2, 1, 4, 8, 64), CharacterTokenizer("0123456789+=?"))
    LanguageModel(start.transformer, start.tokenizer, chat_template=TEMPLATE).save(path)
    return str(path)


def test_sample_prints_and_keeps_what_the_model_answers(folder, tmp_path, capsys):
    from bellmark.language import load

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1+1"}\n\n{"prompt": "2"}\n')
    output = tmp_path / "answers.jsonl"
    words = f"language sample --model {folder} --prompt 7+ --prompts {tmp_path}/prompts.jsonl --group 2"
    assert run([*words.split(), "--max-new-tokens", "6", "--seed", "3", "--output", str(output)]) == 0
    want = load(folder).sample(["7+", "1+1", "2"], max_new_tokens=6, group=2, seed=3)
    printed = capsys.readouterr().out
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["prompt"] for record in records] == ["7+", "7+", "1+1", "1+1", "2", "2"]
    for record, answer in zip(records, want, strict=True):
        assert record["text"] == answer.text
        assert answer.text in printed
        assert record["tokens"] == answer.tokens.tolist()
        assert record["ended"] == answer.ended
        np.testing.assert_allclose(record["log_probs"], answer.log_probs, atol=1e-5)


def test_chat_shows_the_answers_of_the_conversation_so_far(folder, capsys, monkeypatch):
    from bellmark.language import load

    monkeypatch.setattr("sys.stdin", io.StringIO("1+1\n2\n\nnever read\n"))
    assert run(["language", "chat", "--model", folder, "--max-new-tokens", "6"]) == 0
    first, second = capsys.readouterr().out.split("\n")[:2]
    model = load(folder)
    messages = [{"role": "user", "content": "1+1"}]
    assert model.chat_prompt(messages) == model.encode("1+1=")
    assert first == model.sample("1+1=", max_new_tokens=6, group=1).texts[0]
    assert second == model.sample([model.encode(f"1+1{first}2=")], max_new_tokens=6, group=1, seed=1).texts[0]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("language smaple", "unknown language command 'smaple'.*did you mean 'sample'"),
        ("language sample --prompt 1", "--model"),
        ("language sample --model nowhere --prompt 1", "nowhere is neither a folder, nor a GGUF file"),
        ("language sample --model FOLDER", "a prompt is missing; give --prompt TEXT or --prompts FILE"),
        ("language sample --model FOLDER --prompts /nowhere.jsonl", "nowhere.jsonl cannot be read"),
        ("language sample --model FOLDER --prompt 1x", "'x' in '1x' is no character"),
        ("language sample --model FOLDER --prompt 1 --temperature -1", "temperature is -1.0; allowed"),
        ("language sample --model FOLDER --prompt 1 --group 0", "group is 0; allowed"),
        ("language chat --modell x", "--model"),
    ],
)
def test_bad_input_is_one_line(words, error, folder):
    with pytest.raises(BadInput, match=error):
        run(words.replace("FOLDER", folder).split())


def test_prompts_that_are_none(folder, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1"}\n{"question": "2"}\n')
    with pytest.raises(BadInput, match=r"line 2 of .*p\.jsonl is"):
        run(["language", "sample", "--model", folder, "--prompts", str(tmp_path / "p.jsonl")])
    assert run(["language", "--help"]) == 0

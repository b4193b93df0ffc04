"""Makes `golden/`: tiny random models of every family, written by `transformers`, with its logits.

    python -m venv .venv-language && .venv-language/bin/pip install torch==2.13.0 transformers==5.23.0 gguf==0.19.0
    .venv-language/bin/python tests/language/make_golden.py

Every folder holds what `save_pretrained` wrote, and `logits.npz`: tokens [2, 11], and float32 logits of the model in
float64 arithmetic.  Weights are drawn so that every part matters: biases and norms are not at their starting values.
`llama-tiny.gguf` is `llama` in llama.cpp's format, its q and k rows permuted as that project's converter does.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

HERE = Path(__file__).parent / "golden"
SIZES = {
    "vocab_size": 43,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# an original context of 16 puts the four frequencies of head size 8 on both sides of both bounds
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=43, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
        )
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "llama-scaled": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            head_dim=8,
            tie_word_embeddings=True,
            rope_parameters={"rope_theta": 500.0, **SCALED},
        )
    ),
    "llama-linear-biased": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
            rope_parameters={"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0},
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=10, tie_word_embeddings=False)),
}


def shaken(model):
    """Every parameter moved away from 0 and 1, where mistakes hide."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() > 1 else 0.2
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def tokens():
    return np.random.default_rng(5).integers(0, 43, (2, 11))


def logits(model):
    with torch.no_grad():
        return model.double().eval()(torch.from_numpy(tokens())).logits.float().numpy()


def write_gguf(model, path):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    words = ["<unk>", "<s>", "</s>", *(chr(ord("A") + i) for i in range(40))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * 40)
    writer.add_token_merges([])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        for long, short in names.items():
            name = name.replace(long, short)
        name = name.replace("model.layers", "blk")
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for part, count in heads.items():
            if part in name:
                halves = array.reshape(count, 2, array.shape[0] // count // 2, array.shape[1])
                array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = shaken(make())
        folder = HERE / name
        model.save_pretrained(folder)
        np.savez_compressed(folder / "logits.npz", tokens=tokens(), logits=logits(model))
        if name == "llama":
            write_gguf(model.float(), HERE / "llama-tiny.gguf")
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gguf": "0.19.0",
    }
    (HERE / "provenance.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()

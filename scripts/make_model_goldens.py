#!/usr/bin/env python3
"""Writes tests/models: tiny random models of some families with the logits that transformers computes in f32.

    pip install torch transformers
    python scripts/make_model_goldens.py [FOLDER]

The tests compare fuselm's logits with these. Made with transformers 5.24.
"""

import pathlib
import sys

import torch
import transformers as t
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "models"
SIZES = dict(vocab_size=41, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, head_dim=8, initializer_range=0.2)
GEMMA3 = dict(SIZES, sliding_window=5, query_pre_attn_scalar=12, layer_types=["sliding_attention", "full_attention"] * 2,
              num_hidden_layers=4, pad_token_id=0, rope_parameters={
                  "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                  "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})
VISION = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=4, patch_size=2)
MOE = dict(SIZES, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12)
NEOX = {k: v for k, v in SIZES.items() if k not in ("head_dim", "num_key_value_heads")} | {"hidden_size": 32}
GPT2 = dict(vocab_size=41, n_embd=24, n_layer=3, n_head=4, n_positions=64, initializer_range=0.2)
MODELS = {
    "gpt2": t.GPT2Config(**GPT2),
    "gpt2-by-depth": t.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False, n_inner=40,
                                  activation_function="gelu", tie_word_embeddings=False),
    "gpt-neox": t.GPTNeoXConfig(**NEOX),
    "gpt-neox-serial": t.GPTNeoXConfig(**NEOX, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new",
                                       tie_word_embeddings=True, rope_parameters={
                                           "rope_type": "linear", "factor": 2.0, "rope_theta": 500.0,
                                           "partial_rotary_factor": 0.5}),
    "qwen3-moe": t.Qwen3MoeConfig(**MOE, norm_topk_prob=True, mlp_only_layers=[1]),
    "qwen3-moe-probabilities": t.Qwen3MoeConfig(**MOE, decoder_sparse_step=2, use_sliding_window=True, sliding_window=5),
    "gemma3": t.Gemma3TextConfig(**GEMMA3),
    "gemma3-images": t.Gemma3Config(text_config=t.Gemma3TextConfig(**GEMMA3), vision_config=t.SiglipVisionConfig(**VISION),
                                    mm_tokens_per_image=1, boi_token_index=38, eoi_token_index=39, image_token_index=40),
}


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, config in MODELS.items():
        torch.manual_seed(7)
        config._attn_implementation = "eager"
        kind = t.AutoModelForImageTextToText if name.endswith("images") else t.AutoModelForCausalLM
        model = kind.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Norms and biases leave their defaults; no more digits than bf16 holds.
                parameter.copy_((parameter + torch.randn_like(parameter) * 0.1).bfloat16())
            ids = torch.randint(1, 38, (2, 21))
            logits = model(ids, use_cache=False).logits
        model.bfloat16().save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        save_file({"ids": ids, "logits": logits.contiguous()}, folder / name / "expected.safetensors")
        print(name, sum(p.numel() for p in model.parameters()), f"{logits.abs().max():.2f}")


if __name__ == "__main__":
    main()

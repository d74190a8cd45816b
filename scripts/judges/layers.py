#!/usr/bin/env python3
"""Compares configurations after `slices` with transformers 5.24.

    python scripts/judges/layers.py [--program target/release/fuselm]

Tiny random models whose settings depend on layers: the output of slices loads in transformers, and gives the
logits of the source with its layers rearranged by hand; what cannot follow the layers is refused. Merges of
models with buffers, further layers, other spellings of names, numbers of Python. Needs torch and transformers.
"""

from __future__ import annotations

import copy
import json
import math

from common import Judge, load, model, quiet, save, tokenizer
from configs import SIZE, SIZES, changed, shake


def slicing(judge):
    """Slices of models whose settings depend on layers; the ranges are layers of the output."""
    import transformers as t

    s = {**SIZES, "head_dim": 8}
    f = dict(s, intermediate_size_mlp=48, num_local_experts=2, num_experts_per_tok=1, attention_chunk_size=16)
    moe = dict(s, moe_intermediate_size=16, num_experts=2, num_experts_per_tok=1)
    deep = dict(SIZES, num_key_value_heads=4, moe_intermediate_size=16, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4,
                qk_nope_head_dim=4, v_head_dim=4, n_routed_experts=2, num_experts_per_tok=1, n_shared_experts=1,
                n_group=1, topk_group=1, pad_token_id=0)
    nemotron = dict(vocab_size=SIZE, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                    intermediate_size=48, mamba_num_heads=8, mamba_head_dim=8, n_groups=2, ssm_state_size=8, chunk_size=8,
                    n_routed_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, n_group=1, topk_group=1,
                    moe_shared_expert_intermediate_size=16, layers_block_type=["mamba", "attention", "mamba", "moe"])
    cases = [
        ("smollm3", t.SmolLM3Config(**SIZES, pad_token_id=0), [(0, 3), (1, 4)], None),
        ("smollm3 without lists", t.SmolLM3Config(**SIZES, pad_token_id=0), [(0, 3), (1, 4)], ["no_rope_layers", "layer_types"]),
        ("smollm3, fewer", t.SmolLM3Config(**SIZES, pad_token_id=0), [(1, 3)], None),
        ("llama4", t.Llama4TextConfig(**f, interleave_moe_layer_step=2), [(0, 4), (0, 4)], None),
        ("llama4 without lists", t.Llama4TextConfig(**f, interleave_moe_layer_step=2), [(1, 4), (0, 2)],
         ["no_rope_layers", "layer_types"]),
        ("gemma2 without lists", t.Gemma2Config(**s, sliding_window=3), [(0, 3), (1, 4)], ["layer_types"]),
        ("gemma3 text", t.Gemma3TextConfig(**{**s, "num_hidden_layers": 6}, sliding_window=3), [(0, 5), (1, 6)], None),
        ("gemma3 text without lists", t.Gemma3TextConfig(**{**s, "num_hidden_layers": 6}, sliding_window=3), [(0, 5), (1, 6)],
         ["layer_types"]),
        ("qwen3 moe, dense layers", t.Qwen3MoeConfig(**moe, mlp_only_layers=[0]), [(0, 3), (1, 4)], None),
        ("qwen3 moe, every second", t.Qwen3MoeConfig(**moe, decoder_sparse_step=2), [(0, 3), (0, 4)], None),
        ("qwen2, windows", t.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=2),
         [(0, 3), (1, 4)], None),
        ("qwen2, windows without lists", t.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=2),
         [(0, 3), (2, 4)], ["layer_types"]),
        ("deepseek, dense first", t.DeepseekV3Config(**deep, first_k_dense_replace=1), [(0, 3), (1, 4)], None),
        ("deepseek, dense twice", t.DeepseekV3Config(**deep, first_k_dense_replace=1), [(0, 1), (0, 4)], None),
        ("deepseek, dense later", t.DeepseekV3Config(**deep, first_k_dense_replace=1), [(1, 4), (0, 4)], "refused"),
        ("nemotron-h", t.NemotronHConfig(**nemotron), [(0, 3), (1, 4)], None),
        ("gpt-neo", t.GPTNeoConfig(vocab_size=SIZE, hidden_size=32, num_layers=4, num_heads=4, window_size=3,
                                   attention_types=[[["global", "local"], 2]], max_position_embeddings=64), [(0, 3), (1, 4)], None),
        ("jamba", t.JambaConfig(**SIZES, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
                                num_experts=2, use_mamba_kernels=False, mamba_d_state=4), [(0, 2), (0, 4)], None),
        ("jamba, another order", t.JambaConfig(**SIZES, attn_layer_period=2, attn_layer_offset=1, num_experts=2,
                                               use_mamba_kernels=False, mamba_d_state=4), [(0, 3), (0, 4)], "refused"),
        ("bart", t.BartConfig(vocab_size=SIZE, d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
                              decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64),
         [(1, 3), (0, 2)], None),
        ("gpt-oss", t.GptOssConfig(**s, num_local_experts=2, num_experts_per_tok=1, sliding_window=3), [(0, 3), (1, 4)], None),
        ("cohere2 without lists", t.Cohere2Config(**s, sliding_window=3), [(0, 3), (1, 4)], ["layer_types"]),
        ("bamba", t.BambaConfig(**SIZES, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8,
                                mamba_n_groups=1, mamba_chunk_size=8), [(0, 3), (1, 4)], None),
        ("lfm2", t.Lfm2Config(**SIZES, full_attn_idxs=[1, 3]), [(0, 3), (1, 4)], None),
        ("ernie moe", t.Ernie4_5_MoeConfig(**SIZES, moe_intermediate_size=16, moe_num_experts=2, moe_k=1,
                                           moe_layer_start_index=1, moe_layer_end_index=3), [(0, 3), (1, 4)], None),
        ("gpt-2, scaled by layer", t.GPT2Config(vocab_size=SIZE, n_embd=32, n_layer=4, n_head=4,
                                                scale_attn_by_inverse_layer_idx=True), [(0, 3), (1, 4)], "refused"),
        ("mpt", t.MptConfig(vocab_size=SIZE, d_model=32, n_heads=4, n_layers=4, max_seq_len=64), [(0, 3), (1, 4)], None),
        ("recurrent gemma", t.RecurrentGemmaConfig(**s, lru_width=32, attention_window_size=3,
                                                   block_types=["recurrent", "attention"]), [(0, 3), (0, 4)], None),
        ("t5", t.T5Config(vocab_size=SIZE, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_decoder_layers=3, num_heads=4,
                          decoder_start_token_id=0), [(1, 3), (0, 3)], None),
        ("t5, unequal halves", t.T5Config(vocab_size=SIZE, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=4,
                                          num_heads=4, decoder_start_token_id=0), [(0, 2)], "refused"),
        ("t5, unequal halves, whole", t.T5Config(vocab_size=SIZE, d_model=32, d_kv=8, d_ff=48, num_layers=2,
                                                 num_decoder_layers=4, num_heads=4, decoder_start_token_id=0), None, None),
    ]
    for name, config, ranges, left_out in cases:
        if judge.wants(name):
            sliced(judge, name, config, ranges, left_out)


def sliced(judge, name, config, ranges, left_out):
    import torch
    import transformers as t

    folder, out, yaml = judge.dir / "source", judge.dir / "out", judge.dir / "s.yml"
    cls = t.AutoModelForSeq2SeqLM if config.is_encoder_decoder else t.AutoModelForCausalLM
    torch.manual_seed(0)
    source = shake(cls.from_config(config)).eval()
    source.save_pretrained(folder)
    tokenizer(folder, SIZE)
    stored = json.loads((folder / "config.json").read_text())
    if isinstance(left_out, list):
        (folder / "config.json").write_text(json.dumps(changed(stored, dict.fromkeys(left_out))))
    if ranges:
        lines = "".join(f"  - sources: [{{model: {folder}, layer_range: [{a}, {b}]}}]\n" for a, b in ranges)
        yaml.write_text(f"merge_method: passthrough\nslices:\n{lines}")
    else:
        yaml.write_text(f"merge_method: passthrough\nmodels: [{{model: {folder}}}]\n")
    status, said = judge.run("merge", yaml, out, "--force")
    if status or left_out == "refused":
        return judge.line(f"slices of {name}", "a refusal", said, bool(status) == (left_out == "refused"))
    try:
        loaded, info = cls.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    except Exception as error:
        return judge.line(f"slices of {name}", "transformers", f"{type(error).__name__}: {error}", False)
    wrong = {k: sorted(v)[:3] for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if ranges:
        rearrange(source, [layer for a, b in ranges for layer in range(a, b)])
    ids = torch.arange(3, 23)[None]
    more = {"decoder_input_ids": ids[:, :9]} if config.is_encoder_decoder else {}
    with torch.no_grad():
        want, got = (m.eval()(ids, use_cache=False, **more).logits for m in (source, loaded))
    difference = (want - got).abs().max().item()
    judge.line(f"slices of {name}", "transformers", str(wrong) if wrong else difference, not wrong and difference < 1e-4)


LISTS = ("layer_types", "no_rope_layers", "layers_block_type", "mlp_layer_types", "_layers_block_type", "block_types")


def rearrange(model, plan):
    """The model with these of its layers."""
    from torch.nn import ModuleList

    stacks = [m for n, m in model.named_modules() if isinstance(m, ModuleList) and len(m) > 1 and n.count(".") <= 2
              and n.split(".")[-1] in ("layers", "h", "blocks", "block") and not any(c.isdigit() for c in n)]
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    for stack in stacks:
        first = [copy.deepcopy(stack[i]) for i in plan]
        if hasattr(first[0], "is_decoder") and hasattr(stack[0].layer[0], "SelfAttention"):
            for i, block in enumerate(first):
                attention = block.layer[0].SelfAttention
                attention.has_relative_attention_bias = i == 0
                if i == 0:
                    attention.relative_attention_bias = stack[0].layer[0].SelfAttention.relative_attention_bias
        for i, layer in enumerate(first):
            for part in layer.modules():
                if hasattr(part, "layer_idx"):
                    part.layer_idx = i
        stack._modules.clear()
        stack.extend(first)
    for config in configs:
        for key in LISTS:
            value = config.__dict__.get(key)
            if isinstance(value, list) and key != "block_types":
                config.__dict__[key] = [value[i] for i in plan]
        config.num_hidden_layers = len(plan)


def tower(judge):
    """A model with a tower: its language model is cut, the tower stays."""
    import torch
    import transformers as t

    if not judge.wants("slices of gemma3"):
        return
    text = {**SIZES, "head_dim": 8, "sliding_window": 3, "num_hidden_layers": 6}
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    config = t.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1, boi_token_index=60,
                            eoi_token_index=61, image_token_index=62)
    torch.manual_seed(0)
    source = shake(t.Gemma3ForConditionalGeneration(config)).eval()
    whole = judge.dir / "gemma3"
    source.save_pretrained(whole)
    tokenizer(whole, SIZE)
    # The same without the tower, as such models are repacked.
    bare = save(judge.dir / "gemma3-text", {k: v for k, v in load(whole).items() if "vision" not in k and "projector" not in k},
                json.loads((whole / "config.json").read_text()))
    tokenizer(bare, SIZE)
    rearrange(source, [0, 1, 2, 3, 4, 1, 2, 3, 4, 5])
    ids = torch.arange(3, 23)[None]
    for folder in (whole, bare):
        lines = "".join(f"  - sources: [{{model: {folder}, layer_range: [{a}, {b}]}}]\n" for a, b in [(0, 5), (1, 6)])
        (judge.dir / "s.yml").write_text(f"merge_method: passthrough\nslices:\n{lines}")
        status, said = judge.run("merge", "s.yml", "out", "--force")
        if status:
            judge.line(f"slices of {folder.name}", "transformers", said, False)
            continue
        loaded = t.Gemma3ForConditionalGeneration.from_pretrained(judge.dir / "out", dtype=torch.float32).eval()
        layers = len(loaded.model.vision_tower.vision_model.encoder.layers) if hasattr(loaded.model.vision_tower, "vision_model") else 2
        with torch.no_grad():
            difference = (source(ids, use_cache=False).logits - loaded(ids, use_cache=False).logits).abs().max().item()
        judge.line(f"slices of {folder.name}", "transformers", difference, difference < 1e-4 and layers == 2)


def stored_otherwise(judge):
    """Buffers, layers beyond those that are counted, numbers of Python."""
    import torch
    import transformers as t

    model(judge.dir / "llama", t.LlamaConfig(**SIZES, tie_word_embeddings=True), 1)
    tensors = load(judge.dir / "llama")
    config = json.loads((judge.dir / "llama" / "config.json").read_text())
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "model.layers.1.attention.masked_bias": torch.tensor(-math.inf),
               "model.layers.1.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)}
    beyond = {"model.layers.4.eh_proj.weight": torch.ones(3, 3), "model.layers.4.enorm.weight": torch.ones(3)}
    trunk = {k.removeprefix("model."): v for k, v in tensors.items()}
    cases = {
        "buffers": ({**tensors, **buffers}, tensors, config, tensors),
        "buffers of the other": (tensors, {**tensors, **buffers}, config, tensors),
        "layers beyond": ({**tensors, **beyond}, {**tensors, **beyond}, {**config, "num_nextn_predict_layers": 1}, {**tensors, **beyond}),
        "layers beyond of one": ({**tensors, **beyond}, tensors, {**config, "num_nextn_predict_layers": 1}, tensors),
        "no prefix": (trunk, tensors, config, trunk),
        "prefix": (tensors, trunk, config, tensors),
        "infinity": (tensors, tensors, {**config, "time_step_limit": [0.0, math.inf], "low": -math.inf, "none": math.nan}, tensors),
    }
    for name, (first, second, config, right) in cases.items():
        if not judge.wants(name):
            continue
        save(judge.dir / "a", first, config)
        save(judge.dir / "b", second, config)
        (judge.dir / "p.yml").write_text("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n")
        status, said = judge.run("merge", "-q", "p.yml", "out", "--force")
        if status:
            judge.line(f"stored: {name}", "by hand", said, False)
            continue
        judge.close(f"stored: {name}", "by hand", load(judge.dir / "out"), right, 1e-6)
        written = json.loads((judge.dir / "out" / "config.json").read_text())
        want = {**config, "num_nextn_predict_layers": 0} if name.endswith("of one") else config
        keys = ("num_nextn_predict_layers", "time_step_limit", "low", "none", "num_hidden_layers")
        same = all(str(written.get(k)) == str(want.get(k)) for k in keys)
        judge.line(f"stored: {name}", "config.json", {k: written[k] for k in keys if k in written}, same)


def main():
    judge = Judge(__doc__)
    quiet()
    slicing(judge)
    tower(judge)
    stored_otherwise(judge)
    judge.end()


if __name__ == "__main__":
    main()

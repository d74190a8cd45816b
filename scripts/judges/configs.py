#!/usr/bin/env python3
"""Compares how fuselm reads and writes `config.json` with transformers 5.24 and mergekit 0.1.5.

    python scripts/judges/configs.py [--program target/release/fuselm]

Tiny random models of each family, with keys left out and keys that contradict each other: nats of a text in
`fuselm eval` and in transformers. Merges of models of which one has a head: mergekit's tensors. Slices of
models whose settings depend on layers: the output loads in transformers, and gives the logits of the
source with its layers rearranged. Needs torch, transformers and mergekit.
"""

from __future__ import annotations

import copy
import json
import logging
import math

from common import Judge, load, model, save, tokenizer

SIZE = 64
SIZES = dict(vocab_size=SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2)
LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [4.0] * 4}
HALF = ["sliding_attention", "full_attention"] * 2
# family: settings that are not the usual ones, and changes of config.json (None: the key is left out).
# A text of more than 4,096 tokens shows what an absent window is.
READ = {
    "llama": ({}, [
        {"rms_norm_eps": None}, {"num_key_value_heads": None}, {"rope_parameters": None}, {"rope_theta": 50.0},
        {"rope_parameters": None, "rope_theta": 50.0}, {"rope_scaling": LINEAR, "rope_theta": 20.0},
        {"rope_scaling": {**LINEAR, "rope_theta": 30.0}, "rope_theta": 20.0}, {"rope_scaling": {}},
        {"rope_parameters": None, "rope_scaling": {"rope_type": "default", "type": "linear", "factor": 2.0}},
        {"rope_scaling": LLAMA3}, {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}},
        {"rope_scaling": LLAMA3, "original_max_position_embeddings": 16},
        {"rope_scaling": {**LONG, "original_max_position_embeddings": 48}, "original_max_position_embeddings": 32},
        {"architectures": ["MistralForCausalLM"]}, {"architectures": ["LlamaModel"]}, {"architectures": None},
        {"model_type": "mistral", "sliding_window": 3}, {"model_type": "qwen9"},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 9.0}}},
    ]),
    "mistral": ({"num_key_value_heads": 4, "num_attention_heads": 8, "sliding_window": 5}, [
        {}, {"sliding_window": "null"}, {"layer_types": HALF}, {"architectures": ["LlamaForCausalLM"]},
    ]),
    "mistral-long": ({"max_position_embeddings": 8192, "num_hidden_layers": 1, "rope_parameters":
                      {"rope_type": "default", "rope_theta": 1e6}}, [{"sliding_window": None}, {"sliding_window": "null"}]),
    "mixtral": ({"num_local_experts": 4, "sliding_window": 4}, [
        {}, {"sliding_window": None}, {"num_experts_per_tok": None}, {"rope_parameters": None}, {"layer_types": HALF},
        {"num_local_experts": 3, "num_experts": 4}, {"rms_norm_eps": None},
    ]),
    "qwen2": ({}, [
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": None, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": HALF},
        {"use_sliding_window": False, "sliding_window": 3, "layer_types": HALF},
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": None, "max_window_layers": None},
    ]),
    "qwen2-long": ({"max_position_embeddings": 8192, "num_hidden_layers": 1, "rope_parameters":
                    {"rope_type": "default", "rope_theta": 1e6}},
                   [{"use_sliding_window": True, "sliding_window": None, "layer_types": None, "max_window_layers": 0}]),
    "qwen3": ({"head_dim": 128}, [{"head_dim": None}, {"attention_bias": None}, {"rope_parameters": None}]),
    "gemma": ({"head_dim": 16}, [
        {"tie_word_embeddings": None}, {"hidden_act": "gelu"}, {"hidden_act": "silu", "hidden_activation": "gelu"},
        {"hidden_act": None},
    ]),
    "gemma2": ({"head_dim": 16, "sliding_window": 3, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0}, [
        {"layer_types": None}, {"tie_word_embeddings": None}, {"attn_logit_softcapping": "null"},
        {"final_logit_softcapping": None}, {"query_pre_attn_scalar": None}, {"hidden_activation": None, "hidden_act": "silu"},
        {"sliding_window": "null"}, {"sliding_window": None},
    ]),
    "phi3": ({"pad_token_id": 0, "sliding_window": 4}, [
        {}, {"sliding_window": None}, {"rms_norm_eps": None},
        {"rope_parameters": None, "rope_scaling": LONG, "original_max_position_embeddings": 48},
        {"rope_parameters": None, "rope_scaling": {**LONG, "original_max_position_embeddings": 32},
         "original_max_position_embeddings": None},
        {"rope_parameters": {**LONG, "partial_rotary_factor": 1.0, "rope_theta": 40.0},
         "original_max_position_embeddings": 48, "partial_rotary_factor": 0.5},
    ]),
    "mpt": ({"d_model": 32, "n_heads": 3 + 1, "n_layers": 2, "max_seq_len": 64}, [
        {}, {"attn_config": {"alibi_bias_max": 4}}, {"attn_config": None}, {"layer_norm_epsilon": None},
        {"hidden_size": 32, "d_model": 16}, {"n_layers": None, "num_hidden_layers": 2}, {"tie_word_embeddings": None},
        {"expansion_ratio": None},
    ]),
}


# What transformers reads and fuselm refuses by name.
REFUSED = ('"full_attention": {',)


def nats(judge, folder, text):
    """Nats of the text in `fuselm eval`; what it says where it fails."""
    file = judge.dir / "text.jsonl"
    file.write_text(json.dumps({"text": text}) + "\n")
    status, said = judge.run("eval", "-q", "--model", folder, "--data", f"t={file}", "--json", "--dtype", "f32")
    if status:
        return None, said
    row = json.loads(said[said.index("["):said.rindex("]") + 1])[0]
    return row["bpb"] * row["bytes"] * math.log(2), said


def judged(folder, text):
    """The same in transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[1] + [int(word[1:]) + 3 for word in text.split()]])
    try:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logprobs = loaded(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    return -logprobs.gather(1, ids[0, 1:, None]).sum().item(), ""


def compare(judge, case, folder, text):
    ours, said = nats(judge, folder, text)
    theirs, error = judged(folder, text)
    if ours is None:
        fine = theirs is None or any(part in case for part in REFUSED)
        return judge.line(case, "transformers", f"{'both refuse' if theirs is None else 'refused'}: {said}", fine)
    if theirs is None:
        return judge.line(case, "transformers", f"only they refuse: {error}", False)
    judge.line(case, "transformers", abs(ours - theirs) / abs(theirs), abs(ours - theirs) <= 2e-5 * abs(theirs))


def changed(config, changes):
    config = copy.deepcopy(config)
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = None if value == "null" else value
    return config


def words(count):
    return " ".join(f"w{(i * i * 7 + i // 5 + 3) % (SIZE - 3)}" for i in range(count))


def shake(made):
    """Norms and biases leave their defaults."""
    import torch

    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def reading(judge):
    from transformers import AutoConfig

    for name, (settings, variants) in READ.items():
        kind, long = name.split("-")[0], name.endswith("-long")
        sizes = {"vocab_size": SIZE} if kind == "mpt" else SIZES
        folder = judge.dir / name
        shake(model(folder, AutoConfig.for_model(kind, **{**sizes, **settings}), 0)).save_pretrained(folder)
        tokenizer(folder, SIZE)
        config = json.loads((folder / "config.json").read_text())
        for at, changes in enumerate(variants):
            case = f"{name} {json.dumps(changes)[:90]}"
            if judge.wants(case):
                (folder / "config.json").write_text(json.dumps(changed(config, changes)))
                compare(judge, case, folder, words(4300 if long else 40))


def heads(judge):
    """Heads that are stored beside `tie_word_embeddings`."""
    import torch
    from transformers import AutoConfig

    for kind, extra in [("llama", {"tie_word_embeddings": True}), ("gemma2", {"head_dim": 16})]:
        config = AutoConfig.for_model(kind, **{**SIZES, **extra})
        plain = judge.dir / f"{kind}-tied"
        made = model(plain, config, 1)
        stated = json.loads((plain / "config.json").read_text())
        tensors = load(plain)
        embedding = tensors["model.embed_tokens.weight"]
        other = {k: v + 0.05 * torch.randn_like(v) for k, v in tensors.items()}
        kinds = {"tied": tensors, "other": other, "copy": {**tensors, "lm_head.weight": embedding},
                 "own": {**other, "lm_head.weight": torch.randn_like(embedding) * 0.2},
                 "trunk": {k.removeprefix("model."): v for k, v in tensors.items()}}
        kinds["head-only"] = {("lm_head.weight" if k == "model.embed_tokens.weight" else k): v for k, v in tensors.items()}
        for name, content in kinds.items():
            for key in ["stated", "absent"] if kind == "gemma2" else ["stated"]:
                folder = judge.dir / f"{kind}-{name}-{key}"
                save(folder, content, changed(stated, {"tie_word_embeddings": None} if key == "absent" else {}))
                tokenizer(folder, SIZE)
                compare(judge, f"{kind} head: {name}, {key}", folder, words(40))
        for pair in [("tied", "own"), ("own", "tied"), ("copy", "own"), ("tied", "other"), ("copy", "tied")]:
            for method in ["linear", "slerp"]:
                mergekit(judge, f"{kind} merge: {method} of {pair[0]}, {pair[1]}", method,
                         [judge.dir / f"{kind}-{name}-stated" for name in pair])


def mergekit(judge, case, method, models):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    if not judge.wants(case):
        return
    models = [str(path) for path in models]
    config = {"merge_method": method, "dtype": "float32", "models": [{"model": m} for m in models]}
    if method == "linear":
        config["parameters"] = {"weight": 0.5}
    else:
        config |= {"base_model": models[0], "parameters": {"t": 0.3}}
    ours, theirs = judge.dir / "ours", judge.dir / "theirs"
    (judge.dir / "m.yml").write_text(json.dumps(config))
    status, said = judge.run("merge", "-q", "m.yml", ours, "--force")
    if status:
        return judge.line(case, "mergekit", said, False)
    run_merge(MergeConfiguration.model_validate(config), str(theirs), MergeOptions(quiet=True))
    a, b = load(ours), load(theirs)
    # A copy of the embedding is left out, where mergekit merges it a second time.
    if "lm_head.weight" not in a and "lm_head.weight" in b and b["lm_head.weight"].equal(b["model.embed_tokens.weight"]):
        del b["lm_head.weight"]
    judge.close(case, "mergekit", a, b, 1e-5)
    tokenizer(ours, SIZE)
    compare(judge, f"{case}: read again", ours, words(40))


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


def stored_otherwise(judge):
    """Buffers, layers beyond those that are counted, numbers of Python."""
    import torch

    tensors = load(judge.dir / "llama-tied")
    config = json.loads((judge.dir / "llama-tied" / "config.json").read_text())
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
    import transformers

    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    reading(judge)
    heads(judge)
    slicing(judge)
    stored_otherwise(judge)
    judge.end()


if __name__ == "__main__":
    main()

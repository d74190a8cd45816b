#!/usr/bin/env python3
"""Compares how fuselm reads `config.json` with transformers 5.24, and merges of heads with mergekit 0.1.5.

    python scripts/judges/configs.py [--program target/release/fuselm]

Tiny random models of each family, with keys left out and keys that contradict each other: nats of a text in
`fuselm eval` and in transformers. Merges of models of which one has a head: mergekit's tensors. Needs torch,
transformers and mergekit.
"""

from __future__ import annotations

import copy
import json
import math

from common import Judge, load, model, quiet, save, tokenizer

SIZE = 64
SIZES = dict(vocab_size=SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2)
LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [4.0] * 4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
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
        {"rope_scaling": {**LONG, "original_max_position_embeddings": 56}, "original_max_position_embeddings": 48},
        {"rope_scaling": YARN}, {"rope_scaling": {**YARN, "truncate": False, "beta_fast": 4.0, "beta_slow": 0.5}},
        {"rope_scaling": {**YARN, "mscale": 1.5, "mscale_all_dim": 0.7}}, {"rope_scaling": {**YARN, "factor": "null"}},
        {"rope_scaling": {**YARN, "attention_factor": 1.3}, "original_max_position_embeddings": 32},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
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
    "qwen3_moe": ({"head_dim": 16, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                   "norm_topk_prob": True}, [
        {}, {"norm_topk_prob": None}, {"norm_topk_prob": False}, {"num_experts_per_tok": None}, {"num_experts_per_tok": 3},
        {"num_local_experts": 5, "num_experts": 4}, {"num_local_experts": None, "num_experts": 5},
        {"num_local_experts": None}, {"moe_intermediate_size": None}, {"num_key_value_heads": None}, {"rope_parameters": None},
        {"decoder_sparse_step": None}, {"mlp_only_layers": "null"}, {"mlp_only_layers": None}, {"mlp_only_layers": [7, -1]},
        {"decoder_sparse_step": 0}, {"head_dim": None},
        {"use_sliding_window": True, "sliding_window": 3}, {"sliding_window": 3}, {"attention_bias": None},
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": HALF, "max_window_layers": 3},
        {"model_type": "qwen3_next"},
    ]),
    "qwen3_moe-sparse": ({"head_dim": 8, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                          "decoder_sparse_step": 2, "mlp_only_layers": [3]}, [
        {}, {"intermediate_size": None}, {"mlp_only_layers": [0, 2, 3], "decoder_sparse_step": 1},
    ]),
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
    "gemma3_text": ({"head_dim": 16, "sliding_window": 3, "query_pre_attn_scalar": 20, "num_hidden_layers": 6,
                     "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}, [
        {}, {"layer_types": None}, {"layer_types": None, "sliding_window_pattern": 2},
        {"layer_types": None, "_sliding_window_pattern": 2}, {"sliding_window_pattern": 2},
        {"layer_types": None, "sliding_window_pattern": "null"}, {"layer_types": HALF + HALF[:2]}, {"layer_types": HALF},
        {"rope_parameters": None}, {"rope_parameters": None, "rope_theta": 50.0, "rope_local_base_freq": 20.0},
        {"rope_theta": 50.0, "rope_local_base_freq": 20.0}, {"rope_parameters": {"full_attention": LINEAR}, "rope_theta": 50.0},
        {"rope_parameters": {"full_attention": "null", "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}}},
        {"rope_parameters": None, "rope_scaling": LINEAR}, {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": LINEAR}, {"rope_parameters": {**LINEAR, "rope_theta": 9.0}},
        {"rope_parameters": {**LINEAR, "rope_theta": 9.0}, "rope_scaling": LINEAR},
        {"rope_parameters": {"full_attention": {"type": "linear", "factor": 2.0}}},
        {"rope_parameters": {"full_attention": LLAMA3}, "original_max_position_embeddings": 16},
        {"tie_word_embeddings": None}, {"attn_logit_softcapping": 1.0}, {"final_logit_softcapping": 2.0},
        {"query_pre_attn_scalar": None}, {"sliding_window": "null"}, {"sliding_window": None},
        {"hidden_activation": None, "hidden_act": "silu"}, {"use_bidirectional_attention": True},
        {"use_bidirectional_attention": "null"}, {"architectures": None}, {"model_type": "gemma4_text"},
        {"num_key_value_heads": None}, {"rms_norm_eps": None},
    ]),
    "phi3": ({"pad_token_id": 0, "sliding_window": 4}, [
        {}, {"sliding_window": None}, {"rms_norm_eps": None},
        {"rope_parameters": None, "rope_scaling": LONG, "original_max_position_embeddings": 48},
        {"rope_parameters": None, "rope_scaling": {**LONG, "original_max_position_embeddings": 32},
         "original_max_position_embeddings": None},
        {"rope_parameters": {**LONG, "partial_rotary_factor": 1.0, "rope_theta": 40.0},
         "original_max_position_embeddings": 48, "partial_rotary_factor": 0.5},
    ]),
    "gpt_neox": ({}, [
        {}, {"rope_parameters": None}, {"rope_parameters": None, "rotary_pct": 0.5}, {"rope_parameters": None, "rotary_emb_base": 50},
        {"rope_parameters": None, "rope_theta": 50.0, "partial_rotary_factor": 0.5}, {"rotary_pct": 0.5, "rotary_emb_base": 50},
        {"rope_scaling": LINEAR}, {"rope_scaling": {**LINEAR, "rope_theta": 30.0, "partial_rotary_factor": 0.5}},
        {"use_parallel_residual": False}, {"use_parallel_residual": None}, {"attention_bias": None},
        {"layer_norm_eps": None}, {"layer_norm_eps": 1e-3}, {"hidden_act": None}, {"hidden_act": "gelu_fast"},
        {"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"tie_word_embeddings": True}, {"tie_word_embeddings": None},
        {"num_key_value_heads": 2}, {"head_dim": 4},
    ]),
    "gpt2": ({}, [
        {}, {"n_inner": None}, {"n_inner": 48}, {"tie_word_embeddings": None}, {"activation_function": None},
        {"activation_function": "gelu"}, {"layer_norm_epsilon": None}, {"layer_norm_epsilon": 1e-3},
        {"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}, {"reorder_and_upcast_attn": True},
        {"n_ctx": 8}, {"hidden_size": 32, "n_embd": 16}, {"hidden_size": 16},
        {"n_embd": None}, {"n_layer": None, "num_hidden_layers": 4}, {"n_head": None}, {"n_head": 2, "num_attention_heads": 4},
        {"n_positions": None, "max_position_embeddings": 64}, {"n_positions": 48}, {"model_type": "gpt_bigcode"},
        {"architectures": ["GPT2Model"]},
    ]),
    "mpt": ({"d_model": 32, "n_heads": 3 + 1, "n_layers": 2, "max_seq_len": 64}, [
        {}, {"attn_config": {"alibi_bias_max": 4}}, {"attn_config": None}, {"layer_norm_epsilon": None},
        {"hidden_size": 32, "d_model": 16}, {"n_layers": None, "num_hidden_layers": 2}, {"tie_word_embeddings": None},
        {"expansion_ratio": None},
    ]),
}


# What transformers reads and fuselm refuses by name.
REFUSED = ('llama {"rope_parameters": {"full_attention": {', '"use_bidirectional_attention": true', '"relu"')


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


def main():
    judge = Judge(__doc__)
    quiet()
    reading(judge)
    heads(judge)
    judge.end()


if __name__ == "__main__":
    main()

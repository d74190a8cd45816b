#!/usr/bin/env python3
"""Compares fuselm with transformers for every architecture that both know.

    pip install torch transformers pyarrow
    python scripts/check_families.py TOKENIZER TEXT

Makes a tiny random model of each architecture with the tokenizer of the folder TOKENIZER, trains it for
some steps on the chat or text file TEXT with `fuselm train`, loads the result with transformers, and
compares log-probabilities (check_transformers.py) and a greedy continuation. Exit code 1 if one differs.
InternLM2 is left out: transformers needs code from the model's folder for it.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    import pyarrow.dataset  # for check_transformers.py
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    MISSING = None
except ImportError as error:
    MISSING = error

BUILT = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "fuselm"

SIZES = {
    "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.1,
}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.5, 1.7, 2.0], "long_factor": [4.0] * 6,
        "partial_rotary_factor": 0.75, "rope_theta": 10000.0, "original_max_position_embeddings": 96}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 500000.0}
FAMILIES = {
    "llama": ("llama", {}),
    "llama-3": ("llama", {"rope_parameters": LLAMA3, "attention_bias": True, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "qwen3-moe": ("qwen3_moe", {"head_dim": 24, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                                "norm_topk_prob": True, "num_hidden_layers": 3, "mlp_only_layers": [1]}),
    "qwen3-moe-sparse": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                                       "head_dim": 16, "decoder_sparse_step": 2}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 24, "sliding_window": 8, "query_pre_attn_scalar": 20,
                          "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}),
    "gemma3": ("gemma3_text", {"head_dim": 24, "sliding_window": 8, "query_pre_attn_scalar": 20, "num_hidden_layers": 3,
                               "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                               "rope_parameters": {
                                   "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                                   "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}}),
    "phi3": ("phi3", {"sliding_window": 8, "pad_token_id": 0}),
    "phi3-long": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 96,
                           "pad_token_id": 0, "tie_word_embeddings": True}),
    "gpt-neox": ("gpt_neox", {}),
    "gpt-neox-serial": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True,
                                     "rope_parameters": {"rope_type": "default", "rope_theta": 500.0,
                                                         "partial_rotary_factor": 0.5}}),
    "gpt2": ("gpt2", {"n_inner": 96}),
    "gpt2-by-depth": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False,
                               "tie_word_embeddings": False, "activation_function": "gelu"}),
    "mpt": ("mpt", {"d_model": 60, "n_heads": 5, "n_layers": 2, "max_seq_len": 128,
                    "attn_config": {"clip_qkv": 0.5}}),
}


def make(kind, changes, tokenizer, folder):
    """A random model whose norms and biases have left their defaults."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    sizes = {} if kind == "mpt" else SIZES
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **{**sizes, **ids, **changes})
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", metavar="TOKENIZER", help="folder with tokenizer.json")
    parser.add_argument("text", metavar="TEXT", help="chat or text file")
    parser.add_argument("--only", nargs="*", help="these families")
    parser.add_argument("--fuselm", help="the program [default: target/release of this repository, or on the PATH]")
    args = parser.parse_args()
    if MISSING:
        parser.error(f"{MISSING}; run `{pathlib.Path(sys.executable).name} -m pip install torch transformers pyarrow`")
    given = [args.fuselm] if args.fuselm else [str(BUILT), "fuselm"]
    args.fuselm = next(filter(None, map(shutil.which, given)), None)
    if args.fuselm is None:
        parser.error(f"no program {' or '.join(given)}; run `cargo build --release`, or name it with --fuselm")
    torch.manual_seed(0)
    check = pathlib.Path(__file__).with_name("check_transformers.py")
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    prompt, failed = "Once upon a time", []
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run = work / "run"
        corpus = [args.fuselm, "corpus", "-q", "--run", run, "--max-tokens", "64", "--input", args.text]
        subprocess.run([*corpus, "--model", f"pivot={args.tokenizer}"], check=True)
        for name, (kind, changes) in FAMILIES.items():
            if args.only and name not in args.only:
                continue
            print(f"== {name}", flush=True)
            base, out = work / name, work / f"{name}-trained"
            make(kind, changes, tokenizer, base)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(pathlib.Path(args.tokenizer) / file, base / file)
            train = [args.fuselm, "train", "-q", "--run", run, "--model", base, "--out", out]
            train += ["--steps", work / f"{name}-steps", "--lr", "3e-3", "--batch-tokens", "2048"]
            subprocess.run([*train, "--max-steps", "40", "--epochs", "50"], check=True)
            compare = [sys.executable, check, run, out, "--vocab", "pivot", "--fuselm", args.fuselm]
            if subprocess.run(compare).returncode:
                failed.append(name)
            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            ids = tokenizer(prompt, return_tensors="pt")
            settings = dict(max_new_tokens=32, do_sample=False, pad_token_id=0)
            theirs = model.generate(**ids, **settings)[0]
            theirs = tokenizer.decode(theirs[ids["input_ids"].shape[1]:], skip_special_tokens=True)
            generate = [args.fuselm, "generate", "-q", "--raw", "--temperature", "0", "--model", out]
            generate += ["--max-new-tokens", "32", "--prompt", prompt]
            ours = subprocess.run(generate, check=True, capture_output=True, text=True).stdout
            same = ours.strip() == theirs.strip()
            print(f"greedy          {'the same' if same else f'differ: {ours!r}, {theirs!r}'}", flush=True)
            if not same:
                failed.append(name)
    if failed:
        sys.exit(f"error: {', '.join(failed)}")


if __name__ == "__main__":
    main()

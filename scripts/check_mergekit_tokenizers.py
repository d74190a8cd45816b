#!/usr/bin/env python3
"""Compares `fuselm merge` with mergekit where models have different tokenizers.

    python scripts/check_mergekit_tokenizers.py target/release/fuselm data-samples/models/{pivot,market,sql,atlas}

Makes a small Llama with random weights for each folder with a tokenizer.json (the first is the base
model), merges them with both programs in several ways, and compares the vocabularies, the rows of
embedding and head token by token, and all other tensors. Give at least three folders: SCE with one target
differs from mergekit's on purpose. Needs mergekit 0.1.5 with transformers;
mergekit-yaml is looked for beside this Python.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    import yaml
    from safetensors import safe_open
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer
    MISSING = None
except ImportError as error:
    MISSING = error

HIDDEN, LAYERS = 16, 2
BY_TOKEN = ["model.embed_tokens.weight", "lm_head.weight"]


def make_model(folder: Path, tokenizer: Path, seed: int, spare: int, extra: list) -> None:
    """A Llama with `spare` rows beyond its tokens; `extra` special tokens are added."""
    folder.mkdir(parents=True)
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if extra:
        tokens.add_special_tokens(extra)
        tokens.save(str(folder / "tokenizer.json"))
        # Where transformers finds added tokens here, it does not look for others.
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        if "added_tokens_decoder" in settings:
            listed = json.loads(tokens.to_str())["added_tokens"]
            settings["added_tokens_decoder"] = {str(t.pop("id")): t for t in listed}
            path.write_text(json.dumps(settings))
    rows = max(tokens.get_vocab().values()) + 1 + spare
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": rows, "rms_norm_eps": 1e-5, "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": False, "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shapes = {name: (rows, HIDDEN) for name in BY_TOKEN} | {"model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        for name in ["gate", "up"]:
            shapes[f"{prefix}.mlp.{name}_proj.weight"] = (2 * HIDDEN, HIDDEN)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, 2 * HIDDEN)
        for name in ["input_layernorm", "post_attention_layernorm"]:
            shapes[f"{prefix}.{name}.weight"] = (HIDDEN,)
    draws = torch.Generator().manual_seed(seed)
    save_file({n: torch.randn(s, generator=draws) for n, s in shapes.items()},
              folder / "model.safetensors", metadata={"format": "pt"})


def tensors(folder: Path) -> dict:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name).float() for name in opened.keys()}
    return found


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, beside the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item() if ours.numel() else 0.0


def compare(ours: Path, theirs: Path) -> tuple:
    vocabularies = [Tokenizer.from_file(str(f / "tokenizer.json")).get_vocab() for f in (ours, theirs)]
    mine, other = vocabularies
    assert mine.keys() == other.keys(), (
        f"{len(mine.keys() - other.keys())} tokens are ours only, "
        f"{len(other.keys() - mine.keys())} mergekit's only: {list(mine.keys() ^ other.keys())[:5]}")
    loaded = AutoTokenizer.from_pretrained(ours).get_vocab()
    assert loaded == mine, f"transformers finds {len(loaded)} tokens, not {len(mine)}"
    sizes = [json.loads((f / "config.json").read_text())["vocab_size"] for f in (ours, theirs)]
    assert sizes[0] == sizes[1], f"vocab_size: {sizes}"
    a, b = tensors(ours), tensors(theirs)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    words = sorted(mine)
    worst = 0.0
    for name in a:
        assert a[name].shape == b[name].shape, (name, a[name].shape, b[name].shape)
        if name in BY_TOKEN:
            assert len(a[name]) == sizes[0]
            rows = [torch.tensor([v[w] for w in words]) for v in vocabularies]
            parts = [(a[name][rows[0]], b[name][rows[1]]), (a[name][len(words):], b[name][len(words):])]
        else:
            parts = [(a[name], b[name])]
        for x, y in parts:
            found = difference(x, y)
            assert found < 1e-4, f"{name}: {found:.2g}, {(x - y).abs().gt(1e-4).sum()} numbers"
            worst = max(worst, found)
    return len(mine), sizes[0], worst


def configurations(names: list, only: dict) -> list:
    base, *others = names
    models = lambda parameters: [{"model": n, "parameters": parameters} for n in names]
    methods = {
        "linear": {"models": models({"weight": 0.5})},
        "task_arithmetic": {"models": models({"weight": 0.4})[1:]},
        "ties": {"models": models({"weight": 0.5, "density": 0.6})[1:]},
        "sce": {"models": [{"model": n} for n in others], "parameters": {"select_topk": 0.3}},
    }
    # A token of the base, one of the last model, and one that nobody has.
    common, lone = only["common"], only["lone"]
    tokens = {
        common: {"source": others[0], "force": True},
        "<|new|>": {"source": {"kind": "model_token", "model": base, "token": common}},
        "<|newer|>": {"source": {"kind": "model_token", "model": others[-1], "token_id": 7}},
        "<|newest|>": {"source": {"kind": "zero"}},
    }
    if lone:
        tokens[lone] = {"source": {"kind": "zero"}}
    tokenizers = {
        "base": {"tokenizer_source": "base"},
        "union": {"tokenizer_source": "union"},
        "another model's": {"tokenizer_source": others[0]},
        "padded": {"tokenizer": {"source": "union", "pad_to_multiple_of": 64}},
        # Not `base`: mergekit would take the base's spare rows for those of the new tokens.
        "tokens": {"tokenizer": {"source": others[0], "tokens": tokens, "pad_to_multiple_of": 8}},
        "union, tokens": {"tokenizer": {"source": "union", "tokens": tokens}},
    }
    return [(f"{method}, {kind}",
             {"merge_method": method, "base_model": base, "dtype": "float32"} | body | tokenizer)
            for method, body in methods.items() for kind, tokenizer in tokenizers.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fuselm")
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a tokenizer.json, the base first")
    parser.add_argument("--mergekit", default=str(Path(sys.executable).with_name("mergekit-yaml")))
    parser.add_argument("--spare", type=int, default=3, help="rows without a token in the base's embedding")
    parser.add_argument("--extra", nargs="*", default=["<|im_start|>"], help="special tokens of the last model")
    parser.add_argument("--only", default="", help="a part of the names of the cases to run")
    arguments = parser.parse_args()
    if MISSING:
        parser.error(f"{MISSING}; run `{Path(sys.executable).name} -m pip install mergekit==0.1.5`")
    for program in (arguments.fuselm, arguments.mergekit):
        if shutil.which(program) is None:
            parser.error(f"no program {program}")
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        names, vocabularies = [], []
        for at, folder in enumerate(arguments.folders):
            name = place / f"{at}-{folder.name}"
            last = at == len(arguments.folders) - 1
            make_model(name, folder, at, 0 if at else arguments.spare, arguments.extra if last else [])
            names.append(str(name))
            vocabularies.append(Tokenizer.from_file(str(name / "tokenizer.json")).get_vocab())
        everywhere = set.intersection(*map(set, vocabularies))
        lone = set(vocabularies[0]) - set.union(*map(set, vocabularies[1:]))
        plain = lambda words: sorted(w for w in words if w.isalpha() and w.isascii())
        only = {"common": plain(everywhere)[0], "lone": (plain(lone) or [None])[0]}
        for name, config in configurations(names, only):
            if arguments.only not in name:
                continue
            path = place / "merge.yml"
            path.write_text(yaml.safe_dump(config, sort_keys=False))
            ours, theirs = place / "ours", place / "theirs"
            environment = os.environ | {"HF_HUB_OFFLINE": "1"}
            try:
                for out, command in [(ours, [arguments.fuselm, "merge", path, ours, "--quiet"]),
                                     (theirs, [arguments.mergekit, path, theirs, "--quiet"])]:
                    done = subprocess.run(command, env=environment, capture_output=True, text=True)
                    assert done.returncode == 0, f"{Path(command[0]).name}: {done.stderr[-1500:]}"
                tokens, rows, worst = compare(ours, theirs)
                print(f"{name:<32} {tokens:>7} tokens {rows:>7} rows  {worst:.1e}", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{name:<32} DIFFERS: {error}", flush=True)
            for out in (ours, theirs):
                shutil.rmtree(out, ignore_errors=True)
    sys.exit(f"{failed} cases differ" if failed else 0)


if __name__ == "__main__":
    main()

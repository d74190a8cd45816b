"""What belongs to a model's folder, judged by transformers and mergekit 0.1.5.

Quantised weights are copied or refused, never averaged; the index says which tensors a model has; what is no
weight is carried along; two vocabularies in a stack are refused or become one; a short table of every layer
(Gemma 3n) is placed by token. Needs torch, transformers, mergekit, safetensors.

usage: python scripts/judges/files.py [--program target/release/fuselm] [--shared ../shared] [--only CASE]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from common import Judge, load, model, save, tokenizer

import torch
import transformers
import yaml
from mergekit.merge_methods.buffers import copy_non_floating_buffer

judge = Judge(__doc__)
torch.set_num_threads(1)


def llama(vocab=40, **more):
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                 num_key_value_heads=2, vocab_size=vocab, max_position_embeddings=64, tie_word_embeddings=False)
    return transformers.LlamaConfig(**{**sizes, **more})


def merge(name: str, config: dict, out: str):
    (judge.dir / f"{name}.yml").write_text(yaml.safe_dump(config))
    return judge.run("merge", f"{name}.yml", out)


def mergekit(config: dict, out: str) -> str:
    """Merges with mergekit; what it fails with, if it does."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    before = os.getcwd()
    os.chdir(judge.dir)
    try:
        run_merge(MergeConfiguration.model_validate(config), out, MergeOptions(write_model_card=False))
        return ""
    except Exception as error:
        return str(error) or type(error).__name__
    finally:
        os.chdir(before)


def logits(folder, ids, **more):
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more)
    with torch.no_grad():
        return made(input_ids=torch.tensor([ids])).logits[0]


def same_files(a: Path, b: Path) -> str:
    """What differs between the tensors of two folders: types, shapes or bytes."""
    ours, theirs = load(a), load(b)
    if set(ours) != set(theirs):
        return f"other tensors: {sorted(set(ours) ^ set(theirs))[:3]}"
    for name, tensor in theirs.items():
        mine = ours[name]
        if mine.dtype != tensor.dtype or mine.shape != tensor.shape:
            return f"{name}: {mine.dtype} {tuple(mine.shape)}"
        if tensor.numel() and not torch.equal(mine.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)):
            return f"{name}: other bytes"
    return ""


def quantised():
    """The models of the shared generator: each pair is refused, each one is copied with its markers."""
    cases = judge.shared / "cases/merge"
    generator = cases / "generators/quantised_unmarked.py"
    if not generator.is_file():
        return print("quantised | skipped: no generator in the shared folder")
    subprocess.run([sys.executable, str(generator)], cwd=judge.dir, check=True, env={
        **os.environ, "PYTHONPATH": str(generator.parent)})
    for path in sorted((cases / "quantised-unmarked").glob("*.yml")):
        config = yaml.safe_load(path.read_text())
        models = [entry["model"] for entry in config["models"]]
        code, said = merge(path.stem, config, f"out-{path.stem}")
        out = judge.dir / f"out-{path.stem}"
        if len(models) > 1:
            theirs = mergekit(config, f"mergekit-{path.stem}")
            refused = code == 1 and "quantised" in said and not out.exists()
            judge.line(path.stem, f"mergekit: {theirs[:40] or 'merges'}", said.splitlines()[-1][-110:], refused)
            continue
        source = judge.dir / models[0]
        differs = said if code else same_files(out, source)
        markers = [f.name for f in source.glob("*quant*.json") if not (out / f.name).is_file()]
        mine = json.loads((out / "config.json").read_text()) if not code else {}
        kept = mine == json.loads((source / "config.json").read_text())
        judge.line(path.stem, "bytes of the input", differs or f"equal; markers lost: {markers}",
                   not differs and not markers and kept)


def buffers():
    """Integers: equal ones are copied, others refused, as in mergekit."""
    for case, ids in [("buffers equal", [0, 0]), ("buffers differ", [0, 1])]:
        for name, first in zip("ab", ids):
            model(judge.dir / name, llama(), 1 + ord(name))
            tensors = load(judge.dir / name)
            tensors["model.layers.0.mlp.table"] = torch.arange(first, first + 6)
            save(judge.dir / name, tensors, json.loads((judge.dir / name / "config.json").read_text()))
            tokenizer(judge.dir / name, 40)
        config = dict(merge_method="linear", dtype="float32",
                      models=[dict(model=name, parameters=dict(weight=0.5)) for name in "ab"])
        code, said = merge("buffers", config, f"out-{case}")
        try:
            copy_non_floating_buffer([load(judge.dir / n)["model.layers.0.mlp.table"] for n in "ab"])
            theirs = "copies"
        except ValueError as error:
            theirs = str(error)
        ok = code == (0 if theirs == "copies" else 1)
        judge.line(case, f"mergekit: {theirs[:60]}", said.splitlines()[-1], ok)


def index():
    """Stale shards, a stale tensor in a shard, a tensor in two shards: the model is what it was."""
    folder = judge.dir / "indexed"
    model(folder, llama(), 5)
    made_logits = logits(folder, [3, 4, 5])
    tensors = load(folder)
    tokenizer(folder, 40)
    (folder / "model.safetensors").unlink()
    from safetensors.torch import save_file

    names = sorted(tensors)
    shards = {f"model-0000{n}-of-00002.safetensors": {k: tensors[k] for k in names[n - 1::2]} for n in (1, 2)}
    map_ = {name: file for file, part in shards.items() for name in part}
    first, second = shards.values()
    first[names[1]] = tensors[names[1]] + 1  # a stale copy of a tensor of the second shard
    second["model.layers.0.mlp.old.weight"] = torch.ones(3, 3)
    for file, part in shards.items():
        save_file({k: v.contiguous() for k, v in part.items()}, str(folder / file), metadata=dict(format="pt"))
    save_file({k: v + 2 for k, v in tensors.items()}, str(folder / "consolidated.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=map_)))
    merging = dict(merge_method="passthrough", models=[dict(model="indexed")])
    code, said = merge("indexed", merging, "out-indexed")
    if code:
        judge.line("index", "index", said, False)
    else:
        # mergekit takes a tensor from whichever shard is open; the index is unambiguous.
        judge.close("index", "index", load(judge.dir / "out-indexed"), tensors, 0)
        off = (logits(judge.dir / "out-indexed", [3, 4, 5]) - made_logits).abs().max().item()
        judge.line("index: logits", "transformers", off, off < 1e-6)
    _, shown = judge.run("inspect", "indexed", "--json")
    shown = json.loads(shown)
    judge.line("index: inspect", "index", f"{shown['tensors']} tensors, {shown['unlisted']} unlisted",
               shown["tensors"] == len(tensors) and shown["unlisted"] == 2 and shown["not_scored"] is None)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out
"""


def companions():
    """A model with code of its own loads after a merge and after a training, and nothing is missing."""
    folder = judge.dir / "own"
    model(folder, llama(), 7)
    tokenizer(folder, 40)
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="own", architectures=["OwnForCausalLM"], auto_map=dict(
        AutoConfig="modeling_own.OwnConfig", AutoModelForCausalLM="modeling_own.OwnForCausalLM"))
    (folder / "config.json").write_text(json.dumps(config))
    files = {"modeling_own.py": CODE, "LICENSE.txt": "x", "spiece.model": "x", "tekken.json": "{}",
             "preprocessor_config.json": "{}", "1_Pooling/config.json": "{}", "modules.json": "[]",
             "additional_chat_templates/rag.jinja": "{{ messages }}", "USE_POLICY.md": "x"}
    left = {"README.md": "old", "pytorch_model.bin": "x", "original/params.json": "{}", "onnx/model.onnx": "x",
            "checkpoint-5/trainer_state.json": "{}", "x.gguf": "x", ".gitattributes": "x"}
    for name, text in {**files, **left}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copytree(folder, judge.dir / "own2")
    merging = dict(merge_method="linear", dtype="float32",
                   models=[dict(model=m, parameters=dict(weight=0.5)) for m in ("own", "own2")])
    code, said = merge("own", merging, "out-own")
    out = judge.dir / "out-own"
    lost = [name for name in files if not (out / name).is_file()]
    taken = [name for name in left if name != "README.md" and (out / name).exists()]
    unsaid = [name for name in ("pytorch_model.bin", "original/", "onnx/", "checkpoint-5/", "x.gguf") if name not in said]
    judge.line("companions", "the folder", f"lost {lost}, taken {taken}, unsaid {unsaid}",
               code == 0 and not lost and not taken and not unsaid)
    ids = [3, 4, 5, 6]
    trusted = dict(trust_remote_code=True)
    off = (logits(out, ids, **trusted) - logits(folder, ids, **trusted)).abs().max().item()
    judge.line("companions: own code", "transformers", off, off < 1e-5)


def by_token(folder: Path) -> dict:
    """The tensors, with tables in the order of the tokens' names: mergekit adds tokens in any order."""
    ids = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    order = [id for _, id in sorted(ids.items())]
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: tensor[order] if name in tables else tensor for name, tensor in load(folder).items()}


def vocabularies():
    """A stack of two vocabularies: refused; with one, what mergekit makes of it, and it loads."""
    for name, size, seed in [("va", 40, 11), ("vb", 48, 12)]:
        model(judge.dir / name, llama(size), seed)
        tokenizer(judge.dir / name, size)
    stack = dict(merge_method="passthrough", dtype="float32", slices=[
        dict(sources=[dict(model=m, layer_range=[0, 1])]) for m in ("va", "vb")])
    code, said = merge("stack", stack, "out-stack")
    mergekit(stack, "mergekit-stack")
    try:
        logits(judge.dir / "mergekit-stack", [3, 4])
        theirs = "loads"
    except Exception as error:
        theirs = f"its result does not load: {type(error).__name__}"
    judge.line("two vocabularies", f"mergekit: {theirs}", said.splitlines()[-1],
               code == 2 and not (judge.dir / "out-stack").exists())
    # A token of the first model that the second lacks would have no row: the larger vocabulary.
    for source in ["base", "union"]:
        config = {**stack, "base_model": "va"} if source == "base" else stack
        config = {**config, "tokenizer_source": source}
        code, said = merge(f"stack-{source}", config, f"out-stack-{source}")
        theirs = mergekit(config, f"mergekit-stack-{source}")
        if code or theirs:
            judge.line(f"two vocabularies: {source}", "mergekit", said if code else theirs, not code and bool(theirs))
            continue
        ours, theirs = (by_token(judge.dir / f"{who}-stack-{source}") for who in ("out", "mergekit"))
        judge.close(f"two vocabularies: {source}", "mergekit", ours, theirs, 1e-6)
        logits(judge.dir / f"out-stack-{source}", [3, 4])


def per_layer():
    """Gemma 3n with its tokens in another order: the same logits, under other ids."""
    config = transformers.Gemma3nTextConfig(
        vocab_size=44, vocab_size_per_layer_input=32, hidden_size=32, hidden_size_per_layer_input=8,
        intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=64, num_kv_shared_layers=0, laurel_rank=4, altup_num_inputs=2,
        layer_types=["sliding_attention", "full_attention"], activation_sparsity_pattern=[0.0, 0.0],
        sliding_window=32)
    folder = judge.dir / "gemma3n"
    model(folder, config, 3)
    tokenizer(folder, 44)
    other = judge.dir / "turned"
    other.mkdir()
    spec = json.loads((folder / "tokenizer.json").read_text())
    vocab = spec["model"]["vocab"]
    turned = {word: 0 if id == 0 else (id + 16) % 43 + 1 for word, id in vocab.items()}
    spec["model"]["vocab"] = turned
    for token in spec["added_tokens"]:
        token["id"] = turned[token["content"]]
    (other / "tokenizer.json").write_text(json.dumps(spec))
    shutil.copy(folder / "tokenizer_config.json", other)
    merging = dict(merge_method="passthrough", models=[dict(model="gemma3n")], tokenizer_source="turned")
    code, said = merge("turned", merging, "out-turned")
    if code:
        return judge.line("short tables", "transformers", said, False)
    place = [turned[word] for word, _ in sorted(vocab.items(), key=lambda pair: pair[1])]
    ids = [5, 40, 12, 33, 7, 43, 1]
    ours = logits(judge.dir / "out-turned", [place[id] for id in ids])[:, place]
    off = (ours - logits(folder, ids)).abs().max().item()
    judge.line("short tables", "transformers", off, off < 1e-4)


for case in [quantised, buffers, index, companions, vocabularies, per_layer]:
    if judge.wants(case.__name__):
        case()
judge.end()

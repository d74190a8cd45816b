#!/usr/bin/env python3
"""Adapters: what `fuselm` makes of MODEL+ADAPTER against the logits of PEFT, and what `extract-lora` writes.

    pip install torch transformers peft
    python scripts/judges/adapters.py --program target/release/fuselm

Each case is a tiny model and an adapter that PEFT made, or one whose files were changed afterwards. PEFT loads it
(`PeftModel.from_pretrained`, not merged) and says logits, or refuses it; `fuselm merge` writes the model with the adapter,
which transformers loads, and `fuselm eval` reads both, which must say the same. A case is right where the logits agree to
1e-4, where both refuse, or where it is one that `fuselm` refuses by its name. The other way, `extract-lora` writes the
difference of two models, PEFT loads it, and base + adapter must be as far from the tuned model as was said.
"""

from __future__ import annotations

import json
import shutil
import warnings

from common import Judge, load, model, quiet, save, tokenizer

import peft
import torch
import transformers as t
from safetensors.torch import load_file, save_file

IDS = torch.arange(3, 23)[None]
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, head_dim=8)
MOE = dict(num_local_experts=4, num_experts_per_tok=2)
BASES = {
    "llama": t.LlamaConfig(**SIZES, tie_word_embeddings=False),
    "tied": t.Qwen3Config(**SIZES, tie_word_embeddings=True),
    "biased": t.Qwen2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}, tie_word_embeddings=False),
    "gpt2": t.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=32),
    "gptoss": t.GptOssConfig(**SIZES, **MOE, sliding_window=16),
    "mixtral": t.MixtralConfig(**SIZES, **MOE),
    "qwen3moe": t.Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
    "qwen2moe": t.Qwen2MoeConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=24),
    "gemma": t.GemmaConfig(**SIZES),
}
QV = ["q_proj", "v_proj"]


def settings(**changes):
    """Changes adapter_config.json; None removes nothing, it says null."""
    def edit(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return edit


def tensors(change):
    """Changes the tensors: `change` takes and returns a name and a tensor, or returns None."""
    def edit(folder):
        path = folder / "adapter_model.safetensors"
        changed = [change(name, value) for name, value in load_file(path).items()]
        save_file({name: value.contiguous() for name, value in filter(None, changed)}, path)
    return edit


def renamed(old, new):
    return tensors(lambda name, value: (name.replace(old, new), value))


def without(part):
    return tensors(lambda name, value: None if part in name else (name, value))


# name, base, settings of PEFT, changes of the files, the word of a refusal that is right although PEFT loads it
CASES = [
    ("plain", "llama", dict(target_modules=QV), [], None),
    ("all-linear", "llama", dict(target_modules="all-linear"), [], None),
    ("regex", "llama", dict(target_modules=r".*layers\.1\..*(q|v|down)_proj"), [], None),
    ("null-targets", "llama", {}, [settings(target_modules=None)], None),
    ("exclude", "llama", dict(target_modules=QV), [settings(exclude_modules=["0.self_attn.v_proj"])], None),
    ("exclude-regex", "llama", dict(target_modules=QV), [settings(exclude_modules=".*v_proj")], None),
    ("exclude-all", "llama", dict(target_modules=QV), [settings(exclude_modules=QV)], None),
    ("fewer-targets", "llama", dict(target_modules=QV), [settings(target_modules=["q_proj"])], None),
    ("more-targets", "llama", dict(target_modules=QV), [settings(target_modules=[*QV, "o_proj"])], None),
    ("no-target", "llama", dict(target_modules=QV), [settings(target_modules=["foo"])], None),
    ("layers", "llama", dict(target_modules=QV, layers_to_transform=[1]), [], None),
    ("layers-narrowed", "llama", dict(target_modules=QV), [settings(layers_to_transform=[0])], None),
    ("layers-out", "llama", dict(target_modules=QV), [settings(layers_to_transform=[7])], None),
    ("layers-pattern", "llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="layers"), [], None),
    ("layers-regex", "llama", dict(target_modules=QV), [settings(target_modules=".*q_proj", layers_to_transform=[0])], None),
    ("r-unlike", "llama", dict(target_modules=QV), [settings(r=3)], None),
    ("rank-regex", "llama", dict(target_modules=QV, rank_pattern={r".*layers\.1\..*v_proj": 7, "q_proj": 2},
                                 alpha_pattern={r"^model\.layers\.0.*": 3, "v_proj": 11}), [], None),
    ("rank-unfit", "llama", dict(target_modules=QV), [settings(rank_pattern={"q_proj": 9})], None),
    ("rslora", "llama", dict(target_modules=QV, use_rslora=True, rank_pattern={"v_proj": 2}), [], None),
    ("dora", "llama", dict(target_modules=[*QV, "embed_tokens"], use_dora=True), [], None),
    ("dora-off", "llama", dict(target_modules=QV, use_dora=True), [settings(use_dora=False)], None),
    ("fan-in-fan-out", "llama", dict(target_modules=["o_proj", "q_proj"]), [settings(fan_in_fan_out=True)], None),
    ("gpt2", "gpt2", dict(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True), [], None),
    ("gpt2-off", "gpt2", dict(target_modules=["c_attn", "c_proj"]), [settings(fan_in_fan_out=False)], None),
    ("gpt2-dora", "gpt2", dict(target_modules=["c_attn", "c_proj", "wte"], use_dora=True), [], None),
    ("gpt2-pissa", "gpt2", dict(target_modules=["c_attn", "c_proj"], init_lora_weights="pissa"), [], None),
    ("gpt2-head", "gpt2", dict(target_modules=["c_attn", "lm_head"]), [], None),
    ("pissa", "llama", dict(target_modules=[*QV, "down_proj"], init_lora_weights="pissa"), [], None),
    ("pissa-dora", "llama", dict(target_modules=QV, init_lora_weights="pissa", use_dora=True), [], None),
    ("pissa-niter", "llama", dict(target_modules=QV, init_lora_weights="pissa_niter_4"), [], "init_lora_weights"),
    ("olora", "llama", dict(target_modules=[*QV, "up_proj"], init_lora_weights="olora"), [], None),
    *((f"init-{init}", "llama", dict(target_modules=QV), [settings(init_lora_weights=init)], None)
      for init in (False, None, "gaussian", "eva", "orthogonal", "mica")),
    *((f"init-{init}", "llama", dict(target_modules=QV), [settings(init_lora_weights=init)], "init_lora_weights")
      for init in ("corda", "loftq", "lora_ga", "tomorrow")),
    ("activated", "llama", dict(target_modules=QV), [settings(alora_invocation_tokens=[50, 51])], "alora_invocation_tokens"),
    ("replicated", "llama", dict(target_modules=QV), [settings(layer_replication=[[0, 2], [1, 2]])], "layer_replication"),
    ("unknown", "llama", dict(target_modules=QV), [settings(of_tomorrow=3)], "of_tomorrow"),
    ("unknown-null", "llama", dict(target_modules=QV), [settings(of_tomorrow=None)], None),
    ("bias-all", "biased", dict(target_modules=QV, bias="all"), [], None),
    ("bias-only", "biased", dict(target_modules=QV, bias="lora_only"), [], None),
    ("lora-bias", "biased", dict(target_modules=QV, lora_bias=True), [], None),
    ("saved", "llama", dict(target_modules=QV, modules_to_save=["lm_head", "model.norm"]), [], None),
    ("saved-block", "llama", dict(target_modules=QV, modules_to_save=["mlp"]), [], None),
    ("saved-missing", "llama", dict(target_modules=QV, modules_to_save=["lm_head"]), [without("lm_head")], None),
    ("saved-spelt", "llama", dict(target_modules=QV, modules_to_save=["lm_head"]),
     [renamed("lm_head.weight", "lm_head.modules_to_save.weight")], "applied"),
    ("saved-unsaid", "llama", dict(target_modules=QV, modules_to_save=["lm_head"]), [settings(modules_to_save=None)], None),
    ("embedding", "llama", dict(target_modules=[*QV, "embed_tokens"]), [], None),
    ("embedding-as-projection", "llama", dict(target_modules=[*QV, "embed_tokens"]),
     [renamed("lora_embedding_A", "lora_A.weight"), renamed("lora_embedding_B", "lora_B.weight")], None),
    ("default-names", "llama", dict(target_modules=QV), [renamed(".weight", ".default.weight")], None),
    ("tokens", "llama", dict(target_modules=QV, trainable_token_indices=[5, 9]), [], None),
    ("tokens-named", "llama", dict(target_modules=QV, trainable_token_indices={"embed_tokens": [9, 4, 20]}), [], None),
    ("tied-head", "tied", dict(target_modules=[*QV, "lm_head"]), [], None),
    ("tied-embedding", "tied", dict(target_modules=[*QV, "embed_tokens"]), [], None),
    ("tied-targets", "tied", dict(target_modules=[*QV, "embed_tokens", "lm_head"]), [], None),
    ("tied-save-head", "tied", dict(target_modules=QV, modules_to_save=["lm_head"]), [], None),
    ("tied-save-embedding", "tied", dict(target_modules=QV, modules_to_save=["embed_tokens"]), [], None),
    ("tied-save-both", "tied", dict(target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]), [], None),
    ("tied-save-unsaid", "tied", dict(target_modules=QV, modules_to_save=["embed_tokens"]), [settings(modules_to_save=None)], None),
    ("tied-ensured-save", "tied", dict(target_modules=QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True), [], None),
    ("tied-ensured-head", "tied", dict(target_modules=QV, modules_to_save=["lm_head"], ensure_weight_tying=True), [], None),
    ("tied-ensured-targets", "tied", dict(target_modules=[*QV, "embed_tokens", "lm_head"], ensure_weight_tying=True), [], None),
    ("tied-ensured-one", "tied", dict(target_modules=[*QV, "embed_tokens"], ensure_weight_tying=True), [], None),
    ("tied-tokens", "tied", dict(target_modules=QV, trainable_token_indices=[5, 9]), [], None),
    ("tied-tokens-both", "tied", dict(target_modules=QV, trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [4]}), [], None),
    ("tied-tokens-head", "tied", dict(target_modules=QV, trainable_token_indices={"lm_head": [4]}), [], None),
    ("experts", "gptoss", dict(target_modules=QV, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]), [], None),
    ("experts-one", "gptoss", dict(target_modules=[], target_parameters=["experts.down_proj"], rank_pattern={"experts.down_proj": 2}), [], None),
    ("resized", "llama", dict(target_modules=QV, rows=66), [], None),
    ("resized-saved", "llama", dict(target_modules=QV, modules_to_save=["embed_tokens", "lm_head"], rows=66), [], None),
    ("resized-adapted", "llama", dict(target_modules=[*QV, "embed_tokens", "lm_head"], rows=70), [], None),
    ("resized-tied", "tied", dict(target_modules=QV, rows=66), [], None),
    ("resized-tied-saved", "tied", dict(target_modules=QV, modules_to_save=["embed_tokens", "lm_head"], rows=66), [], None),
    ("bare", "bare", dict(target_modules=QV), [], None),
    ("bare-regex", "bare", dict(target_modules=r"model\.layers\.1\..*q_proj"), [], None),
    ("bare-embedding", "bare", dict(target_modules=[*QV, "embed_tokens"]), [], None),
    ("parameter", "llama", dict(target_modules=["v_proj"], target_parameters=["self_attn.q_proj.weight"]), [], None),
    ("gemma-embedding", "gemma", dict(target_modules=[*QV, "embed_tokens"]), [], None),
    ("gemma-all-linear", "gemma", dict(target_modules="all-linear"), [], None),
    ("mixtral-attention", "mixtral", dict(target_modules=QV), [], None),
    ("mixtral-experts", "mixtral", dict(target_modules=[*QV, "w1", "w2", "w3"]), [], None),
    ("mixtral-router", "mixtral", dict(target_modules=[*QV, "gate"]), [], None),
    ("qwen3moe-experts", "qwen3moe", dict(target_modules=[*QV, "gate_proj", "up_proj", "down_proj"]), [], None),
    ("qwen3moe-down", "qwen3moe", dict(target_modules=[], target_parameters=["mlp.experts.down_proj"]), [], None),
    ("experts-router", "gptoss", dict(target_modules=[], target_parameters=["router.weight"]), [], None),
]


def base(judge, name):
    folder = judge.dir / name
    if not folder.exists():
        model(folder, BASES["tied" if name == "bare" else name], 7)
        tokenizer(folder, 64)
        if name == "bare":  # as Qwen3-Embedding is stored
            stored = {key.removeprefix("model."): value for key, value in load(folder).items()}
            save(folder, stored, json.loads((folder / "config.json").read_text()))
    return folder


def made(judge, case, of, config):
    """The folder of an adapter whose numbers are drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = dict(config)
        whole = resized(base(judge, of), config.pop("rows", None))
        adapted = peft.get_peft_model(whole, peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **config))
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        folder = judge.dir / f"adapter-{case}"
        adapted.save_pretrained(folder)
    return folder


def resized(folder, rows):
    """The model, with so many rows in embedding and head."""
    whole = t.AutoModelForCausalLM.from_pretrained(folder)
    if rows:
        whole.resize_token_embeddings(rows)
    return whole


def of_peft(folder, adapter, rows):
    """PEFT's logits, or why it refuses."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            whole = resized(folder, rows)
            return peft.PeftModel.from_pretrained(whole, adapter).eval()(IDS).logits
    except Exception as error:
        return error


def logits(folder):
    with torch.no_grad():
        return t.AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits


def adapter(judge, case):
    name, of, config, edits, word = case
    folder = base(judge, of)
    try:
        dir = made(judge, name, of, config)
    except Exception as error:
        return judge.line(name, "PEFT does not make it", error, True)
    for edit in edits:
        edit(dir)
    right = of_peft(folder, dir, config.get("rows"))
    recipe = judge.dir / "merge.yml"
    recipe.write_text(f"merge_method: passthrough\nmodels: [{folder}+{dir}]\ndtype: float32\n")
    status, said = judge.run("merge", recipe, "merged", "--force")
    if status:
        refused = isinstance(right, Exception) or (word is not None and word in said)
        return judge.line(name, "PEFT refuses" if isinstance(right, Exception) else "refused by name", said, refused)
    if isinstance(right, Exception):
        return judge.line(name, f"PEFT refuses: {right}", "applied", word == "applied")
    if word and word != "applied":
        return judge.line(name, "should be refused by name", "applied", False)
    off = (logits(judge.dir / "merged") - right).abs().max().item()
    judge.line(name, "PEFT's logits", off, off < 1e-4)
    if of in ("llama", "tied", "biased", "mixtral", "gemma", "bare"):
        text = judge.dir / "text.jsonl"
        text.write_text(json.dumps({"text": " ".join(f"w{at}" for at in range(40))}) + "\n")
        both = [judge.run("eval", "--model", path, "--name", "m", "--data", "text.jsonl") for path in (f"{folder}+{dir}", "merged")]
        one, two = ((status, [line for line in said.splitlines() if not line.startswith("warning:")]) for status, said in both)
        judge.line(name, "eval as merged", 0.0 if one == two else one[1][-1:], one[0] == 0 and one == two)


def tweaked(folder, out, change):
    values = load(folder)
    torch.manual_seed(5)
    changed = {name: value + change(name, value) for name, value in values.items()}
    save(out, changed, json.loads((folder / "config.json").read_text()))
    tokenizer(out, 64)


def thin(value):
    rows, columns = value.shape
    return 0.3 * torch.randn(rows, 3) @ torch.randn(3, columns)


EXTRACTED = [
    ("extract", "llama", lambda name, value: thin(value) if "proj" in name else 0.0),
    ("extract-conv1d", "gpt2", lambda name, value: thin(value) if ".h." in name and value.dim() == 2 else 0.0),
    ("extract-embeddings", "llama", lambda name, value: thin(value) if "embed" in name or "head" in name or "q_proj" in name else 0.0),
    ("extract-tied", "tied", lambda name, value: thin(value) if "embed" in name or "q_proj" in name else 0.0),
    ("extract-norms", "llama", lambda name, value: 0.3 * torch.randn_like(value) if "norm" in name else 0.0),
    ("extract-biases", "biased", lambda name, value: 0.3 * torch.randn_like(value) if "bias" in name or "q_proj" in name else 0.0),
    ("extract-experts", "gptoss", lambda name, value: 0.3 * torch.randn_like(value) if "experts" in name or "sinks" in name else 0.0),
    ("extract-mixtral", "mixtral", lambda name, value: thin(value) if value.dim() == 2 and "layers" in name else 0.0),
    ("extract-qwen3moe", "qwen3moe", lambda name, value: thin(value) if value.dim() == 2 and "layers" in name else 0.0),
    ("extract-qwen2moe", "qwen2moe", lambda name, value: thin(value) if value.dim() == 2 and "layers" in name else 0.0),
    ("extract-full", "llama", lambda name, value: 0.1 * torch.randn_like(value)),
]


def extracted(judge, case):
    name, of, change = case
    folder, tuned, out = base(judge, of), judge.dir / f"tuned-{name}", judge.dir / f"extracted-{name}"
    tweaked(folder, tuned, change)
    shutil.rmtree(out, ignore_errors=True)
    status, said = judge.run("extract-lora", folder, tuned, out, "--rank", "4")
    if status:
        return judge.line(name, "extract-lora", said, False)
    share = float(said.rsplit(" % of the difference missed", 1)[0].split()[-1]) / 100
    before, after = load(folder), load(tuned)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = peft.PeftModel.from_pretrained(t.AutoModelForCausalLM.from_pretrained(folder), out).merge_and_unload()
            whole.save_pretrained(judge.dir / "back")
    except Exception as error:
        return judge.line(name, "PEFT loads what is written", error, False)
    found = load(judge.dir / "back")
    # A head that became a tensor of its own, or is the embedding still.
    of = lambda tensors, name: tensors[name] if name in tensors else tensors["model.embed_tokens.weight"]
    square = lambda a, b: sum(((of(a, n).double() - of(b, n).double()) ** 2).sum().item() for n in after)
    missed = (square(found, after) / square(before, after)) ** 0.5
    judge.line(name, f"PEFT: {missed:.4f} of the difference is missed", f"said {share:.4f}", abs(missed - share) < 2e-3)


def main():
    quiet()
    judge = Judge(__doc__)
    for case in CASES:
        if judge.wants(case[0]):
            adapter(judge, case)
    for case in EXTRACTED:
        if judge.wants(case[0]):
            extracted(judge, case)
    judge.end()


if __name__ == "__main__":
    main()

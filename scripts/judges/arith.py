#!/usr/bin/env python3
"""Compares the arithmetic and the configurations of `fuselm merge` with mergekit 0.1.5.

    python scripts/judges/arith.py [--program target/release/fuselm] [--shared ../shared]

Every deterministic method on opposed, equal, zero, tiny and random updates of tensors of rank 0 to 4, against
mergekit's methods in float64; every YAML file of `cases/merge` whose models are made here, and more forms;
base models that are not listed, chat templates, float64. Needs torch, transformers and mergekit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from common import Judge, load, model, quiet, save, tokenizer

SHAPES = [(), (1,), (6,), (3, 4), (5, 1), (2, 3, 4), (2, 3, 2, 2), (32, 48)]
HALF = {"weight": 0.5}
# Methods with their parameters, whether they have a base, and how many models they take.
METHODS = [
    ("linear", HALF, False, 2),
    ("task_arithmetic", {"weight": 0.5, "normalize": True}, True, 2),
    ("ties", {"weight": 0.5}, True, 2),
    ("ties", {"weight": 0.5, "density": 0.5}, True, 2),
    ("dare_linear", HALF, True, 2),
    ("dare_ties", HALF, True, 2),
    ("della", HALF, True, 2),
    ("breadcrumbs", {"weight": 0.5, "density": 0.5, "gamma": 0.1}, True, 2),
    ("breadcrumbs_ties", {"weight": 0.5, "density": 0.6, "gamma": 0.1}, True, 2),
    ("slerp", {"t": 0.3}, True, 1),
    ("nuslerp", HALF, True, 2),
    ("nuslerp", HALF, False, 2),
    ("nuslerp", {"weight": 0.5, "nuslerp_flatten": False}, True, 2),
    ("nuslerp", {"weight": 0.5, "nuslerp_flatten": False, "nuslerp_row_wise": True}, True, 2),
    ("multislerp", HALF, True, 2),
    ("multislerp", HALF, False, 2),
    ("karcher", {}, False, 2),
    ("model_stock", {}, True, 2),
    ("model_stock", {"filter_wise": True}, True, 2),
    ("nearswap", {"t": 0.01}, True, 1),
    ("sce", {}, True, 2),
    ("arcee_fusion", {}, True, 1),
]
# Where sums are zero up to rounding, so is the sign that models agree on.
SIGNS = ("ties", "dare_ties", "della", "breadcrumbs_ties", "sce")
BARE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 0}


def updates(torch) -> dict:
    """Cases of two updates: (base, first, second) for a shape."""
    def grid(shape, scale, seed):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
        values = (values * 8192).round() / 8192
        return torch.where(values == 0, torch.full_like(values, 1 / 8192), values)

    def two(first, second, free=False):
        def make(shape):
            base, u = grid(shape, 0.5, 1), grid(shape, 0.05, 2)
            if free:
                base, u = base * 1.001, u * 0.777
            v = u if second != "other" else grid(shape, 0.05, 3)
            return base, base + first * u, base + (0.7 if second == "other" else second) * v
        return make

    return {
        "random": two(1, "other"),
        "opposed": two(1, -1),
        "opposed, longer": two(1, -2),
        "opposed up to rounding": two(1, -1, free=True),
        "equal": two(1, 1),
        "zero": two(0, 0),
        "one zero": two(1, 0),
        "tiny": two(1e-8, 1e-8, free=True),
        "tiny, opposed": two(1e-6, -1e-6, free=True),
        "antipodal": lambda shape: (grid(shape, 0.5, 1), grid(shape, 0.5, 4), -grid(shape, 0.5, 4)),
    }


def methods(judge: Judge, torch) -> None:
    from mergekit import merge_methods
    from mergekit.merge_methods.base import TensorGroup

    for case, make in updates(torch).items():
        names = {f"model.rank{len(s)}.{'x'.join(map(str, s)) or 'scalar'}": s for s in SHAPES}
        made = {name: make(shape) for name, shape in names.items()}
        for at, folder in enumerate(("base", "a", "b")):
            save(judge.dir / "ranks" / folder, {n: m[at] for n, m in made.items()}, BARE)
        for method, parameters, based, count in METHODS:
            if "rounding" in case and method in SIGNS or case == "antipodal" and based:
                continue
            label = f"{method} {json.dumps(parameters)}{'' if based else ' no base'}: {case}"
            if not judge.wants(label):
                continue
            config = {"merge_method": method, "models": ["a", "b"][:count], "parameters": parameters}
            if based:
                config["base_model"] = "base"
            out = judge.dir / "ranks" / "out"
            (judge.dir / "ranks" / "c.yml").write_text(json.dumps(config))
            status, said = judge.run("merge", "c.yml", "out", "--force", cwd=judge.dir / "ranks")
            if status:
                judge.line(label, "mergekit", said, False)
                continue
            ours, theirs, kept, largest = load(out), {}, 0, {}
            for name, tensors in made.items():
                tensors = [t.double() for t in tensors[0 if based else 1:count + 1]]
                group = TensorGroup.from_tensors(tensors, base_index=0 if based else None)
                theirs[name] = merge_methods.get(method)([group], parameters=parameters)[0]
                # Where mergekit multiplies rounding: the linear mean, or the base.
                size = max((t - tensors[0]).abs().max().item() for t in tensors)
                off = (ours[name].double() - theirs[name]).abs().max().item()
                if off > 1e-6 and ("opposed" in case or "tiny" in case):
                    mean = sum(tensors[based:]) / (len(tensors) - based)
                    bound = size if "tiny" in case else 1e-6
                    if (ours[name] - mean).abs().max() <= bound:
                        kept, theirs[name] = kept + 1, mean
                largest[name] = max(tensor.abs().max().item() for tensor in tensors)
            said = f", the mean for {kept}" if kept else ""
            judge.close(label, f"mergekit{said}", ours, theirs, 1e-6, largest)


def llamas(judge: Judge, torch) -> Path:
    """base, ma, mb, a, b and `my model`, of four layers."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    root = judge.dir / "llamas"
    for seed, name in enumerate(("base", "ma", "mb", "a", "b", "my model")):
        config.max_position_embeddings = 64 + seed
        model(root / name, config, seed)
        template = "{% for m in messages %}A{{ m }}{% endfor %}" if seed in (2, 3) else "{{ 'B%d' }}" % seed
        tokenizer(root / name, 64, {"chat_template": template})
    return root


def mergekit(root: Path, text: str, out: str) -> dict | str:
    """What mergekit writes, or what it says."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(text))
        run_merge(config, str(root / out), MergeOptions(quiet=True, write_model_card=False))
    except Exception as error:  # noqa: BLE001  what it says is the result
        return f"{type(error).__name__}: {error}"
    return load(root / out)


TIES = "merge_method: ties\nbase_model: base\ndtype: float32\nmodels: [{model: ma}, {model: mb}]\n"
FORMS = {
    "text, words and blanks": TIES + "parameters: {weight: ' 5e-1 ', normalize: 'N', density: '1_0e-1'}",
    "octal, hexadecimal, base 60": TIES + "parameters: {weight: [01, 0x2], lambda: 1:00, normalize: t}",
    "flags as numbers": TIES + "parameters: {weight: yes, normalize: 0.0, density: true}",
    "merge keys": "x: &x {weight: 0.3}\ny: &y {weight: 0.9, density: 1.0}\n" + TIES
    + "parameters: {<<: [*x, *y], lambda: 2}",
    "a key twice": TIES + "parameters: {weight: 0.1, weight: 0.6}",
    "an empty list": TIES + "parameters: {weight: [], weight: 0.6, density: []}",
    "gradients of flags": TIES + "parameters: {weight: 0.5, normalize: [off, 1.0, 'true', no]}",
    "gradients of text": TIES + "parameters: {weight: ['0', 1, 5e-1]}",
    "layers as text": "merge_method: passthrough\nslices:\n- sources: [{model: ma, layer_range: ['1', 3.0]}]\n"
    "- sources: [{model: {model: {path: mb, revision: main}}, layer_range: [0, '2.0']}]\n",
    "a lora that is null": "merge_method: linear\nparameters: {weight: 1}\nmodels:\n"
    "- {model: {model: ma, lora: null}}\n- {model: mb@main}\n",
    "unknown keys": "z: 1\nmerge_method: slerp\nbase_model: base\nmodels: [{model: ma}, {model: base}]\n"
    "parameters: {t: 0.4, embed_slerp: true, normalize: 1}\n",
    "nulls": "slices:\nmodules: ~\ntokenizer: null\nout_dtype:\nchat_template: ''\nmerge_method: linear\nbase_model: ''\n"
    .replace("chat_template: ''\n", "").replace("base_model: ''\n", "")
    + "models: [{model: ma, parameters: {weight: 0.25}}, {model: mb, parameters: {weight: 1.5}}]\n",
    "float64": "merge_method: passthrough\ndtype: float64\nmodels: [{model: ma, parameters: {scale: 0.3}}]\n",
    "one module": "merge_method: ties\nbase_model: base\nparameters: {weight: 0.5}\nmodules: {default: {models: "
    "[{model: ma}, {model: mb}], parameters: {weight: [{filter: mlp, value: 0.3}]}}}\n",
    "empty slices": TIES + "slices: []\nparameters: {weight: 1}\n",
    "a residual weight": "merge_method: passthrough\nslices:\n"
    "- {sources: [{model: ma, layer_range: [0, 4]}], residual_weight: 0.5}\n",
}


def forms(judge: Judge, root: Path) -> None:
    cases = {f"form: {name}": text for name, text in FORMS.items()}
    for file in sorted((judge.shared / "cases/merge").glob("*/*.yml")):
        if file.parent.name in ("yaml-forms", "base-not-listed"):
            cases[f"{file.parent.name}/{file.name}"] = file.read_text(encoding="utf-8-sig")
    for at, (case, text) in enumerate(cases.items()):
        if not judge.wants(case):
            continue
        (root / "case.yml").write_text(text)
        theirs = mergekit(root, text, f"theirs{at}")
        status, said = judge.run("merge", "case.yml", f"ours{at}", cwd=root)
        if isinstance(theirs, str):
            # A base without effect, or a value that is lacking: to be said.
            judge.line(case, f"mergekit: {' '.join(theirs.split())[:70]}", said.split("warning")[-1],
                       "no effect" in said if status == 0 else "needs the parameter" in said)
        elif status:
            judge.line(case, "mergekit", said, False)
        else:
            judge.close(case, "mergekit", load(root / f"ours{at}"), theirs, 3e-2 if "bfloat16" in text else 2e-6)


def files(judge: Judge, root: Path, torch) -> None:
    import transformers

    models = "models: [{model: ma}, {model: mb}, {model: a}]\nmerge_method: linear\nparameters: {weight: 1}\n"
    for case, text in {
        "chat_template: auto": models + "chat_template: auto\n",
        "inline template": models + "chat_template: '{% for m in messages %}C{% endfor %}'\n",
        "config of the base": models + "base_model: b\n",
    }.items():
        if not judge.wants(case):
            continue
        (root / "case.yml").write_text(text)
        theirs, out = mergekit(root, text, f"theirs {case[:6]}"), root / f"ours {case[:6]}"
        status, said = judge.run("merge", "case.yml", out, cwd=root)
        if status or isinstance(theirs, str):
            judge.line(case, "mergekit", said if status else theirs, False)
            continue
        judge.close(case, "mergekit", load(out), theirs, 2e-6)
        a, b = (transformers.AutoTokenizer.from_pretrained(f) for f in (out, root / f"theirs {case[:6]}"))
        judge.line(case, "transformers", a.chat_template, a.chat_template == b.chat_template)
        written = "1000000000000000019884624838656" in (out / "tokenizer_config.json").read_text()
        judge.line(f"{case}: model_max_length", "as it was", written, written)
        key = "max_position_embeddings"
        found = [json.loads((f / "config.json").read_text())[key] for f in (out, root / f"theirs {case[:6]}")]
        if "base_model" in text:
            judge.line(f"{case}: {key}", "mergekit", found, found[0] == found[1])
    value = torch.randn(4, 5, dtype=torch.float64)
    save(root / "f64", {"model.norm.weight": value}, BARE)
    for scale in (1, 0.3):
        config = {"merge_method": "passthrough", "models": [{"model": "f64", "parameters": {"scale": scale}}]}
        (root / "case.yml").write_text(json.dumps(config))
        status, said = judge.run("merge", "case.yml", "f64 out", "--force", cwd=root)
        found = load(root / "f64 out")["model.norm.weight"] if not status else said
        judge.line(f"float64, scale {scale}", "torch", found if status else str(found.dtype),
                   not status and torch.equal(found, value * scale))


def main() -> None:
    import torch

    quiet()
    torch.set_num_threads(1)
    judge = Judge(__doc__)
    methods(judge, torch)
    root = llamas(judge, torch)
    os.chdir(root)
    forms(judge, root)
    files(judge, root, torch)
    judge.end()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compares fuselm's log-probabilities of a checkpoint with those of transformers.

    pip install torch transformers pyarrow
    python scripts/check_transformers.py runs/quickstart runs/quickstart/checkpoints/merged

and, for a model trained with `method: lora` and `lora.save: both`,

    pip install peft
    python scripts/check_transformers.py runs/quickstart runs/quickstart/checkpoints/merged \\
        --base data-samples/models/pivot --adapter runs/quickstart/checkpoints/merged/adapter

Loads MODEL with AutoModelForCausalLM and AutoTokenizer, lets `fuselm score` read the same tokens of
the run RUN, and prints the largest differences; then lets both continue --prompt greedily. Exit code 1
if a difference exceeds --tolerance or a token differs. With --adapter, transformers and PEFT load BASE and
ADAPTER, which must give what fuselm gives for MODEL, where the adapter is merged. The model must have a vocabulary of the run: the pivot's, or the one named by --vocab. `fuselm score` reads the
whole corpus of RUN; transformers reads the first --samples of it.
"""

import argparse
import importlib.util
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    import pyarrow.dataset
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    MISSING = None
except ImportError as error:
    MISSING = error

BUILT = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "fuselm"


def table(folder, **values):
    """Rows of an artifact, or of those of its partitions that have the given values."""
    data = pyarrow.dataset.dataset(folder, format="parquet", partitioning="hive")
    condition = None
    for name, value in values.items():
        equal = pyarrow.dataset.field(name) == value
        condition = equal if condition is None else condition & equal
    return data.to_table(filter=condition).sort_by("sample_id")


def decoded(row):
    """A row of `topk` as floats (docs/run-folder.md, From Python and DuckDB)."""
    ids, last = [], 0
    for gap in row["id_gaps"]:
        last += gap
        ids.append(last)
    return {
        "pos": row["pos"],
        "ids": ids,
        "target_logprob": -row["target_nll"] / 1024,
        "tail_logprob": 4 * math.log(max(row["tail_level"], 1e-3) / 432),
        "logprobs": [4 * math.log((level + row["base_level"]) / 432) for level in row["levels"]],
    }


def content(sample, spans):
    """For each token, whether it covers a supervised byte that is content, or is a prefix without width within it:
    what metrics count."""
    wanted = [span for span in spans if span["supervised"] and span["role"] != "turn_end"]
    starts = [0, *sample["byte_end"][:-1]]
    return [any(start < span["byte_end"] and max(end, start + 1) > span["byte_start"] for span in wanted)
            for start, end in zip(starts, sample["byte_end"])]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("model", metavar="MODEL", help="model folder")
    parser.add_argument("--vocab", help="vocabulary of the run [default: the pivot's]")
    parser.add_argument("--samples", type=int, default=32, help="samples to compare [default: 32]")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="in nats [default: 1e-4]")
    parser.add_argument("--base", help="model folder that the adapter belongs to")
    parser.add_argument("--adapter", help="folder of a LoRA adapter in PEFT's layout")
    parser.add_argument("--prompt", default="Once upon a time", help="text to continue [default: %(default)s]")
    parser.add_argument("--fuselm", help="the program [default: target/release of this repository, or on the PATH]")
    args = parser.parse_args()
    if (args.base is None) != (args.adapter is None):
        parser.error("--base and --adapter belong together")
    # All that is needed is looked for before any work is done.
    if MISSING:
        parser.error(f"{MISSING}; run `{pathlib.Path(sys.executable).name} -m pip install torch transformers pyarrow`")
    if args.adapter and importlib.util.find_spec("peft") is None:
        parser.error(f"--adapter needs peft; run `{pathlib.Path(sys.executable).name} -m pip install peft`")
    given = [args.fuselm] if args.fuselm else [str(BUILT), "fuselm"]
    args.fuselm = next(filter(None, map(shutil.which, given)), None)
    if args.fuselm is None:
        parser.error(f"no program {' or '.join(given)}; run `cargo build --release`, or name it with --fuselm")
    for folder in filter(None, [args.run, args.model, args.base, args.adapter]):
        if not pathlib.Path(folder).is_dir():
            parser.error(f"no folder {folder}")
    return args


def load(args):
    """The model in transformers, with its adapter if there is one."""
    model = AutoModelForCausalLM.from_pretrained(args.base or args.model, dtype=torch.float32)
    if args.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, args.adapter)
    return model.eval()


def same_continuation(args, model, tokenizer, bos, length=40):
    """Whether both programs continue the prompt with the same tokens."""
    which = ["--model", args.base, "--adapter", args.adapter] if args.adapter else ["--model", args.model]
    options = ["--raw", "--prompt", args.prompt, "--temperature", "0", "--max-new-tokens", str(length)]
    ours = subprocess.run([args.fuselm, "generate", *which, *options], check=True, capture_output=True, text=True).stdout
    ids = [bos, *tokenizer(args.prompt, add_special_tokens=False)["input_ids"]]
    # Where BOS is also the padding token, transformers would guess that it is not to be seen.
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=length, do_sample=False, pad_token_id=0)
    theirs = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    print(f"continuation    {ours.strip()!r}")
    if ours.strip() != theirs.strip():
        print(f"transformers    {theirs.strip()!r}")
    return ours.strip() == theirs.strip()


def main():
    args = arguments()
    vocab, pivot = args.vocab, None
    if vocab is None:
        models = pyarrow.dataset.dataset(f"{args.run}/models", format="parquet").to_table().to_pylist()
        vocab = pivot = next(row["vocabulary"] for row in models if row["role"] == "pivot")
    samples = table(f"{args.run}/tokens", vocab=vocab).slice(0, args.samples).to_pylist()
    transcripts = {row["sample_id"]: row for row in table(f"{args.run}/transcripts").to_pylist()}

    with tempfile.TemporaryDirectory() as folder:
        topk, metrics = f"{folder}/topk", f"{folder}/sequence_metrics"
        command = [args.fuselm, "score", "--run", args.run, "--name", "check", "--model", args.model]
        subprocess.run([*command, "--topk", topk, "--sequence-metrics", metrics], check=True)
        rows = {}
        for row in table(topk).to_pylist():
            rows.setdefault(row["sample_id"], []).append(decoded(row))
        sums = {row["sample_id"]: row for row in table(metrics).to_pylist()}

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = load(args)
    worst = {"nll": 0.0, "target_logprob": 0.0, "logprobs": 0.0}
    positions, same_ids = 0, 0
    for sample in samples:
        ids = sample["ids"]
        transcript = transcripts[sample["sample_id"]]
        counts = content(sample, transcript["spans"])
        found = tokenizer(transcript["text"], add_special_tokens=False)["input_ids"]
        # A transcript that does not start with BOS gets one of zero width in `tokens`.
        same_ids += found in (ids, ids[1:])
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nll = 0.0
        for row in rows.get(sample["sample_id"], []):
            theirs = logprobs[row["pos"]]
            following = ids[row["pos"] + 1]
            nll -= theirs[following].item() if counts[row["pos"] + 1] else 0.0
            listed = theirs[row["ids"]]
            differences = {
                "target_logprob": row["target_logprob"] - theirs[following].item(),
                "logprobs": (torch.tensor(row["logprobs"], dtype=torch.float64) - listed).abs().max().item(),
            }
            for name, difference in differences.items():
                worst[name] = max(worst[name], abs(difference))
            positions += 1
        ours = sums[sample["sample_id"]]
        worst["nll"] = max(worst["nll"], abs(ours["nll"] - nll) / max(ours["tokens"], 1))

    if vocab == pivot:  # A source is given its own special tokens for those of the pivot's template.
        print(f"tokens          {same_ids} of {len(samples)} transcripts have the same ids")
    print(f"distributions   {positions}")
    print(f"nll             differs by at most {worst['nll']:.2e} nats a token, over a sample (stored exactly)")
    print(f"target_logprob  differs by at most {worst['target_logprob']:.2e} nats (stored in steps of 1/1024)")
    print(f"logprobs        differ by at most {worst['logprobs']:.2e} nats (stored rounded)")
    if positions == 0:
        sys.exit("error: no distribution to compare")
    if worst["nll"] > args.tolerance or worst["target_logprob"] > args.tolerance + 1 / 2048:
        sys.exit(f"error: the tolerance is {args.tolerance:.0e} nats")
    if not same_continuation(args, model, tokenizer, samples[0]["ids"][0]):
        sys.exit("error: the continuations differ")


if __name__ == "__main__":
    main()

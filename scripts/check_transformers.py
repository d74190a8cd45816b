#!/usr/bin/env python3
"""Compares fuselm's log-probabilities of a checkpoint with those of transformers.

    pip install torch transformers pyarrow
    python scripts/check_transformers.py runs/quickstart runs/quickstart/checkpoints/merged

Loads MODEL with AutoModelForCausalLM and AutoTokenizer, lets `fuselm score` read the same tokens of
the run RUN, and prints the largest differences. Exit code 1 if one exceeds --tolerance. The model
must have a vocabulary of the run: the pivot's, or the one named by --vocab. `fuselm score` reads the
whole corpus of RUN; transformers reads the first --samples of it.
"""

import argparse
import subprocess
import sys
import tempfile

import pyarrow.dataset
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def table(folder, **values):
    """Rows of an artifact, or of those of its partitions that have the given values."""
    data = pyarrow.dataset.dataset(folder, format="parquet", partitioning="hive")
    condition = None
    for name, value in values.items():
        equal = pyarrow.dataset.field(name) == value
        condition = equal if condition is None else condition & equal
    return data.to_table(filter=condition).sort_by("sample_id")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("model", metavar="MODEL", help="model folder")
    parser.add_argument("--vocab", help="vocabulary of the run [default: the pivot's]")
    parser.add_argument("--samples", type=int, default=32, help="samples to compare [default: 32]")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="in nats [default: 1e-4]")
    parser.add_argument("--fuselm", default="target/release/fuselm", help="the program [default: %(default)s]")
    return parser.parse_args()


def main():
    args = arguments()
    vocab, pivot = args.vocab, None
    if vocab is None:
        models = pyarrow.dataset.dataset(f"{args.run}/models", format="parquet").to_table().to_pylist()
        vocab = pivot = next(row["vocabulary"] for row in models if row["role"] == "pivot")
    samples = table(f"{args.run}/tokens", vocab=vocab).slice(0, args.samples).to_pylist()
    texts = {row["sample_id"]: row["text"] for row in table(f"{args.run}/transcripts").to_pylist()}

    with tempfile.TemporaryDirectory() as folder:
        topk, metrics = f"{folder}/topk", f"{folder}/sequence_metrics"
        command = [args.fuselm, "score", "--run", args.run, "--name", "check", "--model", args.model]
        subprocess.run([*command, "--topk", topk, "--sequence-metrics", metrics], check=True)
        rows = {}
        for row in table(topk).to_pylist():
            rows.setdefault(row["sample_id"], []).append(row)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    worst = {"target_logprob": 0.0, "tail_logprob": 0.0, "logprobs": 0.0}
    positions, same_ids = 0, 0
    for sample in samples:
        ids = sample["ids"]
        found = tokenizer(texts[sample["sample_id"]], add_special_tokens=False)["input_ids"]
        # A transcript that does not start with BOS gets one of zero width in `tokens`.
        same_ids += found in (ids, ids[1:])
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for row in rows.get(sample["sample_id"], []):
            theirs = logprobs[row["pos"]]
            listed = theirs[row["ids"]]
            # log(1 - sum) from the ids that are not listed, without cancellation.
            tail = theirs.index_fill(0, torch.tensor(row["ids"]), -torch.inf).logsumexp(-1).item()
            differences = {
                "target_logprob": row["target_logprob"] - theirs[ids[row["pos"] + 1]].item(),
                "tail_logprob": row["tail_logprob"] - tail,
                "logprobs": (torch.tensor(row["logprobs"], dtype=torch.float64) - listed).abs().max().item(),
            }
            for name, difference in differences.items():
                worst[name] = max(worst[name], abs(difference))
            positions += 1

    if vocab == pivot:  # A source is given its own special tokens for those of the pivot's template.
        print(f"tokens          {same_ids} of {len(samples)} transcripts have the same ids")
    print(f"distributions   {positions}")
    print(f"target_logprob  differs by at most {worst['target_logprob']:.2e} nats")
    print(f"tail_logprob    differs by at most {worst['tail_logprob']:.2e} nats")
    print(f"logprobs        differ by at most {worst['logprobs']:.2e} nats (stored in steps of 1/128)")
    if positions == 0:
        sys.exit("error: no distribution to compare")
    if worst["target_logprob"] > args.tolerance:
        sys.exit(f"error: the tolerance is {args.tolerance:.0e} nats")


if __name__ == "__main__":
    main()

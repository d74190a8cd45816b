"""What the judges share: tiny checkpoints, runs of `fuselm`, one line for each case, the exit status.

Each judge makes tiny models, lets `fuselm` and the packages that define what is right (PEFT, transformers,
mergekit) compute the same, and prints `case | judge | largest difference or what is said | ok/WRONG`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A map of which the tokens are w0, w1, ... after three special ones.
SPECIALS = ("<unk>", "<s>", "</s>")


class Judge:
    """The cases of a script."""

    def __init__(self, about: str):
        parser = argparse.ArgumentParser(description=about.split("\n")[0])
        parser.add_argument("--program", default="target/release/fuselm")
        parser.add_argument("--shared", default=os.environ.get("FUSELM_TEST_SHARED", "../shared"))
        parser.add_argument("--keep", help="work in this folder, and keep it")
        parser.add_argument("--only", default="", help="only cases whose name has this part")
        options = parser.parse_args()
        self.program = str(Path(options.program).resolve())
        self.shared = Path(options.shared).resolve()
        self.only = options.only
        self.wrong = 0
        self.count = 0
        self._temporary = None
        if options.keep:
            self.dir = Path(options.keep).resolve()
            shutil.rmtree(self.dir, ignore_errors=True)
            self.dir.mkdir(parents=True)
        else:
            self._temporary = tempfile.TemporaryDirectory()
            self.dir = Path(self._temporary.name)
        if not Path(self.program).is_file():
            sys.exit(f"no program at {self.program}; give --program")

    def wants(self, case: str) -> bool:
        return self.only in case

    def run(self, *arguments, cwd=None) -> tuple[int, str]:
        """The exit status of `fuselm` with these arguments, and what it says."""
        command = [self.program, *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd or self.dir, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def line(self, case: str, judge: str, found, ok: bool) -> None:
        found = f"{found:.1e}" if isinstance(found, float) else " ".join(str(found).split())[:150]
        print(f"{case} | {judge} | {found} | {'ok' if ok else 'WRONG'}", flush=True)
        self.count += 1
        self.wrong += not ok

    def close(self, case: str, judge: str, ours: dict, theirs: dict, tolerance: float,
              largest: dict | None = None) -> None:
        """Compares tensors by name: `tolerance` times the largest magnitude of each, or that given."""
        missing = set(ours) ^ set(theirs)
        if missing:
            return self.line(case, judge, f"not in both: {sorted(missing)[:4]}", False)
        worst, ok = 0.0, True
        for name, theirs_value in theirs.items():
            a, b = ours[name].double(), theirs_value.double()
            if a.shape != b.shape:
                return self.line(case, judge, f"{name}: {tuple(a.shape)} and {tuple(b.shape)}", False)
            if not b.numel():
                continue
            off = (a - b).abs().max().item()
            worst = off if off != off else max(worst, off)
            size = (largest or {}).get(name, b.abs().max().item())
            ok &= off <= tolerance * max(size, 1e-30)
        self.line(case, judge, worst, ok)

    def end(self) -> None:
        print(f"{self.count} cases, {self.wrong} wrong")
        sys.exit(1 if self.wrong else 0)


def quiet() -> None:
    """Lets transformers say nothing but errors, and show no bars."""
    import transformers

    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load(folder) -> dict:
    """All tensors of a folder."""
    from safetensors.torch import load_file

    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(str(file)))
    return tensors


def save(folder, tensors: dict, config: dict) -> Path:
    """A folder with these tensors and this config.json."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def tokenizer(folder, size: int, settings: dict | None = None) -> None:
    """A tokenizer of whole words with `size` tokens."""
    folder = Path(folder)
    words = [*SPECIALS, *(f"w{i}" for i in range(size - len(SPECIALS)))]
    vocab = {word: at for at, word in enumerate(words)}
    added = [
        dict(id=vocab[word], content=word, single_word=False, lstrip=False, rstrip=False,
             normalized=False, special=True)
        for word in SPECIALS
    ]
    spec = dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                pre_tokenizer=dict(type="Whitespace"), post_processor=None, decoder=None,
                model=dict(type="WordLevel", vocab=vocab, unk_token=SPECIALS[0]))
    (folder / "tokenizer.json").write_text(json.dumps(spec, indent=1))
    config = dict(tokenizer_class="PreTrainedTokenizerFast", unk_token="<unk>", bos_token="<s>",
                  eos_token="</s>", model_max_length=1000000000000000019884624838656)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **(settings or {})}, indent=1))


def model(folder, config, seed: int, dtype=None):
    """A model with random weights, saved as transformers saves it."""
    import torch
    import transformers

    torch.manual_seed(seed)
    made = transformers.AutoModelForCausalLM.from_config(config).to(dtype or torch.float32)
    made.save_pretrained(folder)
    return made

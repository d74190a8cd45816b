"""Scoring and training of Llama models in PyTorch, as gpu_check does them: bf16 weights with f32
masters, fused AdamW, the loss on the label and on ten entries of a target.

Reads the models from stdin (`gpu_check models`); prints lines of model, work, attention, tokens a
second or the problem, peak bytes.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

SECONDS = 3.0
DEVICE = "cuda:0"


class Layer(torch.nn.Module):
    def __init__(self, hidden, heads, groups, inner):
        super().__init__()
        self.heads, self.groups, self.d = heads, groups, hidden // heads
        linear = lambda a, b: torch.nn.Linear(a, b, bias=False)
        self.q, self.o = linear(hidden, hidden), linear(hidden, hidden)
        self.k = linear(hidden, groups * self.d)
        self.v = linear(hidden, groups * self.d)
        self.gate, self.up = linear(hidden, inner), linear(hidden, inner)
        self.down = linear(inner, hidden)
        self.norms = torch.nn.ModuleList(torch.nn.RMSNorm(hidden, eps=1e-5) for _ in range(2))

    def forward(self, x, cos, sin, eager):
        batch, length, _ = x.shape
        y = self.norms[0](x)
        split = lambda z, heads: z.view(batch, length, heads, self.d).transpose(1, 2)
        q, k, v = split(self.q(y), self.heads), split(self.k(y), self.groups), split(self.v(y), self.groups)
        turn = lambda z: z * cos + torch.cat((-z[..., self.d // 2 :], z[..., : self.d // 2]), -1) * sin
        q, k = turn(q), turn(k)
        if self.groups < self.heads:
            share = self.heads // self.groups
            k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        if eager:
            scores = q @ k.transpose(-1, -2) / self.d**0.5
            mask = torch.full((length, length), float("-inf"), device=x.device, dtype=x.dtype).triu(1)
            y = torch.softmax(scores + mask, -1, dtype=torch.float32).to(x.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, -1))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(torch.nn.Module):
    def __init__(self, hidden, layers, heads, groups, inner, vocabulary):
        super().__init__()
        self.d = hidden // heads
        self.embed = torch.nn.Embedding(vocabulary, hidden)
        self.layers = torch.nn.ModuleList(Layer(hidden, heads, groups, inner) for _ in range(layers))
        self.norm = torch.nn.RMSNorm(hidden, eps=1e-5)
        self.recompute = False
        self.head = torch.nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, ids, eager):
        length = ids.shape[1]
        powers = torch.arange(0, self.d, 2, device=ids.device) / self.d
        angles = torch.outer(torch.arange(length, device=ids.device), 10000.0**-powers).repeat(1, 2)
        x = self.embed(ids)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, eager, use_reentrant=False)
            else:
                x = layer(x, cos, sin, eager)
        return self.norm(x)


def rate(tokens, work):
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, runs = time.time(), 0
    while time.time() - start < SECONDS:
        work()
        torch.cuda.synchronize()
        runs += 1
    return runs * tokens / (time.time() - start), torch.cuda.max_memory_allocated()


def scoring(model, ids, eager):
    @torch.no_grad()
    def work():
        hidden = model(ids, eager).flatten(0, 1)
        for rows in hidden.split(4096):
            logits = model.head(rows).float()
            logits.sub_(logits.logsumexp(-1, keepdim=True))
            logits.topk(10).values.cpu()

    return rate(ids.numel(), work)


def training(model, ids, eager):
    params = list(model.parameters())
    masters = [p.detach().float() for p in params]
    optimiser = torch.optim.AdamW(masters, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    labels = ids[:, 1:].reshape(-1)
    listed = torch.stack([ids.flatten().roll(-i) for i in range(10)], -1)[: labels.numel()]

    def work():
        hidden = model(ids, eager)[:, :-1].flatten(0, 1)
        # The head in pieces, as fuselm does it; its gradient seeds the rest.
        leaf = hidden.detach().requires_grad_()
        for i in range(0, len(labels), 4096):
            part = slice(i, i + 4096)
            logp = torch.log_softmax(model.head(leaf[part]).float(), -1)
            clm = -logp.gather(1, labels[part, None]).sum()
            fusion = -0.1 * logp.gather(1, listed[part]).sum()
            ((0.9 * clm + 0.1 * fusion) / len(labels)).backward()
        hidden.backward(leaf.grad)
        for master, p in zip(masters, params):
            master.grad = p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(params, masters)
        for master in masters:
            master.grad = None

    return rate(ids.numel(), work)


def main():
    for line in sys.stdin:
        name, *numbers = line.rstrip("\n").split("\t")
        hidden, layers, heads, groups, inner, vocabulary, *shapes, recompute = map(int, numbers)
        work = {"scoring": (scoring, shapes[:2]), "training": (training, shapes[2:])}
        for what, (run, shape) in work.items():
            for attention in ("eager", "sdpa"):
                try:
                    torch.manual_seed(0)
                    with torch.device(DEVICE):
                        model = Model(hidden, layers, heads, groups, inner, vocabulary).bfloat16()
                    model.recompute = bool(recompute)
                    ids = torch.randint(vocabulary, tuple(shape), device=DEVICE)
                    speed, peak = run(model, ids, attention == "eager")
                    result = f"{speed}\t{peak}"
                except torch.OutOfMemoryError:
                    result = "out of memory\t-"
                print(name, what, attention, result, sep="\t", flush=True)
                model = ids = None
                torch.cuda.empty_cache()


main()

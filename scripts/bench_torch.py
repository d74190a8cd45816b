"""The PyTorch side of `cargo bench --bench model`: reads one task a line, answers with seconds.

Its arguments are the number of threads and the shape of the model and the batches, in JSON.
A line is `<score|train> <eager|sdpa>`; the answer is wall seconds and CPU seconds of this process
for one round over the batches. Needs torch only.
"""

import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = json.loads(sys.argv[2])
VOCAB, HIDDEN, INNER = SHAPE["vocabulary"], SHAPE["hidden"], SHAPE["inner"]
LAYERS, HEADS, GROUPS, D = (SHAPE[key] for key in ("layers", "heads", "groups", "head_dim"))
BATCH, LEN, BATCHES, TOP = SHAPE["batch"], SHAPE["len"], SHAPE["batches"], 10


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda a, b: nn.Linear(a, b, bias=False)
        self.q, self.o = linear(HIDDEN, HEADS * D), linear(HEADS * D, HIDDEN)
        self.k, self.v = linear(HIDDEN, GROUPS * D), linear(HIDDEN, GROUPS * D)
        self.gate, self.up = linear(HIDDEN, INNER), linear(HIDDEN, INNER)
        self.down = linear(INNER, HIDDEN)
        self.first, self.second = nn.RMSNorm(HIDDEN, 1e-5), nn.RMSNorm(HIDDEN, 1e-5)

    def attend(self, x, cos, sin, mask, sdpa):
        b, n, _ = x.shape
        split = lambda y, heads: y.view(b, n, heads, D).transpose(1, 2)

        def rotate(y):
            a, c = y.chunk(2, -1)
            return y * cos + torch.cat((-c, a), -1) * sin

        q, k, v = split(self.q(x), HEADS), split(self.k(x), GROUPS), split(self.v(x), GROUPS)
        q, k = rotate(q), rotate(k)
        k, v = (y.repeat_interleave(HEADS // GROUPS, 1) for y in (k, v))
        if sdpa:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(2, 3) * D**-0.5 + mask
            y = scores.softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, n, HEADS * D))

    def forward(self, x, cos, sin, mask, sdpa):
        x = x + self.attend(self.first(x), cos, sin, mask, sdpa)
        y = self.second(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, 1e-5)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)
        if SHAPE["tied"]:
            self.head.weight = self.embed.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        angles = torch.outer(torch.arange(LEN), 1e4 ** (-torch.arange(0, D, 2) / D))
        angles = torch.cat((angles, angles), -1)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.mask = torch.full((LEN, LEN), float("-inf")).triu(1)

    def forward(self, ids, sdpa):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, self.mask, sdpa)
        return self.head(self.norm(x))


def main():
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[1]))
    model = Model()
    batches = torch.randint(VOCAB, (BATCHES, BATCH, LEN))
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def score(sdpa):
        with torch.inference_mode():
            for ids in batches:
                logprobs = model(ids, sdpa)[:, :-1].log_softmax(-1)
                logprobs.topk(TOP)
                logprobs.gather(2, ids[:, 1:, None])

    def train(sdpa):
        for ids in batches:
            logits = model(ids, sdpa)[:, :-1]
            loss = F.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()

    print(f"torch {torch.__version__}", flush=True)
    for line in sys.stdin:
        task, attention = line.split()
        before = os.times()
        started = time.perf_counter()
        {"score": score, "train": train}[task](attention == "sdpa")
        wall = time.perf_counter() - started
        after = os.times()
        print(wall, after.user + after.system - before.user - before.system, flush=True)


main()

#!/usr/bin/env python3
"""PyTorch's side of bench/train.cc, started by it: the same model and training step, compiled, with fused AdamW.
Reads a line a measurement ("step", "memory") and answers each with one of JSON. Needs: pip install torch"""
import json
import os
import sys
import time

config = json.loads(sys.argv[1])
os.environ["OMP_NUM_THREADS"] = str(config["threads"])
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print must not look like an answer

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"{error.name} is not installed (pip install torch)")

sizes = config["sizes"]
L, E, H, V = sizes["depth"], sizes["embedding"], sizes["heads"], config["vocabulary"]
B, T, D = config["rows"], config["length"], E // H
DEVICE = config["device"]
if DEVICE == "cuda" and not torch.cuda.is_available():
    sys.exit("this PyTorch sees no GPU")


def status_bytes(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, E)


def heads(x):
    return x.view(B, T, H, D).transpose(1, 2)


class LlamaLayer(nn.Module):
    def __init__(self):
        super().__init__()
        width = sizes["feed_forward"]
        self.q, self.k, self.v, self.o = (nn.Linear(E, E, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(E, width, bias=False), nn.Linear(E, width, bias=False)
        self.down = nn.Linear(width, E, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(E, eps=1e-5), nn.RMSNorm(E, eps=1e-5)

    def forward(self, x, cos, sin):
        def rope(y):
            first, second = y.chunk(2, dim=-1)
            return y * cos + torch.cat((-second, first), dim=-1) * sin

        h = self.norm1(x)
        x = x + self.o(attention(rope(heads(self.q(h))), rope(heads(self.k(h))), heads(self.v(h))))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, E)
        self.layers = nn.ModuleList(LlamaLayer() for _ in range(L))
        self.norm = nn.RMSNorm(E, eps=1e-5)
        angles = torch.outer(torch.arange(T).float(), 10000.0 ** (-torch.arange(0, D, 2).float() / D))
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.linear(self.norm(x), self.embedding.weight)


class Gpt2Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(E), nn.LayerNorm(E)
        self.qkv, self.o = nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.inner, self.outer = nn.Linear(E, 4 * E), nn.Linear(4 * E, E)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).split(E, dim=-1)
        x = x + self.o(attention(heads(q), heads(k), heads(v)))
        return x + self.outer(F.gelu(self.inner(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(V, E), nn.Embedding(config["context"], E)
        self.layers = nn.ModuleList(Gpt2Layer() for _ in range(L))
        self.norm = nn.LayerNorm(E)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions.weight[:T]
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.embedding.weight)


class Step:
    def __init__(self):
        self.idle = status_bytes("VmRSS:")
        torch.manual_seed(0)
        torch.set_num_threads(config["threads"])
        self.model = {"llama": Llama, "gpt2": Gpt2}[config["type"]]().to(DEVICE)
        for name, parameter in self.model.named_parameters():
            residual = name.endswith((".o.weight", ".down.weight", ".outer.weight"))
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02 / (2 * L) ** 0.5 if residual else 0.02)
        groups = [{"params": [p for p in self.model.parameters() if p.dim() > 1], "weight_decay": 0.1},
                  {"params": [p for p in self.model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
        self.tokens = torch.randint(0, V, (B, T), device=DEVICE)
        self.labels = self.tokens.view(-1).roll(-1).view(B, T)
        self.loss = torch.compile(self.forward)

    def forward(self):
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=config["bf16"]):
            logits = self.model(self.tokens)
        return F.cross_entropy(logits.float().view(-1, V), self.labels.view(-1))

    def run(self):
        clock = time.process_time if config["threads"] == 1 and DEVICE == "cpu" else time.perf_counter
        start = clock()
        loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return {"loss": value, "seconds": clock() - start}

    def memory_bytes(self):
        return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else status_bytes("VmHWM:") - self.idle


def main():
    step = Step()
    for line in sys.stdin:
        answer = step.run() if line == "step\n" else {"bytes": step.memory_bytes()}
        print(json.dumps(answer), file=answers, flush=True)


main()

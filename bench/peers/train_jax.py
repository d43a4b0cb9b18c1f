#!/usr/bin/env python3
"""JAX's side of bench/train.cc on a PJRT plugin, started by it: the same model and training step under jax.jit on the
same plugin, with donated parameters. Reads a line a measurement ("step", "memory") and answers each with one of JSON.
Needs: pip install jax"""
import json
import os
import sys
import time

config = json.loads(sys.argv[1])
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print must not look like an answer

try:
    os.environ["JAX_PLATFORMS"] = "measured"
    import jax
    import jax.numpy as jnp
    from jax._src import xla_bridge
except ImportError as error:
    sys.exit(f"{error.name} is not installed (pip install jax)")

xla_bridge.register_plugin("measured", library_path=config["plugin"], options=config["create_options"])

sizes = config["sizes"]
L, E, H, V = sizes["depth"], sizes["embedding"], sizes["heads"], config["vocabulary"]
B, T, D = config["rows"], config["length"], E // H
F = sizes.get("feed_forward", 4 * E)
LLAMA = config["type"] == "llama"


def status_bytes(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def dense(x, w):
    return jnp.einsum("bte,fe->btf", x, w)


def attention(q, k, v):
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * D**-0.5
    seen = jnp.tril(jnp.ones((T, T), bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(B, T, E)


def heads(x):
    return x.reshape(B, T, H, D)


def rms_norm(x, w):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * w


def layer_norm(x, w, b):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + 1e-5) * w + b


def rope(x):
    angles = jnp.outer(jnp.arange(T), 10000.0 ** (-jnp.arange(0, D, 2) / D))
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = x[..., : D // 2], x[..., D // 2 :]
    return jnp.concatenate((first * cos - second * sin, second * cos + first * sin), -1)


def llama(p, tokens):
    x = p["embedding"][tokens]
    for layer in p["layers"]:
        h = rms_norm(x, layer["norm1"])
        q, k, v = (heads(dense(h, layer[name])) for name in "qkv")
        x = x + dense(attention(rope(q), rope(k), v), layer["o"])
        h = rms_norm(x, layer["norm2"])
        x = x + dense(jax.nn.silu(dense(h, layer["gate"])) * dense(h, layer["up"]), layer["down"])
    return dense(rms_norm(x, p["norm"]), p["embedding"])


def gpt2(p, tokens):
    x = p["embedding"][tokens] + p["positions"][:T]
    for layer in p["layers"]:
        h = layer_norm(x, layer["norm1"], layer["bias1"])
        q, k, v = map(heads, jnp.split(dense(h, layer["qkv"]) + layer["qkv_bias"], 3, axis=-1))
        x = x + dense(attention(q, k, v), layer["o"]) + layer["o_bias"]
        h = layer_norm(x, layer["norm2"], layer["bias2"])
        h = jax.nn.gelu(dense(h, layer["inner"]) + layer["inner_bias"], approximate=True)
        x = x + dense(h, layer["outer"]) + layer["outer_bias"]
    return dense(layer_norm(x, p["norm"], p["bias"]), p["embedding"])


def initial():
    keys = iter(jax.random.split(jax.random.key(0), 16 * L + 16))

    def matrix(*shape):
        return 0.02 * jax.random.normal(next(keys), shape)

    ones, zeros = jnp.ones(E), jnp.zeros(E)
    if LLAMA:
        layers = [{"q": matrix(E, E), "k": matrix(E, E), "v": matrix(E, E), "o": matrix(E, E), "gate": matrix(F, E),
                   "up": matrix(F, E), "down": matrix(E, F), "norm1": ones, "norm2": ones} for _ in range(L)]
        return {"embedding": matrix(V, E), "layers": layers, "norm": ones}
    layers = [{"qkv": matrix(3 * E, E), "qkv_bias": jnp.zeros(3 * E), "o": matrix(E, E), "o_bias": zeros,
               "inner": matrix(F, E), "inner_bias": jnp.zeros(F), "outer": matrix(E, F), "outer_bias": zeros,
               "norm1": ones, "bias1": zeros, "norm2": ones, "bias2": zeros} for _ in range(L)]
    return {"embedding": matrix(V, E), "positions": matrix(config["context"], E), "layers": layers, "norm": ones,
            "bias": zeros}


def loss_of(p, tokens, labels):
    logits = (llama if LLAMA else gpt2)(p, tokens)
    chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - chosen)


def train(p, m, v, step, tokens, labels):
    loss, gradients = jax.value_and_grad(loss_of)(p, tokens, labels)
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
    scale = jnp.minimum(1.0, 1.0 / norm)

    def update(w, g, m, v):
        g = g * scale
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        change = m / (1 - 0.9**step) / (jnp.sqrt(v / (1 - 0.95**step)) + 1e-8)
        return w - 3e-4 * (change + (0.1 * w if w.ndim > 1 else 0)), m, v

    triples = jax.tree.map(update, p, gradients, m, v)
    return (loss, *(jax.tree.map(lambda t, i=i: t[i], triples, is_leaf=lambda t: isinstance(t, tuple))
                    for i in range(3)))


class Step:
    def __init__(self):
        self.p = initial()
        # Buffers of their own: a donated one may be given once.
        self.p = jax.tree.map(lambda x: x + 0.0, self.p)
        self.m, self.v = (jax.tree.map(jnp.zeros_like, self.p) for _ in range(2))
        self.tokens = jax.random.randint(jax.random.key(1), (B, T), 0, V)
        self.labels = jnp.roll(self.tokens.reshape(-1), -1).reshape(B, T)
        self.train = jax.jit(train, donate_argnums=(0, 1, 2))
        self.count = 0

    def run(self):
        start = time.perf_counter()
        self.count += 1
        loss, self.p, self.m, self.v = self.train(self.p, self.m, self.v, float(self.count), self.tokens, self.labels)
        return {"loss": float(loss), "seconds": time.perf_counter() - start}


def main():
    idle = status_bytes("VmRSS:")
    step = Step()
    for line in sys.stdin:
        answer = step.run() if line == "step\n" else {"bytes": status_bytes("VmHWM:") - idle}
        print(json.dumps(answer), file=answers, flush=True)


main()

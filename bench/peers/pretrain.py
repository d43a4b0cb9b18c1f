#!/usr/bin/env python3
"""PyTorch's side of bench/pretrain.cc, started by it: repeats a pretraining run from the file that it writes (initial
weights, batches, learning rates, held-out batches), and answers with one line of JSON a step, with the bits per byte
of the held-out batches wherever the run has them. The same arithmetic written anew: model, loss, gradients, clipping, AdamW.
   pretrain.py EXCHANGE.safetensors ANSWER.jsonl THREADS
Needs: pip install torch safetensors"""
import json
import math
import os
import sys
import time

exchange, answer, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ["OMP_NUM_THREADS"] = str(threads)

try:
    import torch
    import torch.nn.functional as F
    from safetensors import safe_open
except ImportError as error:
    sys.exit(f"{error.name} is not installed (pip install torch safetensors)")

torch.set_num_threads(threads)
file = safe_open(exchange, framework="pt")
config, settings = (json.loads(file.metadata()[key]) for key in ("config", "settings"))
assert config["model_type"] == "llama" and config["tie_word_embeddings"]
assert settings["optimizer"] == "adamw" and settings["accumulation"] == 1
E, V = config["hidden_size"], config["vocab_size"]
H, K, D = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
EPSILON = config["rms_norm_eps"]
FREQUENCIES = config["rope_theta"] ** (-torch.arange(0, D, 2).double() / D)

weights = {name.removeprefix("initial/"): file.get_tensor(name).clone().requires_grad_()
           for name in file.keys() if name.startswith("initial/")}


def norm(x, name):
    return F.rms_norm(x, (E,), weights[name], EPSILON)


def forward(tokens, cos, sin, visible):
    """[B, T] -> hidden states [B, T, E]; cos, sin [B, 1, T, D]; visible [B, 1, T, T]."""
    B, T = tokens.shape

    def heads(x, name, count):
        return F.linear(x, weights[name]).view(B, T, count, D).transpose(1, 2)

    def rope(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    x = F.embedding(tokens, weights["model.embed_tokens.weight"])
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = norm(x, layer + "input_layernorm.weight")
        attention = F.scaled_dot_product_attention(
            rope(heads(h, layer + "self_attn.q_proj.weight", H)), rope(heads(h, layer + "self_attn.k_proj.weight", K)),
            heads(h, layer + "self_attn.v_proj.weight", K), attn_mask=visible, enable_gqa=H != K)
        x = x + F.linear(attention.transpose(1, 2).reshape(B, T, H * D), weights[layer + "self_attn.o_proj.weight"])
        h = norm(x, layer + "post_attention_layernorm.weight")
        gated = F.silu(F.linear(h, weights[layer + "mlp.gate_proj.weight"])) * F.linear(
            h, weights[layer + "mlp.up_proj.weight"])
        x = x + F.linear(gated, weights[layer + "mlp.down_proj.weight"])
    return norm(x, "model.norm.weight")


@torch.compile
def token_losses(tokens, labels, cos, sin, visible):
    """Nats of every token [B T], 0 where there is no label."""
    logits = F.linear(forward(tokens, cos, sin, visible), weights["model.embed_tokens.weight"])
    return F.cross_entropy(logits.view(-1, V), labels.view(-1), ignore_index=-1, reduction="none")


class Batches:
    def __init__(self, prefix):
        self.arrays = [file.get_tensor(f"{prefix}/{name}").long()
                       for name in ("tokens", "labels", "segments", "positions")]

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        tokens, labels, segments, positions = (array[index] for array in self.arrays)
        angles = positions.double()[:, None, :, None] * FREQUENCIES
        angles = torch.cat((angles, angles), dim=-1)
        earlier = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        visible = (segments[:, None, :, None] == segments[:, None, None, :]) & earlier
        return tokens, labels, angles.cos().float(), angles.sin().float(), visible


def evaluate(batches):
    token_bytes = file.get_tensor("token_bytes").long()
    nats, size_bytes = 0.0, 0
    with torch.no_grad():
        for index in range(len(batches)):
            batch = batches[index]
            nats += token_losses(*batch).double().sum().item()
            size_bytes += token_bytes[batch[1][batch[1] >= 0]].sum().item()
    return nats / size_bytes / math.log(2)


def main():
    parameters = list(weights.values())
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings["weight_decay"]},
              {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(settings["beta1"], settings["beta2"]),
                                  eps=settings["epsilon"], fused=True)
    training, held_out, rates = Batches("train"), Batches("validation"), file.get_tensor("learning_rates").tolist()
    start = time.process_time()
    with open(answer, "w") as out:
        for step, rate in enumerate(rates):
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = training[step]
            loss = token_losses(*batch).sum() / (batch[1] >= 0).sum()
            loss.backward()
            if settings["clip_norm"] > 0:
                torch.nn.utils.clip_grad_norm_(parameters, settings["clip_norm"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            line = {"step": step + 1, "loss": loss.item(), "processor_seconds": time.process_time() - start}
            every = settings["evaluate_every"]
            if step + 1 == len(rates) or (every > 0 and (step + 1) % every == 0):
                line["validation_bits_per_byte"] = evaluate(held_out)
            print(json.dumps(line), file=out, flush=True)


main()

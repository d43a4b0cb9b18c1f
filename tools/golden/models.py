#!/usr/bin/env python3
"""Writes tests/golden/models/: tiny random checkpoints in Hugging Face layout, made by transformers, and beside each
what PyTorch computes with it in float64: logits, gradients, an AdamW loss curve, greedy text.

golden.json holds the inputs and the short results, golden.safetensors the logits ("logits/I" of sequence I) and the
gradients ("gradient/NAME"). Documents of a packed row are run one by one, so that packing is tested, not assumed.
Needs: pip install torch transformers safetensors. Run: python3 tools/golden/models.py
"""
import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/models"
VOCABULARY, CONTEXT, LENGTH = 64, 64, 16
OPTIMIZER = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
STEPS = 10
# Head width times heads is not the embedding's width, and no width is a multiple of a vector's: edges matter.
LLAMA = dict(vocab_size=VOCABULARY, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, rope_theta=10000.0,
             bos_token_id=None, eos_token_id=None)
GPT2 = dict(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)


def checkpoints():
    yield "llama", LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=False))
    yield "llama-tied", LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True))
    yield "gpt2", GPT2LMHeadModel(GPT2Config(**GPT2))


def randomize(model):
    """Every parameter away from its special start (ones, zeros), and large enough that every part counts."""
    for name, parameter in model.named_parameters():
        scale = {1: 0.1, 2: 0.3}[parameter.dim()]
        start = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        parameter.data = start + scale * torch.randn(parameter.shape)


def make_batch():
    """Row 0: documents of 10 and 6 tokens; row 1: one of 16. Some labels are ignored."""
    documents = [(0, 0, 10), (0, 10, 16), (1, 0, 16)]
    tokens = torch.randint(0, VOCABULARY, (2, LENGTH))
    labels, segments, positions = (torch.full((2, LENGTH), -1) for _ in range(3))
    for row, begin, end in documents:
        labels[row, begin : end - 1] = tokens[row, begin + 1 : end]
        segments[row, begin:end] = int(begin > 0)
        positions[row, begin:end] = torch.arange(end - begin)
    labels[0, 3] = labels[1, 0] = labels[1, 7] = -1
    return {"documents": documents, "tokens": tokens, "labels": labels, "segments": segments, "positions": positions}


def batch_loss(model, batch):
    total = 0
    for row, begin, end in batch["documents"]:
        logits = model(batch["tokens"][row : row + 1, begin:end], use_cache=False).logits[0]
        total = total + F.cross_entropy(logits, batch["labels"][row, begin:end], ignore_index=-1, reduction="sum")
    return total / (batch["labels"] >= 0).sum()


def loss_curve(model, batch):
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}],
                                  lr=OPTIMIZER["learning_rate"], betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
                                  eps=OPTIMIZER["epsilon"], weight_decay=OPTIMIZER["weight_decay"])
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = batch_loss(model, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def greedy(model, prompt, count):
    tokens, gap = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(count):
            best = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].topk(2)
            gap = min(gap, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
    assert gap > 1e-3, f"the two likeliest tokens are {gap} apart: rounding could decide"
    return tokens[len(prompt) :]


def write(name, model):
    folder = OUT / name
    randomize(model)
    model.save_pretrained(folder)
    model.double().eval()
    tensors = {}
    sequences = [torch.randint(0, VOCABULARY, (n,)).tolist() for n in (1, 7, 33)]
    with torch.no_grad():
        for i, sequence in enumerate(sequences):
            tensors[f"logits/{i}"] = model(torch.tensor([sequence]), use_cache=False).logits[0].float()
    prompts = [torch.randint(0, VOCABULARY, (n,)).tolist() for n in (3, 12)]
    texts = [{"prompt": prompt, "tokens": greedy(model, prompt, 20)} for prompt in prompts]
    batch = make_batch()
    batch_loss(model, batch).backward()
    for parameter_name, parameter in model.named_parameters():
        tensors[f"gradient/{parameter_name}"] = parameter.grad.float()
    losses, norms = loss_curve(model, batch)
    assert max(norms) > 1, "clipping was to be tested"
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "golden.safetensors")
    golden = {"sequences": sequences, "greedy": texts, "optimizer": OPTIMIZER, "losses": losses, "gradient_norms": norms,
              "batch": {key: value.tolist() for key, value in batch.items() if key != "documents"}}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, "losses", losses[0], "...", losses[-1], "norms", [round(n, 2) for n in norms])


def main():
    torch.manual_seed(11)
    shutil.rmtree(OUT, ignore_errors=True)
    for name, model in checkpoints():
        write(name, model)
    print(sum(file.stat().st_size for file in OUT.rglob("*") if file.is_file()), "bytes in all")


main()

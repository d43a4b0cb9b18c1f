#!/usr/bin/env python3
"""Writes tests/golden/models/: tiny random checkpoints in Hugging Face layout, made by transformers, and beside each
what PyTorch computes with it in float64: logits, an AdamW loss curve (and gradients, where a checkpoint is listed
with them), greedy text.

golden.json holds the inputs and the short results, golden.safetensors the logits ("logits/I" of sequence I) and the
gradients ("gradient/NAME"). Documents of a packed row are run one by one, so that packing is tested, not assumed.
Every checkpoint has random numbers of its own, by its name: adding one changes no other.
Needs: pip install torch transformers safetensors. Run: python3 tools/golden/models.py [NAME...]
"""
import json
import pathlib
import shutil
import sys
import zlib

import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/models"
VOCABULARY, CONTEXT, LENGTH, ANSWER = 64, 96, 16, 64
OPTIMIZER = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
STEPS = 10
# Head width times heads is not the embedding's width, and no width is a multiple of a vector's: edges matter.
SMALL = dict(vocab_size=VOCABULARY, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, bos_token_id=None,
             eos_token_id=None, pad_token_id=None)
LLAMA = dict(SMALL, rope_theta=10000.0)
GPT2 = dict(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)
WITH_GRADIENTS = {"llama", "llama-tied", "gpt2", "qwen3", "gemma3"}
# No loss curve: gradients are not there yet (qwen3_5, gemma4), or documents run one by one have other rotary factors
# than packed in a row (phi3).
ONLY_FORWARD = {"qwen3_5", "gemma4", "gemma4-experts", "phi3"}


def llama3_rope(**changes):
    return dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=32) | changes


def yarn_rope(**changes):
    return dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=24, beta_fast=4.0,
                beta_slow=1.0) | changes


def without(settings, *names):
    return {key: value for key, value in settings.items() if key not in names}


# One line per checkpoint: what makes it. Windows are shorter than the texts; kinds of layers are mixed.
CHECKPOINTS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, tie_word_embeddings=False)),
    "llama-tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "llama3": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, rope_parameters=llama3_rope(), attention_bias=True,
                                                         mlp_bias=True)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**SMALL, sliding_window=6)),
    "ministral3": lambda: hf.Ministral3ForCausalLM(hf.Ministral3Config(
        **SMALL, rope_parameters=yarn_rope(mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1))),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=6, max_window_layers=1, rope_theta=1e6)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SMALL, rope_parameters=yarn_rope())),
    "qwen3_moe": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        **SMALL | dict(num_hidden_layers=3), num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20,
        norm_topk_prob=True, mlp_only_layers=[1])),
    "qwen3_5": lambda: hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(
        **SMALL | dict(num_hidden_layers=3), linear_key_head_dim=6, linear_value_head_dim=5, linear_num_key_heads=2,
        linear_num_value_heads=4, layer_types=["linear_attention", "full_attention", "linear_attention"],
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5,
                             mrope_section=[1, 1, 0], mrope_interleaved=True))),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(
        **SMALL | dict(num_hidden_layers=3), sliding_window=6, query_pre_attn_scalar=10,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": dict(rope_type="linear", rope_theta=1e5, factor=8.0),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)})),
    "gemma4": lambda: hf.Gemma4ForCausalLM(hf.Gemma4TextConfig(
        **SMALL | dict(num_hidden_layers=5, head_dim=6), global_head_dim=8, num_global_key_value_heads=1,
        sliding_window=6, attention_k_eq_v=True, num_kv_shared_layers=2, hidden_size_per_layer_input=5,
        vocab_size_per_layer_input=VOCABULARY, final_logit_softcapping=9.0, use_double_wide_mlp=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
                     "full_attention"],
        rope_parameters={"full_attention": dict(rope_type="proportional", rope_theta=1e5, partial_rotary_factor=0.5),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)})),
    "gemma4-experts": lambda: hf.Gemma4ForCausalLM(hf.Gemma4TextConfig(
        **SMALL, global_head_dim=6, sliding_window=6, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=4,
        top_k_experts=2, moe_intermediate_size=12, layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": dict(rope_type="default", rope_theta=1e5),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)})),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(
        **without(SMALL, "head_dim") | dict(num_hidden_layers=3), no_rope_layers=[1, 0, 1], rope_theta=5e4)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(
        **without(SMALL, "head_dim") | dict(hidden_size=32), original_max_position_embeddings=10,
        resid_pdrop=0.0, embd_pdrop=0.0,
        rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                             short_factor=[1.0, 1.25, 1.5], long_factor=[1.5, 2.5, 6.0],
                             original_max_position_embeddings=10))),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**without(SMALL, "head_dim"), rope_theta=5e5)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(
        **without(SMALL, "head_dim"), rope_theta=1e4, embedding_multiplier=3.0, logits_scaling=0.7,
        residual_multiplier=0.4, attention_multiplier=0.3, tie_word_embeddings=True)),
    "lfm2": lambda: hf.Lfm2ForCausalLM(hf.Lfm2Config(
        **without(SMALL, "head_dim", "rms_norm_eps") | dict(num_hidden_layers=3), norm_eps=1e-5, conv_L_cache=3,
        block_multiple_of=8, block_auto_adjust_ff_dim=True, layer_types=["conv", "full_attention", "conv"])),
    "gpt_oss": lambda: hf.GptOssForCausalLM(hf.GptOssConfig(
        **SMALL, num_local_experts=5, num_experts_per_tok=2, sliding_window=6,
        layer_types=["sliding_attention", "full_attention"], rope_parameters=yarn_rope(truncate=False))),
}
CENTERED_NORMS = {"gemma3", "qwen3_5"}  # their weights count from 0: the norm multiplies by 1 + weight


def randomize(name, model):
    """Every parameter away from its special start (ones, zeros), and large enough that every part counts."""
    for parameter_name, parameter in model.named_parameters():
        scale = {1: 0.1, 2: 0.3, 3: 0.3}[parameter.dim()]
        norm = parameter.dim() == 1 and parameter_name.endswith("norm.weight")
        plain = norm and (name not in CENTERED_NORMS or "linear_attn" in parameter_name)
        start = 1.0 if plain or (parameter.dim() == 1 and parameter_name.endswith("weight") and not norm) else 0.0
        parameter.data = start + scale * torch.randn(parameter.shape)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("layer_scalar"):
            buffer.copy_(0.7 + 0.6 * torch.rand(1))


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
    decayed = [p for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if p.dim() < 2 or name.endswith("bias")]
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


def greedy(model, length):
    """A prompt of that length whose answer no rounding can change, and the answer."""
    while True:
        prompt = torch.randint(0, VOCABULARY, (length,)).tolist()
        tokens, gap = list(prompt), float("inf")
        with torch.no_grad():
            while gap > 1e-3 and len(tokens) < length + ANSWER:
                best = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].topk(2)
                gap = min(gap, (best.values[0] - best.values[1]).item())
                tokens.append(best.indices[0].item())
        if gap > 1e-3:
            return {"prompt": prompt, "tokens": tokens[length:]}


def write(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(zlib.crc32(name.encode()))
    model = CHECKPOINTS[name]()
    model.set_attn_implementation("eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    randomize(name, model)
    model.save_pretrained(folder)
    model.double().eval()
    tensors = {}
    sequences = [torch.randint(0, VOCABULARY, (n,)).tolist() for n in (1, 7, 33)]
    with torch.no_grad():
        for i, sequence in enumerate(sequences):
            tensors[f"logits/{i}"] = model(torch.tensor([sequence]), use_cache=False).logits[0].float()
    golden = {"sequences": sequences, "greedy": [greedy(model, length) for length in (12, 17)]}
    if name not in ONLY_FORWARD:
        batch = make_batch()
        batch_loss(model, batch).backward()
        if name in WITH_GRADIENTS:
            for parameter_name, parameter in model.named_parameters():
                tensors[f"gradient/{parameter_name}"] = parameter.grad.float()
        losses, norms = loss_curve(model, batch)
        assert max(norms) > 1, "clipping was to be tested"
        golden |= {"optimizer": OPTIMIZER, "losses": losses, "gradient_norms": norms,
                   "batch": {key: value.tolist() for key, value in batch.items() if key != "documents"}}
        print(name, "losses", losses[0], "...", losses[-1], "norms", [round(n, 2) for n in norms])
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, sum(file.stat().st_size for file in folder.iterdir()), "bytes", flush=True)


def main():
    for name in sys.argv[1:] or CHECKPOINTS:
        write(name)


main()

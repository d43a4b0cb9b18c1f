#!/usr/bin/env python3
"""Golden values of composite ops, computed by PyTorch in float64: tests/golden/ops.json.

Each case names an op, its attributes and operands, and what PyTorch's function of the same meaning
gives: the results, and where `dy` is there, the gradients of sum(result 0 * dy).
Run from the root of the repository: python3 tools/golden/ops.py
"""
import json
import math

import torch
import torch.nn.functional as F

torch.manual_seed(20)
torch.set_default_dtype(torch.float64)
CASES = []


def rand(*shape, scale=1.0):
    return (torch.randn(*shape) * scale * 1000).round() / 1000


def packed(t, dtype=None):
    if t is None:
        return None
    dtype = dtype or ("i32" if not t.is_floating_point() else "f32")
    numbers = t.reshape(-1).tolist()
    return {"dtype": dtype, "shape": list(t.shape), "values": [float(f"{x:.10g}") if dtype == "f32" else x for x in numbers]}


def case(name, op, attrs, operands, function, gradient=True):
    """function(*operands) -> tuple of results; floating-point operands are differentiated."""
    leaves = [o.clone().requires_grad_(o.is_floating_point() and gradient) for o in operands]
    results = function(*leaves)
    entry = {"name": name, "op": op, "attrs": attrs, "operands": [packed(o) for o in operands],
             "results": [packed(r.detach()) for r in results]}
    if gradient:
        dy = rand(*results[0].shape)
        wanted = [l for l in leaves if l.requires_grad]
        grads = iter(torch.autograd.grad((results[0] * dy).sum(), wanted, allow_unused=True))
        entry["dy"] = packed(dy)
        entry["gradients"] = [packed(next(grads)) if l.requires_grad else None for l in leaves]
    CASES.append(entry)


def norms_and_activations():
    for shape in [(3, 17), (2, 2, 8)]:
        e = shape[-1]
        case(f"rms_norm {shape}", "rms_norm", {"epsilon": 1e-6}, [rand(*shape), rand(e)],
             lambda x, w: (F.rms_norm(x, (x.shape[-1],), w, eps=1e-6),))
        case(f"layer_norm {shape}", "layer_norm", {"epsilon": 1e-5}, [rand(*shape), rand(e), rand(e)],
             lambda x, w, b: (F.layer_norm(x, (x.shape[-1],), w, b, eps=1e-5),))
    x = rand(4, 9, scale=2)
    case("gelu", "gelu", {"tanh_approximation": False}, [x], lambda x: (F.gelu(x),))
    case("gelu tanh", "gelu", {"tanh_approximation": True}, [x], lambda x: (F.gelu(x, approximate="tanh"),))
    case("silu", "silu", {}, [x], lambda x: (F.silu(x),))
    case("swiglu", "swiglu", {}, [x, rand(4, 9)], lambda g, u: (F.silu(g) * u,))
    case("softmax", "softmax", {}, [x], lambda x: (F.softmax(x, dim=-1),))
    plain = {"compute": {"dtype": "f32"}, "has_bias": True, "has_residual": False, "activation": "none"}
    case("linear", "linear", plain, [rand(2, 3, 7), rand(5, 7), rand(5)], lambda x, w, b: (F.linear(x, w, b),))


def rotations():
    """As in Hugging Face's Llama: cos and sin doubled along the head dimension, rotate_half."""
    def rotate(x, positions, frequencies):
        angles = positions.to(x.dtype)[:, None] * frequencies.detach()[None, :]
        cos, sin = (torch.cat([f(angles), f(angles)], dim=-1)[:, None, :] for f in (torch.cos, torch.sin))
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return (x * cos + turned * sin,)

    d = 8
    frequencies = torch.tensor(1.0 / (10000 ** (torch.arange(0, d, 2) / d)).numpy().astype("float32"))
    case("rope", "rope", {}, [rand(4, 3, d), torch.tensor([0, 1, 7, 350], dtype=torch.int32), frequencies], rotate)


def attentions():
    def attend(window, scale):
        def function(q, k, v, segments):
            t = q.shape[1]
            index = torch.arange(t)
            seen = (segments[:, :, None] == segments[:, None, :]) & (index[None, :] <= index[:, None])
            if window:
                seen &= index[:, None] - index[None, :] < window
            alive = segments >= 0
            # A row that sees nothing would give NaN: let padding see itself, and take its output out again.
            mask = torch.where(alive[:, :, None], seen, torch.eye(t, dtype=torch.bool))[:, None]
            qh, kh, vh = (x.transpose(1, 2) for x in (q, k, v))
            out = F.scaled_dot_product_attention(qh, kh, vh, attn_mask=mask, scale=scale, enable_gqa=True)
            out = out.transpose(1, 2) * alive[:, :, None, None]
            keys = kh.repeat_interleave(q.shape[2] // k.shape[2], dim=1)
            scores = (qh @ keys.transpose(-1, -2) * scale).masked_fill(~mask, -math.inf)
            return out, torch.where(alive[:, None], torch.logsumexp(scores, dim=-1), 0.0)
        return function

    segments = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 2, 2, -1, -1]], dtype=torch.int32)
    for name, window, scale in [("causal, groups, segments", 0, 0.5), ("a window", 2, 0.3)]:
        case(f"attention: {name}", "attention", {"scale": scale, "window": window},
             [rand(2, 6, 4, 4), rand(2, 6, 2, 4), rand(2, 6, 2, 4), segments], attend(window, scale))


def losses():
    labels = torch.tensor([2, -1, 10, 0, -1, 6], dtype=torch.int32)
    case("linear_cross_entropy", "linear_cross_entropy", {"compute": {"dtype": "f32"}},
         [rand(6, 5), rand(11, 5), labels],
         lambda h, w, l: (F.cross_entropy(F.linear(h, w), l.long(), ignore_index=-1, reduction="none"),))


def optimizers():
    # AdamW: three steps of torch.optim.AdamW; the third is the case.
    beta1, beta2, rate, decay, epsilon = 0.9, 0.95, 0.01, 0.1, 1e-8
    parameter = torch.nn.Parameter(rand(3, 5))
    optimizer = torch.optim.AdamW([parameter], lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=decay)
    for step in range(1, 4):
        parameter.grad = rand(3, 5)
        state = optimizer.state[parameter]
        before = [parameter.detach().clone(), parameter.grad.clone()]
        before += [state[k].clone() if state else torch.zeros(3, 5) for k in ("exp_avg", "exp_avg_sq")]
        optimizer.step()
    state = optimizer.state[parameter]
    after = (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])
    scale = 0.5  # the op's gradient counts times this
    before[1] = before[1] / scale
    case("adamw_update", "adamw_update",
         {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "weight_decay": decay},
         before + [torch.tensor(rate), torch.tensor(3.0), torch.tensor(scale)], lambda *_: after, gradient=False)

    # Muon: Jordan's formulas in float64, checked against torch.optim.Muon (whose products are bf16).
    for shape in [(4, 7), (8, 3)]:
        p, g, m = rand(*shape), rand(*shape), rand(*shape, scale=0.2)
        rate, beta, decay = 0.02, 0.95, 0.1
        momentum = beta * m + (1 - beta) * g
        x = (1 - beta) * g + beta * momentum
        tall = shape[0] > shape[1]
        x = x.T if tall else x
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        x = x.T if tall else x
        updated = p * (1 - rate * decay) - rate * math.sqrt(max(1, shape[0] / shape[1])) * x
        case(f"muon_update {shape}", "muon_update",
             {"momentum": beta, "weight_decay": decay, "iterations": 5, "compute": {"dtype": "f32"}},
             [p, g, m, torch.tensor(rate)], lambda *_: (updated, momentum), gradient=False)
        parameter = torch.nn.Parameter(p.clone())
        theirs = torch.optim.Muon([parameter], lr=rate, momentum=beta, weight_decay=decay)
        theirs.state[parameter]["momentum_buffer"] = m.clone()
        parameter.grad = g.clone()
        theirs.step()
        assert torch.allclose(parameter.detach(), updated, atol=rate * 0.05), (parameter, updated)


if __name__ == "__main__":
    norms_and_activations()
    rotations()
    attentions()
    losses()
    optimizers()
    with open("tests/golden/ops.json", "w") as f:
        f.write('{"torch": "%s", "cases": [\n' % torch.__version__)
        f.write(",\n".join(json.dumps(c) for c in CASES))
        f.write("\n]}\n")

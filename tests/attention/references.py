"""The plain float64 formula of every attention method, and modules and batches to hold against them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softfree.attention import ATTENTIONS, Attention, create_attention

Parameters = dict[str, Tensor]
NAMES = list(ATTENTIONS)
# A name, and where a method has several orders of evaluation, each by itself.
FORMS = [*NAMES, "seqnorm literal", "seqnorm folded", "seqnorm gram"]


def softmax(q: Tensor, k: Tensor, v: Tensor, _: Parameters) -> Tensor:
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).exp()
    return (scores / scores.sum(3, keepdim=True)) @ v


def seqnorm(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    def normalize(t: Tensor, norm: str) -> Tensor:
        mean = t.mean(2, keepdim=True)
        deviation = torch.sqrt(((t - mean) ** 2).mean(2, keepdim=True) + 1e-5)
        gamma, beta = (parameters[f"{norm}.{part}"].view(t.shape[1], 1, t.shape[3]) for part in ("weight", "bias"))
        return gamma * (t - mean) / deviation + beta

    q, k, v = normalize(q, "q_norm"), normalize(k, "k_norm"), normalize(v, "v_norm")
    return q @ (k.transpose(2, 3) @ v) / q.shape[2]


def sima(q: Tensor, k: Tensor, v: Tensor, _: Parameters) -> Tensor:
    q, k = (t / t.abs().sum(2, keepdim=True).clamp(min=1e-6) for t in (q, k))
    return q @ (k.transpose(2, 3) @ v)


def soft(q: Tensor, _: Tensor, v: Tensor, __: Parameters, normalized: bool = False) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a.unsqueeze(3) - b.unsqueeze(2)).square().sum(4) / (2 * math.sqrt(q.shape[3]))).exp()

    tokens, number = q.shape[2], min(49, q.shape[2])
    windows = [[n for n in range(tokens) if n * number // tokens == m] for m in range(number)]
    landmarks = torch.stack([q[:, :, window].mean(2) for window in windows], dim=2)
    a, p = kernel(landmarks, landmarks), kernel(landmarks, q)
    inverse = torch.linalg.inv(a + RIDGE * torch.eye(number, dtype=a.dtype))
    if normalized:
        d = torch.diag_embed(a.sum(3).rsqrt())
        inverse = d @ inverse @ d
    return p.transpose(2, 3) @ (inverse @ (p @ v))


def soft_norm(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    return soft(q, k, v, parameters, normalized=True)


def performer(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    def features(t: Tensor, axes: tuple[int, ...]) -> Tensor:
        t = t / t.shape[3] ** 0.25
        scores = t @ parameters["projection"].T
        largest = scores.detach().amax(axes, keepdim=True)
        return (scores - (t**2).sum(3, keepdim=True) / 2 - largest).exp() + 1e-4

    q, k = features(q, (3,)), features(k, (2, 3))
    return q @ (k.transpose(2, 3) @ v) / (q * k.sum(2, keepdim=True)).sum(3, keepdim=True)


def linformer(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    tokens, places = q.shape[2], 14 * 14
    sampled = torch.zeros(tokens, places, dtype=q.dtype)
    for token in range(tokens):
        at = min(max((token + 0.5) * places / tokens - 0.5, 0), places - 1)
        for place in (math.floor(at), math.ceil(at)):
            sampled[token, place] = (1 - abs(at - place)) * places / tokens
    k, v = parameters["k_maps"] @ (sampled.T @ k), parameters["v_maps"] @ (sampled.T @ v)
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3) @ v


def nystromformer(q: Tensor, k: Tensor, v: Tensor, _: Parameters) -> Tensor:
    tokens, number = q.shape[2], min(49, q.shape[2])
    windows = [[n for n in range(tokens) if n * number // tokens == m] for m in range(number)]
    q_means, k_means = (torch.stack([t[:, :, window].mean(2) for window in windows], dim=2) for t in (q, k))
    first, middle, last = (
        (a @ b.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
        for a, b in ((q, k_means), (q_means, k_means), (q_means, k))
    )
    one = torch.eye(number, dtype=q.dtype)
    z = middle.transpose(2, 3) / (middle.sum(2).amax(2) * middle.sum(3).amax(2))[..., None, None]
    for _step in range(6):
        z = z @ (13 * one - middle @ z @ (15 * one - middle @ z @ (7 * one - middle @ z))) / 4
    return first @ (z @ (last @ v))


def galerkin(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    def normalize(t: Tensor, norm: str) -> Tensor:
        mean = t.mean(3, keepdim=True)
        deviation = torch.sqrt(((t - mean) ** 2).mean(3, keepdim=True) + 1e-5)
        gamma, beta = (parameters[f"{norm}.{part}"].view(t.shape[1], 1, t.shape[3]) for part in ("weight", "bias"))
        return gamma * (t - mean) / deviation + beta

    return q @ (normalize(k, "k_norm").transpose(2, 3) @ normalize(v, "v_norm")) / q.shape[2]


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "softmax": softmax,
    "seqnorm": seqnorm,
    "sima": sima,
    "soft": soft,
    "soft_norm": soft_norm,
    "performer": performer,
    "linformer": linformer,
    "nystromformer": nystromformer,
    "galerkin": galerkin,
}
# With a ridge the landmarks' kernel has one inverse, which all digits can be compared with.
RIDGE = 0.1
OPTIONS: dict[str, dict[str, object]] = {name: {"ridge": RIDGE, "iterations": 40} for name in ("soft", "soft_norm")}
# What looks at the order of the tokens.
ORDERED = ("soft", "soft_norm", "linformer", "nystromformer")


def reference(name: str, x: Tensor, parameters: Parameters, num_heads: int = 3) -> Tensor:
    """The whole module, (B, N, C) to (B, N, C): projection, heads, formula, output projection."""
    batch, tokens, width = x.shape
    qkv = x @ parameters["qkv.weight"].T
    if "qkv.bias" in parameters:
        qkv = qkv + parameters["qkv.bias"]
    heads = [t.reshape(batch, tokens, num_heads, -1).permute(0, 2, 1, 3) for t in qkv.split(width, dim=2)]
    out = (
        REFERENCES[name.split()[0]](heads[0], heads[-2], heads[-1], parameters)
        .permute(0, 2, 1, 3)
        .reshape(batch, tokens, width)
    )
    return out @ parameters["proj.weight"].T + parameters["proj.bias"]


def make(form: str, dim: int = 24, num_heads: int = 3, **options: object) -> Attention:
    """A module whose parameters are all random, so that none hides behind a zero or a one."""
    name, *order = form.split()
    options = {"qkv_bias": True, "dtype": torch.float64, **OPTIONS.get(name, {}), **options}
    options |= {"order": order[0]} if order else {}
    module = create_attention(name, dim, num_heads, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1]))
    return module


def leaves(module: nn.Module) -> Parameters:
    parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    return {**dict(module.named_buffers()), **parameters}


def padded_batch() -> tuple[Tensor, Tensor]:
    """Three samples of 40, 17 and 1 real tokens at random places; NaN and infinity elsewhere."""
    mask = torch.zeros(3, 40, dtype=torch.bool)
    for row, real in enumerate((40, 17, 1)):
        mask[row, torch.randperm(40)[:real]] = True
    x = torch.randn(3, 40, 24, dtype=torch.float64) + 1
    x[1, ~mask[1]] = float("inf")
    x[2, ~mask[2]] = float("nan")
    return x, mask


def assert_same(got: Tensor, want: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * max(1.0, want.abs().max().item()))

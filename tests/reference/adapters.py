"""Adapters the slow way: loops and formulas, and small backbones of random weights."""

import math

import numpy as np
import torch


def naive_block_diagonal(chunks, before=0):
    """(tokens, block) rows placed on the diagonal entry by entry."""
    tokens, size = chunks.shape
    out = np.zeros((tokens + before, tokens + before))
    for row in range(tokens):
        for column in range(size):
            out[before + row, before + (row // size) * size + column] = chunks[row, column]
    return out


def naive_troa(batches, rate=0.1, decay=0.9, start=None):
    """omega[source][target] after batches of gradients (tasks, numbers), one after the other."""
    n = len(batches[0])
    omega = [[1 / n if start is None else start] * n for _ in range(n)]
    means = [[0.0] * len(batches[0][0]) for _ in range(n)]
    for gradients in batches:
        for source in range(n):
            for target in range(n):
                g, m = gradients[source], means[target]
                length = math.sqrt(sum(x * x for x in g)) * math.sqrt(sum(x * x for x in m))
                if length == 0:
                    continue
                cosine = sum(x * y for x, y in zip(g, m, strict=True)) / length
                omega[source][target] = (1 - rate) * omega[source][target] + rate * max(0.0, cosine)
        for task in range(n):
            if any(gradients[task]):
                means[task] = [decay * m + (1 - decay) * g for m, g in zip(means[task], gradients[task], strict=True)]
    return np.array(omega)


def naive_attention(attention, states, bias, prefix=0):
    """Output of an attention module of Swin, Swin-V2 or ViT on windows without a shift, head by head."""
    core = getattr(attention, "self", attention)
    names = ("query", "key", "value") if hasattr(core, "query") else ("q_proj", "k_proj", "v_proj")
    q, k, v = (getattr(core, name)(states) for name in names)
    heads = core.num_attention_heads
    size = q.shape[-1] // heads
    extra = torch.zeros(heads, states.shape[1], states.shape[1])
    if hasattr(core, "relative_position_bias"):
        extra = core.relative_position_bias()[0]
    if hasattr(core, "logit_scale"):
        table = core.continuous_position_bias_mlp(core.relative_coords_table).view(-1, heads)
        extra = 16 * torch.sigmoid(table[core.relative_position_index].permute(2, 0, 1))
    full = torch.zeros(states.shape[1], states.shape[1])
    full[prefix:, prefix:] = bias
    parts = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        if hasattr(core, "logit_scale"):
            a, b = (t[..., cut] / t[..., cut].norm(dim=-1, keepdim=True) for t in (q, k))
            logits = a @ b.transpose(1, 2) * core.logit_scale[head].exp().clamp(max=100)
        else:
            logits = q[..., cut] @ k[..., cut].transpose(1, 2) / math.sqrt(size)
        parts.append((logits + extra[head] + full).softmax(-1) @ v[..., cut])
    output = attention.output.dense if hasattr(attention, "output") else attention.o_proj
    return output(torch.cat(parts, -1))


#: pixels of an image; windows of 7 x 7 tokens, blocks of the source's size
IMAGE = 56


def backbone(name, attention="eager", seed=0):
    """A small model of random weights, all of them different from their neutral start."""
    import transformers

    swin = {
        "image_size": IMAGE,
        "patch_size": 4,
        "embed_dim": 12,
        "depths": [1, 2],
        "num_heads": [2, 3],
        "window_size": 7,
    }
    vit = {"image_size": IMAGE, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(seed)
    if name == "vit":
        model = transformers.ViTModel._from_config(
            transformers.ViTConfig(**vit, intermediate_size=24), attn_implementation=attention
        )
    elif name == "swin":
        model = transformers.SwinModel._from_config(transformers.SwinConfig(**swin), attn_implementation=attention)
    else:
        model = transformers.Swinv2Model._from_config(transformers.Swinv2Config(**swin), attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def shake(adapted, seed=1, size=0.05):
    """Move all own parameters away from their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in adapted.own_parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return adapted

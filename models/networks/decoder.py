"""A decoder of the Llama family as a torch module: RMSNorm, rotary places, grouped queries, SwiGLU, tied embedding.

Without a cache of keys and values: it sees a whole window of tokens at once, of one fixed length, as a static quantizer
and a compiler want it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Decoder", "Shape"]

AWAY = -1e9  # added to the scores of tokens that come later


@dataclass(frozen=True)
class Shape:
    """How large a decoder is.

    Attributes:
        layers, width, inner, words: blocks, channels of the residual stream, channels of the MLP, vocabulary.
        heads, groups: of queries; of keys and values, each of which several heads share.
        tokens: length of the window.
        base: of the rotary frequencies.
        epsilon: below the root of RMSNorm.
    """

    layers: int
    width: int
    inner: int
    words: int
    heads: int
    groups: int
    tokens: int
    base: float = 1e4
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        """Channels of a head."""
        return self.width // self.heads


class RMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x^2) + epsilon)`, written out as Llama's authors do."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary places: each pair of channels (k, k + half) is turned by the token's angle."""
    half = cosine.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class Block(nn.Module):
    """Attention and MLP, a norm before each."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kept = shape.groups * shape.head
        self.attn_norm = RMSNorm(shape.width, shape.epsilon)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kept, bias=False)
        self.attn_v = nn.Linear(shape.width, kept, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = RMSNorm(shape.width, shape.epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_down = nn.Linear(shape.inner, shape.width, bias=False)

    def _attention(self, x: Tensor, cosine: Tensor, sine: Tensor, later: Tensor) -> Tensor:
        shape = self.shape
        split = (-1, shape.tokens, shape.groups, shape.heads // shape.groups, shape.head)
        query = self.attn_q(x).reshape(split).permute(0, 2, 3, 1, 4)  # [N, group, head of it, token, channel]
        single = (*split[:3], 1, shape.head)
        key, value = (p(x).reshape(single).permute(0, 2, 3, 1, 4) for p in (self.attn_k, self.attn_v))
        query, key = _turned(query, cosine, sine), _turned(key, cosine, sine)
        weights = (query @ key.transpose(-2, -1) / shape.head**0.5 + later).softmax(dim=-1)
        mixed = (weights @ value).permute(0, 3, 1, 2, 4).reshape(-1, shape.tokens, shape.width)
        out: Tensor = self.attn_output(mixed)
        return out

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, later: Tensor) -> Tensor:
        """[N, tokens, width] -> the same; `later` [tokens, tokens] is added to the scores."""
        x = x + self._attention(self.attn_norm(x), cosine, sine, later)
        normed = self.ffn_norm(x)
        out: Tensor = x + self.ffn_down(nn.functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed))
        return out


class Decoder(nn.Module):
    """Tokens int64 [N, tokens] -> logits float32 [N, tokens, words] of the token that comes next.

    The parameters have the names of a GGUF file.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(shape.words, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = RMSNorm(shape.width, shape.epsilon)
        frequencies = shape.base ** (-torch.arange(0, shape.head, 2) / shape.head)
        angles = torch.outer(torch.arange(shape.tokens).float(), frequencies).repeat(1, 2)
        later = torch.full((shape.tokens, shape.tokens), AWAY).triu(1)
        for name, value in (("cosine", angles.cos()), ("sine", angles.sin()), ("later", later)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """See the class."""
        x = self.token_embd(input_ids)
        for block in self.blk:
            x = block(x, self.cosine, self.sine, self.later)
        return nn.functional.linear(self.output_norm(x), self.token_embd.weight)

"""Language models with declared layers: a small decoder-only transformer and an LSTM.

Both map tokens (B, T), int64, to logits (B, T, vocabulary) of each next token. Position t of the output depends on
tokens 0 .. t only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from decentral.errors import UserError
from decentral.problems.models.layered import LayeredNetwork


def transformer(
    vocabulary: int, context: int, width: int = 64, depth: int = 2, heads: int = 4
) -> LayeredNetwork:
    """Decoder-only transformer in depth + 1 layers: the embedding, then ``depth`` blocks; no dropout, no tied weights.

    Blocks with layer norm first, drawn from N(0, 0.02^2), output projections from N(0, 0.02^2 / (2 depth)), as in
    GPT-2. At most ``context`` tokens; ``heads`` attention heads of width / heads each.
    Raises UserError for a size below one, or if ``heads`` does not divide ``width``.
    """
    check_sizes(vocabulary=vocabulary, context=context, width=width, depth=depth, heads=heads)
    if width % heads:
        raise UserError(f"transformer: heads = {heads} must divide width = {width}")
    layers = [TokenEmbedding(vocabulary, context, width), *(Block(width, heads) for _ in range(depth))]
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False))
    network = LayeredNetwork(layers, head)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            output = name.endswith(("attention.output.weight", "mlp.2.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if output else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return network


def lstm(vocabulary: int, width: int = 128, depth: int = 2) -> LayeredNetwork:
    """LSTM in depth + 1 layers: the embedding, then ``depth`` LSTM layers of ``width`` cells; the state starts at 0.

    Raises UserError for a size below one.
    """
    check_sizes(vocabulary=vocabulary, width=width, depth=depth)
    layers = [nn.Embedding(vocabulary, width), *(LSTMLayer(width) for _ in range(depth))]
    return LayeredNetwork(layers, nn.Linear(width, vocabulary))


class TokenEmbedding(nn.Module):
    """A learned vector of the token plus one of its position: (B, T) to (B, T, width)."""

    def __init__(self, vocabulary: int, context: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(context, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Activations (B, T, width) of ``tokens`` (B, T). Raises UserError if T exceeds the context."""
        length, context = tokens.shape[1], len(self.position)
        if length > context:
            raise UserError(f"transformer: {length} tokens exceed context = {context}; raise it")
        embedded: Tensor = self.token(tokens)
        return embedded + self.position[:length]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (B, T, width) in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = CausalAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Activations (B, T, width) of ``x`` (B, T, width)."""
        x = x + self.attention(self.norms[0](x))
        y: Tensor = x + self.mlp(self.norms[1](x))
        return y


class CausalAttention(nn.Module):
    """softmax(Q K' / sqrt(d) + causal mask) V in each of ``heads`` heads of d = width / heads, then a linear map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Activations (B, T, width) of ``x`` (B, T, width)."""
        b, t, width = x.shape
        parts = self.query_key_value(x).view(b, t, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, T, d)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.output(mixed.transpose(1, 2).reshape(b, t, width))
        return y


class LSTMLayer(nn.Module):
    """One LSTM layer over the tokens from state 0: (B, T, width) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (B, T, width) of ``x`` (B, T, width)."""
        hidden: Tensor = self.lstm(x)[0]
        return hidden


def check_sizes(**sizes: int) -> None:
    """Raise UserError for a size below one, by its name."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"language model: {name} = {size} must be at least 1")

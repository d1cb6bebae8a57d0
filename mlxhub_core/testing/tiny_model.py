"""A real MLX model of 26 KB that always answers the same, written in about a millisecond without mlx.

For tests and demos of the real server: ``python -m mlx_lm server --model DIR`` loads it like any llama.

It is a Markov chain. Attention and MLP weights are zero, so what comes out of its one layer is what went in:
the embedding of the last token, a one-hot vector that names the *next* token. 16 columns are enough for 257
tokens because only tokens that the model can say need a column: the reply, `TINY_LOOP` and the end. Every
other token has a zero row in the head and scores 0 where the chosen one scores 1024. That gap leaves sampling
no choice at any usual temperature and seed, and both numbers are far inside the range of a half float.

In a prompt the tokenizer reads every character of the reply as a space: a prompt that ends in ``!`` would
else go on after that ``!`` instead of starting the reply. The price: a stop word made of those characters is
cut out of the answer but does not end it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

TINY_REPLY = "mlxhub!"
"""The answer to every prompt that does not end in `TINY_LOOP`, with ``finish_reason`` "stop"."""

TINY_REPLY_TOKENS = len(TINY_REPLY) + 1
"""``usage.completion_tokens`` of that answer: one for each character and one for the end."""

TINY_LOOP = "~"
"""A prompt that ends in this is answered with this, ``max_tokens`` times, with ``finish_reason`` "length"."""

_WIDTH = 16
"""Hidden size, and so how many different tokens the model can say."""

_EOS, _EOS_TEXT = 256, "<eos>"
"""The one token that is not a byte."""

_VOCABULARY = 257

_HEAD_WEIGHT = 256.0
"""RMSNorm turns the 1 of a one-hot vector into 4, the root of its width: the chosen token scores 4 x 256."""


def write_tiny_model(directory: Path, reply: str = TINY_REPLY) -> Path:
    """Write the model's four files into `directory`, which is made if need be, and return `directory`.

    Args:
        directory: same arguments, same bytes; a model already there is replaced.
        reply: 1 to 14 characters from ``!`` to ``}``, all different because each has one successor.

    Raises:
        ValueError: if `reply` cannot be such a chain.
    """
    _check(reply)
    weights = directory / "model.safetensors"
    directory.mkdir(parents=True, exist_ok=True)
    # The weights go first and come last: without them a model is refused, so half a model never looks whole.
    weights.unlink(missing_ok=True)
    for name, content in _json_files(reply).items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    # mlx_lm loads whatever matches model*.safetensors; this name does not.
    partial = directory / "weights.partial"
    partial.write_bytes(_safetensors(_tensors(reply)))
    partial.replace(weights)
    return directory


def _check(reply: str) -> None:
    longest = _WIDTH - 2  # the loop and the end need a column each
    if not 1 <= len(reply) <= longest:
        raise ValueError(f"reply must have 1 to {longest} characters, not {len(reply)}: {reply!r}")
    if len(set(reply)) != len(reply):
        raise ValueError(f"reply must not repeat a character: {reply!r}")
    if not all("!" <= character <= "}" for character in reply):
        raise ValueError(f"reply must consist of characters from '!' to '}}': {reply!r}")


def _tensors(reply: str) -> dict[str, tuple[list[int], bytes]]:
    """Every weight of the model: shape and half floats."""
    spoken = [*reply.encode(), _EOS]
    columns = {token: column for column, token in enumerate([*spoken, ord(TINY_LOOP)])}
    successors = dict.fromkeys(range(_VOCABULARY), spoken[0]) | dict(pairwise(spoken))
    successors[ord(TINY_LOOP)] = ord(TINY_LOOP)
    chain = {token: columns[successor] for token, successor in successors.items()}
    return {
        "lm_head.weight": _matrix(_VOCABULARY, columns, _HEAD_WEIGHT),
        "model.embed_tokens.weight": _matrix(_VOCABULARY, chain, 1.0),
        "model.norm.weight": _ones(),
        **{f"model.layers.0.{name}.weight": tensor for name, tensor in _idle_layer().items()},
    }


def _idle_layer() -> dict[str, tuple[list[int], bytes]]:
    """A transformer layer that adds nothing to what passes through it."""
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    mlp = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    norms = ("input_layernorm", "post_attention_layernorm")
    return dict.fromkeys([*attention, *mlp], _matrix(_WIDTH, {}, 0.0)) | dict.fromkeys(norms, _ones())


def _matrix(rows: int, columns: Mapping[int, int], value: float) -> tuple[list[int], bytes]:
    """A matrix of zeros with `value` at ``columns[row]`` of each row that has one."""
    cells = [0.0] * (rows * _WIDTH)
    for row, column in columns.items():
        cells[row * _WIDTH + column] = value
    return [rows, _WIDTH], struct.pack(f"<{len(cells)}e", *cells)


def _ones() -> tuple[list[int], bytes]:
    return [_WIDTH], struct.pack(f"<{_WIDTH}e", *[1.0] * _WIDTH)


def _safetensors(tensors: Mapping[str, tuple[list[int], bytes]]) -> bytes:
    """The safetensors format: length of the header (8 bytes), the header (JSON), the tensors end to end."""
    entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, (shape, data) in tensors.items():
        start, end = end, end + len(data)
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)  # readers that map the file expect the tensors to be aligned
    return struct.pack("<Q", len(header)) + header + b"".join(data for _, data in tensors.values())


def _json_files(reply: str) -> dict[str, Any]:
    return {
        "config.json": _config(),
        "tokenizer.json": _tokenizer(reply),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": _EOS_TEXT,
            "clean_up_tokenization_spaces": False,
            # Just the contents, so that chat behaves like completions.
            "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
        },
    }


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_size": _WIDTH,
        "intermediate_size": _WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "max_position_embeddings": 131072,
        "vocab_size": _VOCABULARY,
        "eos_token_id": _EOS,
        "tie_word_embeddings": False,
    }


def _tokenizer(reply: str) -> dict[str, Any]:
    """Byte-level BPE without merges: one token for each byte of UTF-8."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    hidden = [{"type": "Replace", "pattern": {"String": character}, "content": " "} for character in reply]
    vocabulary = {character: token for token, character in enumerate(_byte_alphabet())} | {_EOS_TEXT: _EOS}
    end = {"id": _EOS, "content": _EOS_TEXT, "special": True, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [end | {"single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": {"type": "Sequence", "normalizers": hidden},
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def _byte_alphabet() -> list[str]:
    """GPT-2's name for each byte: its Latin-1 character if graphic, else the next unused one from U+0100."""
    graphic = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in graphic else next(others)) for byte in range(256)]

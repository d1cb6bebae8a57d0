"""The tiny model without mlx: its files are read, and its chain is followed in plain Python."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core.testing.tiny_model import TINY_LOOP, TINY_REPLY, TINY_REPLY_TOKENS, write_tiny_model

END = 256
"""The token that ends an answer."""

Matrix = list[tuple[float, ...]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "deep" / "model")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def read_json(directory: Path, name: str) -> Any:
    return json.loads((directory / name).read_bytes())


def read_weights(directory: Path) -> tuple[dict[str, Any], bytes]:
    """The header of the weights file, and the bytes after it."""
    raw = (directory / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def read_matrix(directory: Path, name: str) -> Matrix:
    header, data = read_weights(directory)
    start, end = header[name]["data_offsets"]
    return list(struct.iter_unpack(f"<{header[name]['shape'][1]}e", data[start:end]))


def scores(directory: Path) -> Matrix:
    """Row t tells how much each token is wanted after token t, before the norm multiplies it by 4."""
    head = read_matrix(directory, "lm_head.weight")
    embedding = read_matrix(directory, "model.embed_tokens.weight")
    return [tuple(sum(map(float.__mul__, row, column)) for column in head) for row in embedding]


def answer(successors: list[int], token: int, longest: int = 20) -> list[int]:
    """What the model says after a prompt that ends in `token`."""
    said: list[int] = []
    while len(said) < longest and (token := successors[token]) != END:
        said.append(token)
    return said


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = contents(write_tiny_model(tmp_path / "here"))
    again = contents(write_tiny_model(tmp_path / "here"))
    elsewhere = contents(write_tiny_model(tmp_path / "there"))
    assert first == again == elsewhere


def test_it_is_four_files_of_26_kilobytes_and_nothing_else(model: Path) -> None:
    sizes = {name: len(data) for name, data in contents(model).items()}
    assert sizes.keys() == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert 25_000 < sum(sizes.values()) < 27_000


def test_the_safetensors_header_describes_the_bytes_after_it(model: Path) -> None:
    header, data = read_weights(model)
    end_before = 0
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            assert start == end_before
            assert end - start == 2 * math.prod(entry["shape"])
            end_before = end
    assert end_before == len(data)


def test_the_tensors_are_aligned_to_8_bytes(model: Path) -> None:
    _, data = read_weights(model)
    assert ((model / "model.safetensors").stat().st_size - len(data)) % 8 == 0


def test_after_any_token_one_successor_wins_by_far(model: Path) -> None:
    for row in scores(model):
        best, second = sorted(row, reverse=True)[:2]
        assert best - second == 256


def test_every_prompt_leads_to_the_reply_or_to_the_loop(model: Path) -> None:
    successors = [row.index(max(row)) for row in scores(model)]
    for token in range(257):
        said = answer(successors, token)
        if token == ord(TINY_LOOP):
            assert said == [token] * 20
        elif chr(token) not in TINY_REPLY:  # the tokenizer keeps those out of prompts, see below
            assert bytes(said).decode() == TINY_REPLY
            assert len(said) + 1 == TINY_REPLY_TOKENS


def test_the_tokenizer_lets_no_character_of_the_reply_into_a_prompt(model: Path) -> None:
    replacements = read_json(model, "tokenizer.json")["normalizer"]["normalizers"]
    assert {entry["pattern"]["String"] for entry in replacements} == set(TINY_REPLY)
    assert {entry["content"] for entry in replacements} == {" "}


def test_the_tokenizer_has_one_token_for_each_byte_and_the_end(model: Path) -> None:
    vocabulary = read_json(model, "tokenizer.json")["model"]["vocab"]
    assert list(vocabulary.values()) == list(range(257))
    assert all(vocabulary[chr(byte)] == byte for byte in range(0x21, 0x7F))
    # GPT-2's names for the bytes that have no graphic character of their own, the first and the last of them.
    assert (vocabulary["\u0100"], vocabulary["\u0143"]) == (0x00, 0xAD)


def test_another_reply_replaces_the_model(model: Path) -> None:
    write_tiny_model(model, "other!")
    successors = [row.index(max(row)) for row in scores(model)]
    assert bytes(answer(successors, ord(" "))) == b"other!"


@pytest.mark.parametrize("reply", ["", "hello", "a b", "a~", "é", "abcdefghijklmno"])
def test_a_reply_that_is_no_chain_is_refused_before_anything_is_written(tmp_path: Path, reply: str) -> None:
    with pytest.raises(ValueError, match="reply must"):
        write_tiny_model(tmp_path / "model", reply)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_reply_is_14_characters(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "abcdefghijklmn")
    successors = [row.index(max(row)) for row in scores(tmp_path)]
    assert bytes(answer(successors, ord("~") + 1)) == b"abcdefghijklmn"


def test_a_write_that_fails_at_the_tokenizer_leaves_no_weights(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").mkdir()
    with pytest.raises(OSError, match=r"tokenizer\.json"):
        write_tiny_model(model)
    assert not (model / "model.safetensors").exists()


def test_a_write_that_fails_at_the_end_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk on fire")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="fire"):
        write_tiny_model(tmp_path)
    assert list(tmp_path.glob("model*.safetensors")) == []

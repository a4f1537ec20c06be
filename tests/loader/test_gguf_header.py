"""GGUF headers: what the `gguf` package wrote is read, and what is damaged is refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from modules.errors import NotAModelError
from modules.loader.checkpoint import check_checkpoint
from modules.loader.gguf_header import read_gguf_header
from modules.loader.inspect import inspect_checkpoint
from tests.loader.folders import make_model

Q4_K = gguf.GGMLQuantizationType.Q4_K


def write_gguf(file: Path) -> bytes:
    """A small Llama of two layers, most of it in Q4_K; returns its bytes."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(4096)
    writer.add_block_count(2)
    writer.add_embedding_length(512)
    writer.add_feed_forward_length(1024)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"word {i}" for i in range(40)])
    writer.add_token_scores([0.5] * 40)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", np.zeros((40, 512), np.float16))
    for layer in range(2):
        name = f"blk.{layer}.ffn_up.weight"
        writer.add_tensor(name, np.zeros((1024, 2 * 144), np.uint8), raw_dtype=Q4_K)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(512, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.read_bytes()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "x.gguf")


def make_gguf(models: Path, content: bytes) -> Path:
    folder = models / "Tiny"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.gguf").write_bytes(content)
    return folder


def test_a_folder_with_one_gguf_file_alone_is_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    found = check_checkpoint(make_gguf(tmp_path, content))
    assert (found.architecture, found.context_length, found.layers) == ("llama", 4096, 2)
    assert (found.hidden_size, found.intermediate_size, found.vocabulary) == (512, 1024, 40)
    assert (found.heads, found.kv_heads, found.head_dim) == (8, 2, 64)
    assert found.parameters == 40 * 512 + 2 * (1024 * 512 + 512)
    assert (found.tied_head, found.template_source, found.dtype) == (True, "x.gguf", "float16")
    assert found.quantization is not None
    assert (found.quantization.method, found.quantization.bits) == ("gguf", 4)
    assert (found.quantization.version, found.quantization.readable) == ("Q4_K", False)
    assert [file.name for file in found.weights] == ["x.gguf"]


def test_every_type_has_the_size_that_the_gguf_package_gives_it(tmp_path: Path) -> None:
    sizes = gguf.constants.GGML_QUANT_SIZES
    kinds = [kind for kind in sizes if kind < gguf.GGMLQuantizationType.NVFP4]
    tensors = {}
    for kind in kinds:
        block, size = sizes[kind]
        tensors[kind.name] = 2 * 256 // block * size
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(kinds), 0)
    infos, offset = b"", 0
    for kind in kinds:
        infos += struct.pack("<Q", len(kind.name)) + kind.name.encode()
        infos += struct.pack("<IQQIQ", 2, 256, 2, kind, offset)
        offset += tensors[kind.name]
    (tmp_path / "x.gguf").write_bytes(head + infos + bytes(offset + 32))
    read = read_gguf_header(tmp_path / "x.gguf").tensors
    assert {name: info.nbytes for name, info in read.items()} == tensors
    assert {info.shape for info in read.values()} == {(2, 256)}


def test_a_gguf_file_cut_off_anywhere_is_refused(tmp_path: Path, content: bytes) -> None:
    for length in [*range(0, 2000, 7), len(content) // 2, len(content) - 1]:
        inspection = inspect_checkpoint(make_gguf(tmp_path, content[:length]))
        assert inspection.problem.startswith("Tiny/x.gguf is damaged: "), length
        assert inspection.remedy == "Download this file again."


def header(
    *, magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, keys: int = 0, rest: bytes = b""
) -> bytes:
    return struct.pack("<4sIQQ", magic, version, tensors, keys) + rest + bytes(1000)


def tensor(shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q1s", 1, b"x") + dimensions + struct.pack("<IQ", kind, offset)


def key(kind: int, value: bytes, name: bytes = b"x") -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


HOSTILE = {
    "another magic": header(magic=b"GGML"),
    "another version": header(version=1),
    "another byte order": header(version=3 << 24),
    "2^64 tensors": header(tensors=2**64 - 1),
    "2^64 keys": header(keys=2**64 - 1),
    "a text of 2^64 bytes": header(keys=1, rest=struct.pack("<Q", 2**64 - 1)),
    "a text of 2 MB": header(keys=1, rest=struct.pack("<Q", 2**21) + bytes(2**21)),
    "an unknown type of value": header(keys=1, rest=key(99, b"")),
    "2^60 numbers": header(keys=1, rest=key(9, struct.pack("<IQ", 4, 2**60))),
    "2^60 texts": header(keys=1, rest=key(9, struct.pack("<IQ", 8, 2**60))),
    "an array of arrays": header(keys=1, rest=key(9, struct.pack("<IQ", 9, 2**60))),
    "an alignment of 0": header(keys=1, rest=key(4, bytes(4), b"general.alignment")),
    "an alignment that is a text": header(keys=1, rest=key(8, bytes(8), b"general.alignment")),
    "no dimension": header(tensors=1, rest=tensor(())),
    "5 dimensions": header(tensors=1, rest=tensor((1,) * 5)),
    "a dimension of 0": header(tensors=1, rest=tensor((0,))),
    "2^124 weights": header(tensors=1, rest=tensor((2**62, 2**62))),
    "an unknown dtype": header(tensors=1, rest=tensor(kind=4)),
    "half a block": header(tensors=1, rest=tensor((16,), kind=2)),
    "a tensor beyond the end": header(tensors=1, rest=tensor(offset=2**60)),
    "a tensor twice": header(tensors=2, rest=tensor() + tensor(offset=128)),
    "tensors within one another": header(tensors=2, rest=tensor() + tensor(offset=64)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_by_its_name(tmp_path: Path, case: str) -> None:
    with pytest.raises(NotAModelError, match=r"Tiny/x\.gguf is damaged"):
        read_gguf_header(make_gguf(tmp_path, HOSTILE[case]) / "x.gguf")


def test_an_endless_list_of_empty_texts_ends_at_the_limit(tmp_path: Path) -> None:
    folder = make_gguf(tmp_path, header(keys=1, rest=key(9, struct.pack("<IQ", 8, 2**60))))
    with (folder / "x.gguf").open("r+b") as file:
        file.truncate(2**40)
    assert "cut off" in inspect_checkpoint(folder).problem


def test_flipped_bytes_never_end_in_anything_but_a_sentence(tmp_path: Path, content: bytes) -> None:
    chance = random.Random(4)
    for _ in range(500):
        flipped = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            flipped[chance.randrange(1800)] = chance.randrange(256)
        inspection = inspect_checkpoint(make_gguf(tmp_path, bytes(flipped)))
        assert not inspection.problem or inspection.problem.endswith(".")


def test_safetensors_beside_a_gguf_file_come_first(tmp_path: Path, content: bytes) -> None:
    assert check_checkpoint(make_model(tmp_path, x__gguf=content)).quantization is None


def test_a_gguf_file_without_a_vocabulary_needs_a_tokenizer(tmp_path: Path) -> None:
    architecture = key(8, struct.pack("<Q5s", 5, b"llama"), b"general.architecture")
    folder = make_gguf(tmp_path, header(keys=1, rest=architecture))
    assert inspect_checkpoint(folder).problem == "Tiny has no tokenizer."

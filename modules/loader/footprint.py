"""`Footprint`: what a model takes in memory, piece by piece, computed from its headers.

On the processor this is an over-estimate for what was made of 4-bit weights, as the starter was:
only their values show that, so float32 is counted for layers that are found to be 4-bit codes at
load (`transformers_loader.py`), and for the head beside them, which gets 8 bits.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from modules.loader.fast_runner import CHUNK, LADDER
from modules.loader.inspect import Inspection, TensorInfo
from modules.loader.options import LoadOptions
from modules.loader.quantization.format import LOAD_4BIT, LOAD_8BIT, QuantizationFormat

__all__ = ["PROCESSOR_WORKSPACE", "Footprint", "Unit", "footprint"]

# Workspace. The two sums are what a worker takes before it has weights; see
# benchmarks/RESULTS.md for the prediction against what is reported.
_CARD = 700 * 2**20
"""CUDA's context, the code of its kernels, and cuBLAS' buffers, as the driver reports them."""
PROCESSOR_WORKSPACE = 290 * 2**20
"""Python with torch and transformers, without the files that it maps."""
_CHUNK, _CHUNK_PROCESSOR = 256, 128
"""Prompt tokens in one forward of transformers, as the worker cuts them."""
_GRAPH = 10 * 2**20
"""What a captured step of a 7B model takes, its logits aside."""
_BLOCK_TOKENS = 16

_BLOCK = re.compile(r"((?:.+?\.)?(?:layers|h|blocks|block|blk)\.\d+)\.")
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
_ON_LOAD = {"8bit": LOAD_8BIT, "4bit": LOAD_4BIT}
_GGUF = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""What GGUF's names are to the model that transformers makes of the file."""
_CONV1D = {"gpt2", "openai-gpt", "imagegpt"}
"""Families whose layers are no nn.Linear, so that they are not quantized while loading."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What lies on one device as a whole: the embedding, a layer, or what follows the layers.

    `modules` are names for a device map; `weights` are bytes, `largest` those of the biggest
    tensor, `kv_token` bytes of the KV cache for each token, and `layer` says whether it is one.
    """

    modules: tuple[str, ...]
    weights: int
    largest: int
    kv_token: int = 0
    layer: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """A model in memory. Sizes in bytes.

    `weights` describes them in words; `dequantized` is what the biggest quantized layer
    becomes for the time of its product, 0 where none is quantized. `cache8` says whether the KV
    cache is in 8 bits.
    """

    units: tuple[Unit, ...]
    weights: str
    dtype_size: int
    dequantized: int
    inspection: Inspection
    cache8: bool = False

    @property
    def total(self) -> int:
        """All weights."""
        return sum(unit.weights for unit in self.units)

    def workspace(self, context: int, *, card: bool) -> int:
        """What a device that computes needs beside weights and caches.

        For a card: where transformers computes.
        """
        about, chunk = self.inspection, _CHUNK if card else _CHUNK_PROCESSOR
        features = 4 * about.hidden_size + 3 * about.intermediate_size
        activations = chunk * features * self.dtype_size
        # The last logits in float32, and what sorting them takes.
        logits = about.vocabulary * 4 * 8
        # A cache grows by a copy, of the keys or the values of one layer at a time; where
        # heads share keys, attention also repeats both for each head.
        row = about.head_dim * self.dtype_size * context
        shared = about.kv_heads not in (0, about.heads)
        attention = row * (about.kv_heads + (2 * about.heads if shared else 0))
        mask = chunk * context * self.dtype_size
        fixed = _CARD if card else PROCESSOR_WORKSPACE
        return fixed + activations + logits + attention + mask + self.dequantized

    def fast_workspace(self, context: int) -> int:
        """What a card that the fast runner computes on needs beside weights and the cache."""
        about, size = self.inspection, self.dtype_size
        queries, shared = about.heads * about.head_dim, about.kv_heads * about.head_dim
        qkv, gate_up = queries + 2 * shared, 2 * about.intermediate_size
        # Of each row of a chunk: the residual, what is normed and what is added; queries, keys
        # and values, the turned queries and what attention makes of them; gate, up, and their
        # product.
        features = 3 * about.hidden_size + qkv + 2 * queries + gate_up + gate_up // 2
        activations = min(CHUNK, context) * features * size
        # The keys and the values of one layer, in one piece for a chunk's attention; of a cache in
        # 8 bits the codes and scales of either, too.
        gathered = 2 * context * shared * size
        if self.cache8:
            gathered += context * (shared + about.kv_heads * _SIZES["float32"])
        matrix = max(qkv, gate_up) * about.hidden_size * size if self.dequantized else 0
        positions = context * about.head_dim * _SIZES["float32"]  # cosines and sines
        tables = max(LADDER) * context // _BLOCK_TOKENS * 4
        graphs = len(LADDER) * _GRAPH + tables
        # Those of every captured step, in its dtype and in float32; and what sorting them takes.
        logits = about.vocabulary * (sum(LADDER) * (size + 4) + max(LADDER) * 4 * 8)
        beside = max(matrix, self.dequantized) + positions + graphs + logits
        return _CARD + activations + gathered + beside


def footprint(inspection: Inspection, options: LoadOptions, *, card: bool) -> Footprint:
    """What `inspection` becomes in memory; `options.quantize` must apply to it."""
    dtype = _dtype(inspection, options, card=card)
    size = _SIZES[dtype]
    form = _ON_LOAD.get(options.quantize)
    bytes_of = {
        name: _held(name, info, inspection, form, size) for name, info in inspection.tensors.items()
    }
    elements = max(
        (_elements(n, i, inspection, form) for n, i in inspection.tensors.items()), default=0
    )
    plain = options.cache_type == "16-bit"
    in_8_bits = inspection.head_dim + _SIZES["float32"]  # codes, and their scale
    return Footprint(
        units=_units(inspection, bytes_of, inspection.head_dim * size if plain else in_8_bits),
        weights=_words(inspection, form, dtype),
        dtype_size=size,
        cache8=not plain,
        dequantized=elements * _per_dequantized(dtype),
        inspection=inspection,
    )


def _dtype(inspection: Inspection, options: LoadOptions, *, card: bool) -> str:
    if options.dtype != "auto":
        return options.dtype
    if not card:
        return "float32"
    return inspection.dtype if inspection.dtype in ("float16", "bfloat16") else "float16"


def _words(inspection: Inspection, form: QuantizationFormat | None, dtype: str) -> str:
    if form is not None:
        return f"{form.bits}-bit, quantized while loading"
    stored = inspection.quantization
    if stored is None:
        return dtype
    if stored.method == "gguf":
        return f"GGUF {stored.version}, as {dtype}"
    return stored.words


# -- tensors ----------------------------------------------------------------------------


def _held(
    name: str,
    info: TensorInfo,
    inspection: Inspection,
    form: QuantizationFormat | None,
    size: int,
) -> int:
    """Bytes in memory of what is a tensor in the file."""
    stored, part = inspection.quantization, name.rpartition(".")[2]
    if part == "inv_freq" or (inspection.tied_head and name == "lm_head.weight"):
        return 0
    if stored is not None:
        match part:
            case "qzeros":  # unpacked, so that there are as many as scales
                return 0
            case "scales":
                return info.nbytes if stored.symmetric else 2 * info.nbytes
            case "g_idx":
                return info.nbytes if stored.act_order else 0
    if form is not None and _is_linear(name, info, inspection):
        outputs, inputs = info.shape
        groups = math.ceil(inputs / form.group_size) if form.group_size > 0 else 1
        each_group = 2 if form.symmetric else 4
        return outputs * (inputs * form.bits // 8 + groups * each_group)
    if info.dtype.startswith(("I", "U", "BOOL")):
        return info.nbytes
    return math.prod(info.shape) * size


def _is_linear(name: str, info: TensorInfo, inspection: Inspection) -> bool:
    """Whether the layers of --load-in-8bit and --load-in-4bit take the tensor's place.

    transformers holds the experts of a mixture in one tensor, which is no linear layer.
    """
    return (
        name.endswith(".weight")
        and len(info.shape) == 2
        and ".experts." not in name
        and _BLOCK.match(name) is not None
        and inspection.model_type not in _CONV1D
    )


def _elements(
    name: str, info: TensorInfo, inspection: Inspection, form: QuantizationFormat | None
) -> int:
    """Weights of a layer that is quantized in memory, or 0."""
    stored = inspection.quantization
    if stored is not None and name.endswith(".qweight"):
        return math.prod(info.shape) * 32 // max(1, stored.bits)
    return math.prod(info.shape) if form and _is_linear(name, info, inspection) else 0


def _per_dequantized(dtype: str) -> int:
    """Bytes for each weight while a product dequantizes: what it counts in, and the result.

    Codes are computed with in the wider of float16 (the scales) and the dtype; for bfloat16
    that is float32.
    """
    return {"float16": 3, "bfloat16": 6, "float32": 5}[dtype]


# -- units ------------------------------------------------------------------------------


def _units(inspection: Inspection, bytes_of: dict[str, int], kv_head: int) -> tuple[Unit, ...]:
    """The embedding, the layers in their order, and the rest.

    `kv_head` is what a key or a value of one head takes in the cache.
    """
    layers: dict[str, list[int]] = {}
    first: dict[str, list[int]] = {}
    last: dict[str, list[int]] = {}
    for name, held in bytes_of.items():
        block = _BLOCK.match(name)
        module = block[1] if block else name.rpartition(".")[0]
        module = _GGUF.get(module, module.replace("blk.", "model.layers."))
        place = layers if block else first if _is_embedding(module) else last
        place.setdefault(module, []).append(held)
    if inspection.tied_head:
        last.pop("lm_head", None)
        first["lm_head"] = []
    ordered = sorted(layers, key=lambda name: int(name.rpartition(".")[2]))
    if ordered:
        # No weights, but a device map that leaves it out leaves it on the processor.
        parent = ordered[0].rpartition(".")[0].rpartition(".")[0]
        first[f"{parent}.rotary_emb".lstrip(".")] = []
    kv_token = 2 * inspection.kv_heads * kv_head
    blocks = [_unit({name: layers[name]}) for name in ordered]
    return (
        _unit(first),
        *(replace(block, kv_token=kv_token, layer=True) for block in blocks),
        _unit(last),
    )


def _unit(modules: dict[str, list[int]]) -> Unit:
    sizes = [size for part in modules.values() for size in part]
    return Unit(tuple(modules), sum(sizes), max(sizes, default=0))


def _is_embedding(module: str) -> bool:
    name = module.rpartition(".")[2]
    return name in ("wte", "wpe") or ("emb" in name and "out" not in name)

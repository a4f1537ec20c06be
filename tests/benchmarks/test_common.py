"""What the benchmarks work out from times and shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common import shown, table
from benchmarks.concurrency import speed_together
from benchmarks.peers import best_peer, ratio
from benchmarks.replies import Reply, percentile, window_speed
from benchmarks.roof import Roof, Shape
from modules.engine.protocol import Usage
from modules.loader.options import LoadOptions

LLAMA_2_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
}  # fmt: skip
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}


def shape_of(folder: Path, load: LoadOptions | None = None, **changes: object) -> Shape:
    (folder / "config.json").write_text(json.dumps(LLAMA_2_7B | changes))
    return Shape.of(folder, load or LoadOptions(), 2)


def roof_of(copy: float, product: float) -> Roof:
    return Roof("a card", True, "2.11.0", copy, product, "a product")


def test_a_percentile_lies_between_the_two_nearest_values() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([1.0, 2.0, 3.0], 1.0) == 3.0
    assert percentile([7.0], 0.99) == 7.0


def test_nothing_has_the_percentile_zero() -> None:
    assert percentile([], 0.5) == 0.0


def test_the_steady_speed_ignores_one_long_pause() -> None:
    arrivals = [0.01 * n + (1.0 if n > 60 else 0.0) for n in range(128)]
    assert window_speed(arrivals) == pytest.approx(100)


def test_the_steady_speed_holds_where_several_tokens_arrive_at_once() -> None:
    arrivals = [0.01 * (n // 4 * 4) for n in range(128)]
    assert window_speed(arrivals) == pytest.approx(100)


def test_the_speed_of_a_reply_leaves_out_its_first_token() -> None:
    reply = Reply(1.0, (3.0, 3.5, 4.0), ("a", "b", "c"), (), Usage(1, 3))
    assert reply.first_token_s == 2.0
    assert reply.tokens_per_s == 2.0


def test_chats_are_counted_while_all_of_them_stream() -> None:
    early = [0.0, 1.0, 2.0, 3.0, 4.0]
    late = [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    assert speed_together([early, late]) == (2 + 4) / 2


def test_chats_that_never_stream_together_have_no_speed_together() -> None:
    assert speed_together([[0.0, 1.0], [2.0, 3.0]]) is None


def test_a_4_bit_llama_2_7b_reads_3_6_gigabytes_a_token(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, **GPTQ)
    assert shape.weight_bytes() / 1e9 == pytest.approx(3.6, abs=0.05)


def test_a_cache_in_8_bits_is_half_the_bytes_and_a_scale_for_each_head(tmp_path: Path) -> None:
    wide = shape_of(tmp_path).kv_bytes(10)
    assert shape_of(tmp_path, LoadOptions(cache_type="8-bit")).kv_bytes(10) / wide == 132 / 256


def test_the_roof_of_decode_is_that_of_the_design(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, **GPTQ)
    assert shape.decode_roof(2.96e12, 0) == pytest.approx(820, rel=0.01)


def test_chats_share_the_weights_and_not_their_caches(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, **GPTQ)
    one, together = shape.decode_roof(1e12, 1024), shape.decode_roof(1e12, 1024, 16)
    assert shape.decode_roof(1e12, 0, 16) == 16 * shape.decode_roof(1e12, 0)
    assert one < together < 16 * one


def test_what_is_quantized_while_loading_is_read_in_its_bits(tmp_path: Path) -> None:
    eight, sixteen = shape_of(tmp_path, LoadOptions(quantize="8bit")), shape_of(tmp_path)
    assert eight.bits == 8.125
    assert sixteen.weight_bytes() == 2 * (sixteen.layer_weights + sixteen.head_weights)


def test_fewer_key_heads_make_a_smaller_cache_and_fewer_weights(tmp_path: Path) -> None:
    full, grouped = shape_of(tmp_path), shape_of(tmp_path, num_key_value_heads=8)
    assert grouped.kv_bytes(100) == full.kv_bytes(100) / 4
    assert grouped.layer_weights < full.layer_weights


def test_a_long_prefill_is_bound_by_products(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, **GPTQ)
    assert shape.prefill_roof(roof_of(2.96e12, 790e12), 2048) * 1e3 == pytest.approx(35, abs=1)


def test_a_short_prefill_is_bound_by_reading_the_weights(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, **GPTQ)
    roof = roof_of(2.96e12, 790e12)
    assert shape.prefill_roof(roof, 50) == shape.weight_bytes() / 2.96e12


def test_the_best_peer_is_the_fastest_for_speeds_and_for_times() -> None:
    assert best_peer("decode", "gptq", 128) == 254
    assert best_peer("prefill", "gptq", 512) == 23
    assert best_peer("decode", "gptq", 129) is None


def test_a_ratio_above_one_is_better_for_times_too() -> None:
    assert ratio("decode", 500, 250) == 2
    assert ratio("prefill", 20, 40) == 2


def test_a_table_leaves_out_columns_without_a_value() -> None:
    rows = [{"kind": "gptq", "goal": None, "tok/s": 1234.5}, {"kind": "8bit", "tok/s": 3.14159}]
    assert table(rows).splitlines() == [
        "| kind | tok/s |", "|---|---|", "| gptq | 1,234 |", "| 8bit | 3.14 |",
    ]  # fmt: skip


def test_figures_are_shown_with_three_digits_that_count() -> None:
    assert [shown(value) for value in (None, 7, 0.123, 12.34, 123.4)] == [
        "", "7", "0.12", "12.3", "123",
    ]  # fmt: skip

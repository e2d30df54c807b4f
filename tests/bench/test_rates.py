"""Is the machine's rate the best of all between the turns, and is a share that cannot be an error and not a number?"""

from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.bench import against_trl
from pipeline.bench.machine import Shape
from pipeline.bench.rates import best, shares
from pipeline.bench.turns import Player

SHAPE = Shape(layers=2, hidden=4, intermediate=6, heads=2, kv_heads=1, head_dim=2, vocab=10)


def measurement(gflops: float, read: float, dtype: str = "float32") -> dict[str, Any]:
    return {"seconds": 0.2, "gflops": {dtype: gflops}, "read_gb_per_s": read}


def test_the_best_of_all_measurements_counts() -> None:
    """The best of either rate, wherever it was measured; not the first, the last or the mean."""
    measured = [measurement(40, 7), measurement(90, 5), measurement(60, 9), measurement(50, 6)]
    assert best(measured, "float32") == {"gflops": 90, "read_gb_per_s": 9, "measured": 4}
    with pytest.raises(KeyError, match="bfloat16"):
        best(measured, "bfloat16")


def test_shares_of_a_rate() -> None:
    assert shares({"rollout": 30.0, "score": 60.0}, 60.0, "product", "GFLOP/s") == {"rollout": 0.5, "score": 1.0}


def test_a_share_above_one_is_an_error_of_the_measurement() -> None:
    """One phase at 75 of 60 GFLOP/s: the rate is wrong, so no share of it is told, and none is written as a share."""
    told = shares({"rollout": 30.0, "score": 75.0}, 60.0, "product", "GFLOP/s")
    wrong = "the product rate was measured too low: 60 GFLOP/s, but score reached 75; run again on a quieter machine"
    assert told == {"rollout": wrong, "score": wrong}


def row(gflops: float, read: float) -> dict[str, Any]:
    """A row of LoRA in the only adapted layer: 3 iterations, measured before and after each turn of either side."""
    group = against_trl.Group("fixed", True, 1, 1, "bfloat16", ("head",))
    phases = {"rollout": 1.0, "values": 0.5, "update": 2.0, "other": 0.5}
    each = {"seconds": 4.0, "phases": phases, "mean_length": 24.0, "longest": 24}
    low = measurement(gflops / 2, read / 2, "bfloat16")

    def player(turns: list[dict[str, Any]]) -> Player:
        return Player("", cast(Any, None), Path("log"), {"dtype": "bfloat16"}, turns, {"peak_gb": 1.0})

    players = {
        f"{group.name}-trl": player([{"seconds": 12.0}] * 3),
        f"{group.name}-head": player([each] * 3),
        f"{group.name}-rates": player([low, low, measurement(gflops, read, "bfloat16"), *[low] * 4]),
    }
    return against_trl.row(group, "head", players, 0, 16.0, SHAPE)


def test_a_row_divides_by_the_best_rates() -> None:
    told, faster = row(1.0, 1.0)["ours"], row(4.0, 2.0)["ours"]
    assert faster["rates"] == {"gflops": 4.0, "read_gb_per_s": 2.0, "measured": 7}
    for name, share in told["share_of_peak"].items():
        assert 0 < share < 1 and faster["share_of_peak"][name] == pytest.approx(share / 4)
    assert faster["decode_share_of_bandwidth"] == pytest.approx(told["decode_share_of_bandwidth"] / 2)
    shown = against_trl.table({"rows": [row(1.0, 1.0)]})
    assert "error" not in shown and "values+update" in shown and "of bandwidth" in shown


def test_a_row_reports_what_was_measured_too_low_in_place_of_shares() -> None:
    """The products' rate alone is too low: the bandwidth's share stays. Then the other way round."""
    slow, products = row(1e-6, 1.0), "the product rate was measured too low: 1e-06 GFLOP/s, but "
    share = slow["ours"]["share_of_peak"]
    assert set(share) == {"rollout", "values+update", "iteration"} and len(set(share.values())) == 1
    assert share["iteration"].startswith(products)
    shown = against_trl.table({"rows": [slow]})
    assert shown.count("\n    error: the product rate") == 1 == shown.count("too low")
    assert shown.count("%") == 1 and "% of bandwidth" in shown and "rollout 1.00 s," in shown
    slow = row(1.0, 1e-9)
    read = slow["ours"]["decode_share_of_bandwidth"]
    assert read.startswith("the read rate was measured too low: 1e-09 GB/s, but decoding reached ")
    shown = against_trl.table({"rows": [slow]})
    assert f"\n    error: {read}" in shown and "of bandwidth" not in shown and "values+update 0%" in shown


@pytest.mark.parametrize(("lora", "rated"), [(True, "bfloat16"), (False, "float32")])
def test_products_are_measured_in_the_dtype_of_our_policy(lora: bool, rated: str) -> None:
    group = against_trl.Group("fixed", lora, None, 1, "bfloat16", ("head",))
    processes = against_trl.commands(group, Path("model"), Path("prompts"), 3, None)
    assert list(processes) == [f"{group.name}-{name}" for name in ("rates", "trl", "head")]
    assert processes[f"{group.name}-rates"][-2:] == ["pipeline.bench.rates", rated]

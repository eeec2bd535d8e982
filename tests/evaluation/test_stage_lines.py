"""Lines about the progress of a single computation."""

from __future__ import annotations

from mmrs_bench.evaluation.stage_lines import StageLines


def lines(*reports: tuple[float, str, float]) -> list[str]:
    """The lines for reports (seconds, stage, share)."""
    said: list[str] = []
    now = [0.0]
    show = StageLines(said.append, clock=lambda: now[0])
    for now[0], stage, done in reports:
        show(stage, done)
    return said


def test_a_long_stage_is_estimated_when_it_has_settled_and_then_every_half_minute() -> None:
    reports = [(0, "train", 0.0), (10, "train", 1.0), (10, "predict", 0.0)]
    reports += [(10 + 10 * tenth, "predict", tenth / 30) for tenth in range(1, 31)]
    shown = [f"predict: {share} %, about {left} min left" for share, left in ((3, 5), (13, 5), (23, 4), (33, 4))]
    found = lines(*reports)
    assert found[:6] == ["train", "predict", *(line.replace(" %", "%") for line in shown)]
    assert found[-1] == "predict: 83%, about 1 min left"


def test_a_slow_start_is_not_taken_for_the_speed_of_the_stage() -> None:
    after_two_seconds = [(2 + 18 * share / 100, "train", share / 100) for share in range(1, 101)]
    assert lines((0, "train", 0.0), *after_two_seconds) == ["train"]
    assert lines((0, "train", 0.0), (40, "train", 0.01), (45, "train", 0.2))[1:] == ["train: 20%, about 3 min left"]


def test_a_short_stage_has_only_its_name() -> None:
    assert lines((0, "train", 0.0), (1, "train", 0.5), (2, "train", 1.0)) == ["train"]


def test_a_stage_without_a_first_report_began_when_the_one_before_ended() -> None:
    assert lines((0, "train", 0.0), (100, "train", 1.0), (160, "predict", 0.5))[1:] == [
        "predict: 50%, about 1 min left"
    ]

"""Pruning of a run's checkpoints: what is removed, and what is not, while evaluators are at work."""

import shutil
from pathlib import Path

import torch

from seqforge import checkpoint


def place(tmp_path: Path, tags: dict[int, str | None]) -> Path:
    for step, tag in tags.items():
        checkpoint.write(tmp_path / "checkpoints" / f"step-{step}", {"generator": torch.nn.Linear(1, 1)}, {}, {}, tag)
    (tmp_path / "evaluations").mkdir()
    return tmp_path / "checkpoints"


def left(checkpoints: Path) -> list[int]:
    return [checkpoint.step_of(p) for p in checkpoint.every(checkpoints)]


def result(checkpoints: Path, step: int) -> None:
    (checkpoints.parent / "evaluations" / f"step-{step}.json").write_text("{}")


def test_pruning_spares_the_best_one_under_evaluation_and_one_that_waits_for_it(tmp_path):
    checkpoints = place(tmp_path, dict.fromkeys(range(1, 9), "milestone") | {9: None, 10: None, 11: None, 12: "final"})
    for step in range(2, 9):
        result(checkpoints, step)
    (tmp_path / "evaluations" / "best.json").write_text('{"checkpoint": "step-3"}')
    with checkpoint.claimed(checkpoints / "step-5"), checkpoint.claimed(checkpoints / "step-9"):
        checkpoint.prune(checkpoints, keep=1, milestones=2)
        assert left(checkpoints) == [1, 3, 5, 7, 8, 9, 11, 12]  # 1 waits, 3 is best, 5 and 9 are being scored
    result(checkpoints, 1)
    checkpoint.prune(checkpoints, keep=1, milestones=2)
    assert left(checkpoints) == [3, 7, 8, 11, 12]


def test_what_has_no_generator_to_score_does_not_wait_for_it(tmp_path):
    checkpoints = place(tmp_path, dict.fromkeys(range(1, 6), "milestone"))
    for step in (1, 2, 3):  # of MLE's counterpart
        shutil.rmtree(checkpoints / f"step-{step}" / "generator")
    checkpoint.prune(checkpoints, keep=1, milestones=1)
    assert left(checkpoints) == [4, 5]


def test_all_milestones_stay_unless_asked(tmp_path):
    checkpoints = place(tmp_path, dict.fromkeys(range(1, 5), "milestone"))
    checkpoint.prune(checkpoints, keep=1)
    assert left(checkpoints) == [1, 2, 3, 4]


def test_a_best_that_cannot_be_read_spares_nothing_and_fails_nothing(tmp_path):
    checkpoints = place(tmp_path, {1: None, 2: None})
    (tmp_path / "evaluations" / "best.json").write_text("{")
    checkpoint.prune(checkpoints, keep=1)
    assert left(checkpoints) == [2]

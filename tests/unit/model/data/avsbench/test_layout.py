"""Layouts of AVSBench: the published one, those of later code, and messages about all others."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.model.avsbench_tree import LABELS, make_avss, make_ms3, make_s4

from model.data.avsbench.check import verify
from model.data.avsbench.index import read_index, read_labels
from model.data.avsbench.layout import find_layout
from model.data.avsbench.subsets import Subset

MAKERS = {Subset.S4: make_s4, Subset.MS3: make_ms3, Subset.AVSS: make_avss}
PUBLISHED = {Subset.S4: "Single-source", Subset.MS3: "Multi-sources", Subset.AVSS: "AVSS"}


def moved(root: Path, subset: Subset, target: str) -> Path:
    """A tree of the subset whose folder lies at `target` below the root."""
    MAKERS[subset](root / "made")
    place = root / "tree" / target
    place.parent.mkdir(parents=True, exist_ok=True)
    (root / "made" / PUBLISHED[subset]).rename(place)
    return root / "tree"


@pytest.mark.parametrize(
    ("subset", "target"),
    [
        (Subset.S4, "Single-source"),
        (Subset.S4, "AVSBench_object/Single-source"),
        (Subset.S4, "AVSBench/Single-source"),
        (Subset.MS3, "AVSBench_object/Multi-sources"),
        (Subset.AVSS, "AVSBench_semantic"),
        (Subset.AVSS, "AVSBench/AVSS"),
    ],
)
def test_a_subset_is_complete_in_every_layout(tmp_path: Path, subset: Subset, target: str) -> None:
    root = moved(tmp_path, subset, target)
    reports = verify(root, subset=subset)
    assert {split: (r.num_listed, r.num_complete, r.faults) for split, r in reports.items()} == {
        "train": (4, 4, []),
        "val": (2, 2, []),
        "test": (3, 3, []),
    }
    assert all(root in files.wav.parents for files in read_index(root, subset=subset, split="train"))
    if subset.is_semantic:
        assert read_labels(root, subset=subset) == LABELS


@pytest.mark.parametrize("subset", list(Subset))
def test_the_root_may_be_the_subsets_own_folder(tmp_path: Path, subset: Subset) -> None:
    root = moved(tmp_path, subset, PUBLISHED[subset]) / PUBLISHED[subset]
    assert find_layout(root, subset=subset).folder == root
    assert all(report.num_complete == report.num_listed for report in verify(root, subset=subset).values())


def test_ms3_time_csv_lists_the_clips_where_the_published_list_is_missing(tmp_path: Path) -> None:
    root = make_ms3(tmp_path)
    folder = root / "Multi-sources"
    before = read_index(root, subset=Subset.MS3, split="test")
    (folder / "ms3_meta_data.csv").rename(folder / "ms3_time.csv")
    assert read_index(root, subset=Subset.MS3, split="test") == before


@pytest.mark.parametrize("subset", list(Subset))
def test_frames_may_lie_in_processed_frames(tmp_path: Path, subset: Subset) -> None:
    root = MAKERS[subset](tmp_path)
    for folder in [path for path in root.rglob("*") if path.name in ("visual_frames", "frames")]:
        folder.rename(folder.with_name("processed_frames"))
    assert all(report.num_complete == report.num_listed > 0 for report in verify(root, subset=subset).values())


def test_the_message_names_what_was_looked_for_and_the_nearest_thing(tmp_path: Path) -> None:
    root = moved(tmp_path, Subset.S4, "data/s4/Single_source")
    with pytest.raises(ValueError, match=r"Single-source/s4_meta_data\.csv") as caught:
        find_layout(root, subset=Subset.S4)
    assert "the nearest thing found is data/s4/Single_source" in str(caught.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"the root holds notes\.txt"):
        find_layout(tmp_path / "other", subset=Subset.AVSS)
    with pytest.raises(ValueError, match="the root is not a folder"):
        find_layout(tmp_path / "absent", subset=Subset.MS3)

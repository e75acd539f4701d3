"""AVSBench on disk: which files belong to a clip, what its labels say, what is missing, and pickles that are traps."""

import io
import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.model.avsbench_tree import LABELS, draw, hash_of, make_avss, make_ms3, make_s4

from model.data.avsbench.check import convert, verify
from model.data.avsbench.clip import palette, read_clip
from model.data.avsbench.index import read_index, read_labels
from model.data.avsbench.pickles import PickleError, read_pickled_log_mel
from model.data.avsbench.subsets import SPLITS, Subset


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three parts; tests must not change it."""
    return make_avss(make_ms3(make_s4(tmp_path_factory.mktemp("avsbench"))))


def test_s4_is_labelled_on_first_frames_in_training_and_on_all_elsewhere(tree: Path) -> None:
    train, test = (read_index(tree, subset=Subset.S4, split=split) for split in ("train", "test"))
    assert [files.uid for files in train] == [f"s4_train_{n}" for n in range(4)]
    assert [label is not None for label in train[0].labels] == [True, False, False, False, False]
    assert all(label is not None for label in test[0].labels)
    assert train[1].category == "hum"
    assert train[1].frames[4].name == "s4_train_1_5.png"
    whole = read_clip(train[0], size_px=64, num_classes=2)
    assert whole.frames.shape == (5, 64, 64, 3)
    assert whole.is_labelled.tolist() == [True, False, False, False, False]
    assert not whole.truth[1:].any()
    labelled = read_clip(train[0], size_px=64, num_classes=2, only_labelled=True)
    assert labelled.frames.shape == (1, 64, 64, 3)
    picture, classes = draw(seed=hash_of("s4_train_0", 0), sounding={"bell"})
    assert np.array_equal(labelled.frames[0].numpy(), picture)
    assert np.array_equal(labelled.truth[0].numpy(), (classes > 0).astype(int))


def test_ms3_has_the_mp4_in_its_frame_names_and_frames_without_truth(tree: Path) -> None:
    (files,) = read_index(tree, subset=Subset.MS3, split="val")[:1]
    assert files.frames[0].name == "ms3_val_0.mp4_1.png"
    clip = read_clip(files, size_px=64, num_classes=2)
    assert clip.is_labelled.all()
    assert clip.truth.flatten(1).any(dim=1).tolist() == [True, True, True, True, False]
    assert int(clip.truth[2].sum()) > int(clip.truth[1].sum())


@pytest.mark.parametrize("picture_mode", ["1", "L", "P", "RGB"])
def test_a_binary_label_reads_the_same_in_every_picture_mode(tree: Path, tmp_path: Path, picture_mode: str) -> None:
    files = read_index(make_s4(tmp_path), subset=Subset.S4, split="train")[0]
    label = files.labels[0]
    assert label is not None
    before = read_clip(files, size_px=64, num_classes=2).truth
    with Image.open(label) as picture:
        picture.convert("L").convert(picture_mode).save(label)
    assert torch.equal(read_clip(files, size_px=64, num_classes=2).truth, before)


def test_avss_flags_follow_the_kind_of_clip(tree: Path) -> None:
    by_kind = {files.category: files for files in read_index(tree, subset=Subset.AVSS, split="train")}
    counts = {kind: (len(f.frames), sum(label is not None for label in f.labels)) for kind, f in by_kind.items()}
    assert counts == {"v1s": (5, 1), "v1m": (5, 5), "v2": (10, 10)}
    test = read_index(tree, subset=Subset.AVSS, split="test")
    assert all(label is not None for files in test for label in files.labels)


def test_avss_classes_come_from_index_pictures_or_from_colours(tree: Path) -> None:
    for files in read_index(tree, subset=Subset.AVSS, split="test"):
        number = int(files.uid[-1])
        squashed = read_clip(files, size_px=96, num_classes=len(LABELS)).truth
        _, classes = draw(seed=hash_of(files.uid, 0), sounding={("bell", "hum")[number % 2]}, size=(96, 64))
        assert set(squashed[0].unique().tolist()) == {0, 1 + number % 2}
        share = (squashed[0] > 0).float().mean()
        assert float(share) == pytest.approx((classes > 0).mean(), rel=0.15)


def test_avss_training_crops_the_centre_and_keeps_the_aspect(tree: Path) -> None:
    files = read_index(tree, subset=Subset.AVSS, split="train")[1]
    picture, classes = draw(seed=hash_of(files.uid, 0), sounding={"hum"}, size=(96, 64))
    clip = read_clip(files, size_px=64, num_classes=len(LABELS), is_cropped=True)
    assert np.array_equal(clip.truth[0].numpy(), classes[:, 16:80])
    difference = np.abs(clip.frames[0].numpy().astype(int) - picture[:, 16:80])
    assert np.median(difference) < 12  # JPEG


def test_the_palette_is_that_of_pascal_voc() -> None:
    assert palette(71)[:9].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128],
        [128, 128, 128], [64, 0, 0],
    ]  # fmt: skip
    assert len({tuple(colour) for colour in palette(71).tolist()}) == 71


@pytest.mark.parametrize("first_index", [0, 1])
def test_class_names_count_from_0_or_1(tmp_path: Path, first_index: int) -> None:
    make_avss(tmp_path, counts={"train": 1}, first_index=first_index)
    assert read_labels(tmp_path, subset=Subset.AVSS) == LABELS


@pytest.mark.parametrize(
    "names", [{}, {"background": 1}, {"dog": 0, "background": 1}, {"background": 0, "dog": 2}, ["background", "dog"]]
)
def test_class_names_that_do_not_fit_are_refused(tmp_path: Path, names: object) -> None:
    (tmp_path / "AVSS").mkdir()
    (tmp_path / "AVSS" / "metadata.csv").write_text("uid,label,split\n")
    (tmp_path / "AVSS" / "label2idx.json").write_text(json.dumps(names))
    with pytest.raises(ValueError, match="label2idx"):
        read_labels(tmp_path, subset=Subset.AVSS)


@pytest.mark.parametrize("name", ["../out", "a/b", "..", "", "a\\b"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Multi-sources"
    folder.mkdir()
    (folder / "ms3_meta_data.csv").write_text(f'video_id,split\n"{name}",train\n')
    with pytest.raises(ValueError, match="plain file name"):
        read_index(tmp_path, subset=Subset.MS3, split="train")


def test_a_missing_or_other_metadata_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"s4_meta_data\.csv"):
        read_index(tmp_path, subset=Subset.S4, split="train")
    (tmp_path / "Single-source").mkdir()
    (tmp_path / "Single-source" / "s4_meta_data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected one named split"):
        read_index(tmp_path, subset=Subset.S4, split="train")


def test_verify_counts_and_names_what_is_missing(tmp_path: Path) -> None:
    make_s4(tmp_path)
    reports = verify(tmp_path, subset=Subset.S4)
    assert {split: (r.num_listed, r.num_complete, r.missing, r.faults) for split, r in reports.items()} == {
        "train": (4, 4, [], []),
        "val": (2, 2, [], []),
        "test": (3, 3, [], []),
    }
    files = read_index(tmp_path, subset=Subset.S4, split="val")[0]
    files.frames[2].unlink()
    for path in (files.wav, files.pickled):
        assert path is not None
        path.unlink()
    report = verify(tmp_path, subset=Subset.S4)["val"]
    assert report.num_complete == 1
    assert [Path(name).name for name in report.missing] == ["s4_val_0_3.png", "s4_val_0.pkl"]


def test_verify_finds_labels_beyond_the_classes(tmp_path: Path) -> None:
    make_avss(tmp_path)
    label = read_index(tmp_path, subset=Subset.AVSS, split="val")[0].labels[0]
    assert label is not None
    Image.fromarray(np.full((64, 96), 200, np.uint8)).save(label)
    (fault,) = verify(tmp_path, subset=Subset.AVSS)["val"].faults
    assert "got class 200, expected 0 .. 3" in fault


@pytest.mark.parametrize("subset", list(Subset))
def test_converting_gives_what_the_sound_gives_and_is_done_once(tmp_path: Path, subset: Subset) -> None:
    {Subset.S4: make_s4, Subset.MS3: make_ms3, Subset.AVSS: make_avss}[subset](tmp_path)
    clips = [files for split in SPLITS for files in read_index(tmp_path, subset=subset, split=split)]
    before = [read_clip(files, size_px=32, num_classes=4).log_mel for files in clips]
    first = convert(tmp_path, subset=subset)
    assert first["num_from_pickle" if subset is not Subset.AVSS else "num_from_wav"] == 9
    assert first["faults"] == []
    assert convert(tmp_path, subset=subset)["num_kept"] == 9
    for files, examples in zip(clips, before, strict=True):
        files.wav.unlink()
        # The wav has 16 bits, the pickle was made from floats: silent bands beside a tone differ.
        assert torch.allclose(read_clip(files, size_px=32, num_classes=4).log_mel, examples, atol=0.15)
    lengths = {files.category: len(np.load(files.log_mel)) for files in clips}
    assert set(lengths.values()) == {10 if subset is Subset.AVSS else 5}


def test_without_any_sound_the_message_says_what_to_do(tmp_path: Path) -> None:
    make_s4(tmp_path, has_wav=False)
    files = read_index(tmp_path, subset=Subset.S4, split="train")[0]
    with pytest.raises(ValueError, match="avesformer data convert"):
        read_clip(files, size_px=32, num_classes=2)


class Trap:
    """Pickles into a call of anything."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def examples() -> torch.Tensor:
    return torch.randn(5, 1, 96, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", ["tensor", "gradient", "float64", "numpy", "view"])
def test_published_kinds_of_pickles_are_read(tmp_path: Path, kind: str, protocol: int) -> None:
    values = examples()
    stored: object = {
        "tensor": values,
        "gradient": values.clone().requires_grad_() * 1.0,
        "float64": values.double(),
        "numpy": values.numpy(),
        "view": torch.cat((values, values))[5:],
    }[kind]
    path = tmp_path / "clip.pkl"
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    read = read_pickled_log_mel(path)
    assert read.dtype == torch.float32
    assert not read.requires_grad
    assert torch.equal(read, values)


def hostile(marker: Path) -> dict[str, bytes]:
    """Pickles by name; those that run code would make the file `marker`."""
    touch = Trap(Path.touch, marker)
    from torch._utils import _rebuild_tensor_v2

    storage = torch.zeros(4).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    inner = io.BytesIO()
    torch.save({"a": 1}, inner)
    return {
        "os.system": b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.",
        "call": pickle.dumps(touch),
        "inside a tensor": pickle.dumps(Trap(torch.storage._load_from_bytes, pickle.dumps(touch))),
        "eval": pickle.dumps(Trap(eval, f"open({str(marker)!r}, 'w')")),
        "too large a shape": pickle.dumps(Trap(_rebuild_tensor_v2, typed, 0, (10**9,), (1,), False, OrderedDict())),
        "beyond its data": pickle.dumps(Trap(_rebuild_tensor_v2, typed, 3, (4,), (1,), False, OrderedDict())),
        "negative stride": pickle.dumps(Trap(_rebuild_tensor_v2, typed, 3, (4,), (-1,), False, OrderedDict())),
        "attribute of a function": pickle.PROTO + b"\x04ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x01xK\x01sb.",
        "no tensor": pickle.dumps([1, 2, 3]),
        "integers": pickle.dumps(np.zeros((5, 1, 96, 64), np.int64)),
        "objects": pickle.dumps(np.array([touch], dtype=object)),
        "another shape": pickle.dumps(torch.zeros(5, 1, 64, 96)),
        "not finite": pickle.dumps(torch.full((5, 1, 96, 64), float("nan"))),
        "a torch.save file": inner.getvalue(),
        "cut": pickle.dumps(examples())[:-100],
        "nothing": b"",
        "deep": b"(" * 100_000 + b".",
    }


@pytest.mark.parametrize("name", list(hostile(Path("unused"))))
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "it ran"
    path = tmp_path / "clip.pkl"
    path.write_bytes(hostile(marker)[name])
    with pytest.raises(PickleError, match=r"clip\.pkl"):
        read_pickled_log_mel(path)
    assert not marker.exists()
    path.write_bytes(pickle.dumps(examples()))
    assert torch.equal(read_pickled_log_mel(path), examples())


def test_a_file_beyond_any_log_mel_is_not_even_opened(tmp_path: Path) -> None:
    path = tmp_path / "clip.pkl"
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(PickleError, match="larger than"):
        read_pickled_log_mel(path)


def test_a_trap_among_the_clips_spoils_only_itself(tmp_path: Path) -> None:
    make_ms3(tmp_path)
    marker = tmp_path / "it ran"
    files = read_index(tmp_path, subset=Subset.MS3, split="train")[1]
    assert files.pickled is not None
    files.pickled.write_bytes(pickle.dumps(Trap(Path.touch, marker)))
    report = convert(tmp_path, subset=Subset.MS3)
    (fault,) = report["faults"]
    assert "ms3_train_1.pkl" in fault
    assert report["num_from_pickle"] == 8
    assert not marker.exists()

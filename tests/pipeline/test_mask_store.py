"""Masks on disk, and the watch."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from alref_edge.errors import CapacityError, InputError
from alref_edge.media.spill import spill_folder
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import Progress, RunStats


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (48, 64)])
def test_masks_come_back_as_they_went(tmp_path: Path, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    masks = random.random((3, 5, *size)) > 0.5
    with MaskStore(3, 5, *size, str(tmp_path)) as store:
        for item, frame in random.permutation([(item, frame) for item in range(3) for frame in range(5)]):
            store.put(int(item), int(frame), masks[item, frame])
        for item in range(3):
            for frame in range(5):
                np.testing.assert_array_equal(store.get(item, frame), masks[item, frame])
        assert store.get(0, 0).dtype == np.bool_


def test_the_last_mask_put_counts_and_none_put_is_empty() -> None:
    with MaskStore(1, 2, 4, 4) as store:
        assert not store.has(0, 0)
        store.put(0, 0, np.ones((4, 4), bool))
        assert store.has(0, 0)
        store.put(0, 0, np.eye(4, dtype=bool))
        np.testing.assert_array_equal(store.get(0, 0), np.eye(4, dtype=bool))
        assert not store.has(0, 1)
        assert not store.get(0, 1).any()


def test_nothing_is_left_on_disk_and_the_file_closes_with_the_store(tmp_path: Path) -> None:
    store = MaskStore(1, 1, 4, 4, str(tmp_path))
    store.put(0, 0, np.ones((4, 4), bool))
    assert os.listdir(tmp_path) == []
    assert 0 < store.nbytes < 100
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    del store
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before - 1


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the file's place is read from /proc")
def test_masks_lie_where_temporary_frames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if spill_folder() == str(tmp_path):
        pytest.skip("/var/tmp cannot be written here")
    with MaskStore(1, 1, 4, 4) as store:
        place = os.readlink(f"/proc/self/fd/{store._file.fileno()}")
    assert place.startswith(os.path.realpath(spill_folder()) + "/")
    with pytest.raises(CapacityError, match=rf"stored in {tmp_path}/gone\..*another `spill_dir`") as caught:
        MaskStore(1, 1, 4, 4, str(tmp_path / "gone"))
    assert "TMPDIR" not in str(caught.value)  # which says nothing about that folder
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CapacityError, match=rf"stored in {tmp_path}/gone\..*set TMPDIR"):
        MaskStore(1, 1, 4, 4)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    with MaskStore(1, 1, 4, 4, str(tmp_path)) as store:
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), store._file.fileno())
        with pytest.raises(CapacityError, match=rf"stored in {tmp_path}\..*No space left.*make room there"):
            store.put(0, 0, np.ones((4, 4), bool))


def test_what_does_not_fit_is_refused() -> None:
    store = MaskStore(1, 2, 4, 6)
    with pytest.raises(InputError, match="does not fit"):
        store.put(0, 0, np.ones((6, 4), bool))
    with pytest.raises(InputError, match="does not fit"):
        store.put(0, 0, np.ones((4, 6), np.uint8))
    for item, frame in ((1, 0), (0, 2), (-1, 0), (0, -1)):
        with pytest.raises(InputError, match="no such mask"):
            store.get(item, frame)
    store.close()
    store.close()
    with pytest.raises(InputError, match="given back"):
        store.get(0, 0)


def test_stages_nest_without_counting_twice() -> None:
    stats = RunStats()

    def items() -> object:
        time.sleep(0.05)
        yield 1

    with stats.stage("outer"):
        for _ in stats.over("inner", items()):  # type: ignore[arg-type]
            time.sleep(0.02)
    assert stats.seconds["inner"] >= 0.05
    assert 0.02 <= stats.seconds["outer"] < 0.05


def test_progress_is_told_to_whoever_watches() -> None:
    told: list[Progress] = []
    RunStats(progress=told.append).report("forward", 1, 2)
    RunStats().report("forward", 1, 2)
    assert told == [Progress("forward", 1, 2)]

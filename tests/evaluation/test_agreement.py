"""Agreement of decisions: figures by hand, the published answers, and folders that do not fit."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alref_edge.cli import app
from alref_edge.errors import InputError
from alref_edge.evaluation.agreement import MEASURES, PARTS, Agreement, compare_folders
from alref_edge.pipeline.selectors.sound_replay import STAGE_1, STAGE_2
from alref_edge.writing.recording import TWO_STAGE


def sounds(folder: Path, setting: str, first: Mapping[str, Mapping[str, int]], second: Mapping[str, object]) -> Path:
    where = folder / setting
    where.mkdir(parents=True)
    (where / STAGE_1).write_text(json.dumps({clip: str(each) for clip, each in first.items()}))
    (where / STAGE_2).write_text(json.dumps(second))
    return folder


def sentence(folder: Path, video: str, number: int, text: str | None, *answers: tuple[int, int | None]) -> Path:
    segments = [
        {"target_frame_id": frame} | ({} if box is None else {"target_object_id": box}) for frame, box in answers
    ]
    path = folder / video / "stage_2" / str(number) / TWO_STAGE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"res_list": segments} | ({} if text is None else {"exp": text})))
    return folder


def figures(agreement: Agreement) -> dict[str, tuple[float, int]]:
    return {name: (share.mean, share.count) for name, share in agreement.measures.items()}


def test_sounds_by_hand(tmp_path: Path) -> None:
    reference = sounds(
        tmp_path / "reference",
        "ms3",
        {"a": {"Dog": 1, "cat": 3}, "b": {"violin": 2}, "c": {}, "d": {"gun": 4}, "e": {"bird": 1}},
        {"a": {"Dog": "1", "cat": "2"}, "b": {"violin": "3"}, "d": {"gun": "1"}},
    )
    ours = sounds(
        tmp_path / "ours",
        "ms3",
        {"a": {" dog ": 2, "piano": 5}, "b": {"Violin": 2}, "c": {"man": 1}, "d": {"gun": 1}, "f": {}},
        {"a": {" dog ": 1, "piano": 1}, "b": {"Violin": 3}, "d": {"gun": 2}},
    )
    (agreement,) = compare_folders(reference, ours)
    assert (agreement.part, agreement.clips) == ("ms3", 4)
    assert (agreement.only_reference, agreement.only_ours) == (("e",), ("f",))
    assert figures(agreement) == {
        "categories_precision": (pytest.approx((1 / 2 + 1 + 0 + 1) / 4), 4),
        "categories_recall": (pytest.approx((1 / 2 + 1 + 1) / 3), 3),  # the reference names nothing in c
        "categories_f1": (pytest.approx((1 / 2 + 1 + 0 + 1) / 4), 4),
        "categories_exact": (1 / 2, 4),
        "pivot_exact": (pytest.approx(1 / 3), 3),  # dog, violin, gun
        "pivot_within_1": (pytest.approx(2 / 3), 3),
        "box": (pytest.approx(2 / 3), 3),
        "box_same_frame": (1.0, 1),  # violin
    }
    turned = figures(compare_folders(ours, reference)[0])
    assert turned["categories_precision"] == (pytest.approx(2.5 / 3), 3)
    assert turned["categories_recall"] == (pytest.approx(2.5 / 4), 4)


def test_nothing_on_both_sides_is_agreement(tmp_path: Path) -> None:
    folder = sounds(tmp_path / "one", "avss", {"a": {}}, {})
    (agreement,) = compare_folders(folder, folder)
    assert figures(agreement) == {"categories_f1": (1.0, 1), "categories_exact": (1.0, 1)}


def test_in_s4_the_first_category_counts_and_boxes_are_of_it(tmp_path: Path) -> None:
    reference = sounds(
        tmp_path / "reference", "s4", {"a": {"dog": 1}, "b": {"dog": 1}, "c": {"cat": 4}}, {"a": "1", "b": "2"}
    )
    ours = sounds(
        tmp_path / "ours",
        "s4",
        {"a": {"dog": 1, "man": 2}, "b": {"man": 1, "dog": 1}, "c": {"cat": 3}},
        {"a": 1, "b": 2},
    )
    assert figures(compare_folders(reference, ours)[0]) == {
        "categories_precision": (pytest.approx(2 / 3), 3),
        "categories_recall": (pytest.approx(2 / 3), 3),
        "categories_f1": (pytest.approx(2 / 3), 3),
        "categories_exact": (pytest.approx(2 / 3), 3),
        "pivot_exact": (1 / 2, 2),
        "pivot_within_1": (1.0, 2),
        "box": (1.0, 1),
        "box_same_frame": (1.0, 1),
    }


def test_of_names_that_differ_in_case_alone_the_first_counts(tmp_path: Path) -> None:
    reference = sounds(tmp_path / "reference", "ms3", {"a": {"Dog": 2, "dog": 5}}, {})
    ours = sounds(tmp_path / "ours", "ms3", {"a": {"dog": 2}}, {})
    assert figures(compare_folders(reference, ours)[0])["pivot_exact"] == (1.0, 1)


def test_sentences_by_hand(tmp_path: Path) -> None:
    """Matched by sentence, whatever their number; the second of two equal sentences is another one."""
    reference, ours = tmp_path / "reference", tmp_path / "ours"
    sentence(reference, "v", 0, "A dog", (3, 1), (2, -1), (-1, None), (4, 2))
    sentence(reference, "v", 1, "a cat", (1, 1))
    sentence(reference, "v", 2, "a dog", (5, 1))
    sentence(reference, "w", 0, "a man", (1, 3))
    sentence(reference, "x", 0, "a man", (1, 3))
    sentence(ours, "v", 4, "a dog ", (3, 1), (2, 0), (1, 1))
    sentence(ours, "v", 10, "a dog", (1, 1))
    sentence(ours, "w", 0, "a man", (2, 3), (1, 1))
    (agreement,) = compare_folders(reference, ours)
    assert (agreement.part, agreement.clips, agreement.only_reference, agreement.only_ours) == ("rvos", 2, ("x",), ())
    assert figures(agreement) == {
        "kept": (pytest.approx(4 / 5), 5),  # three of "a dog", one of its double, one of "a man"
        "pivot_exact": (pytest.approx(2 / 4), 4),
        "pivot_within_1": (pytest.approx(3 / 4), 4),
        "box": (1.0, 4),  # a rejection is an answer
        "box_same_frame": (1.0, 2),
    }


def test_files_that_name_no_sentence_are_known_by_their_number(tmp_path: Path) -> None:
    for side in ("reference", "ours"):
        for number in (2, 10):
            sentence(tmp_path / side, "v", number, None, (number % 7, 1))
    assert figures(compare_folders(tmp_path / "reference", tmp_path / "ours")[0])["pivot_exact"] == (1.0, 2)


def test_intervals_draw_clips_not_decisions(tmp_path: Path) -> None:
    names = {str(number): 1 for number in range(40)}
    half = {name: 1 + (int(name) % 2) for name in names}
    reference = sounds(tmp_path / "reference", "ms3", {"a": names}, {})
    alone = compare_folders(reference, sounds(tmp_path / "ours", "ms3", {"a": half}, {}))[0].measures["pivot_exact"]
    assert (alone.mean, alone.low, alone.high, alone.count) == (0.5, 0.5, 0.5, 40)
    clips = {str(clip): {"dog": 1} for clip in range(40)}
    many = compare_folders(
        sounds(tmp_path / "clips", "ms3", clips, {}),
        sounds(tmp_path / "half", "ms3", {clip: {"dog": 1 + int(clip) % 2} for clip in clips}, {}),
    )[0].measures["pivot_exact"]
    assert many.mean == 0.5
    # 40 fair draws: a standard deviation of sqrt(0.25 / 40) = 0.079, so 1.96 of them on either side.
    assert many.low == pytest.approx(0.345, abs=0.03)
    assert many.high == pytest.approx(0.655, abs=0.03)


def test_the_published_answers_agree_with_themselves(published: Path) -> None:
    found = compare_folders(published, published)
    assert [each.part for each in found] == list(PARTS[:-1])
    assert [each.clips for each in found] == [740, 64, 1554, 750]
    assert [each.measures["pivot_exact"].count for each in found] == [740, 101, 1931, 993]
    assert [each.measures["box"].count for each in found] == [280, 46, 910, 520]
    for each in found:
        assert {(share.mean, share.low, share.high) for share in each.measures.values()} == {(1.0, 1.0, 1.0)}
        assert (each.only_reference, each.only_ours) == ((), ())


def test_a_changed_copy_of_the_published_answers(published: Path, tmp_path: Path) -> None:
    """MS3 has 64 clips with 101 categories and 46 boxes; changed are clips whose answers are known."""
    first = {
        clip: ast.literal_eval(text) for clip, text in json.loads((published / "ms3" / STAGE_1).read_text()).items()
    }
    second = json.loads((published / "ms3" / STAGE_2).read_text())
    alone = sorted(clip for clip, each in first.items() if len(each) == 1 and clip not in second)
    assert len(alone) >= 6
    for clip, shift in zip(alone, (1, -1, 2, 3, 4), strict=False):
        first[clip] = {name: frame + shift for name, frame in first[clip].items()}
    first[alone[5]] = {"a thing that is nowhere": 1}
    changed = sorted(second)[:4]
    for clip in changed:
        name = next(iter(second[clip]))
        second[clip][name] = str(int(second[clip][name]) + 1)
    first["another clip"] = {}
    (agreement,) = compare_folders(published, sounds(tmp_path / "ours", "ms3", first, second), "ms3")
    assert (agreement.clips, agreement.only_reference, agreement.only_ours) == (64, (), ("another clip",))
    clips = (pytest.approx(63 / 64), 64)
    assert figures(agreement) == {
        **dict.fromkeys(["categories_precision", "categories_recall", "categories_f1", "categories_exact"], clips),
        "pivot_exact": (pytest.approx(95 / 100), 100),
        "pivot_within_1": (pytest.approx(97 / 100), 100),
        "box": (pytest.approx(42 / 46), 46),
        "box_same_frame": (pytest.approx(42 / 46), 46),
    }
    for share in agreement.measures.values():
        assert share.low < share.mean < share.high


def agree(*arguments: object) -> tuple[int, str]:
    """Exit code and all that is printed, in one line."""
    done = CliRunner().invoke(app, ["agree", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


def test_the_command_prints_a_table_and_writes_the_figures(tmp_path: Path) -> None:
    reference = sounds(tmp_path / "reference", "ms3", {"a": {"dog": 1}, "b": {"dog": 4}}, {})
    ours = sounds(tmp_path / "ours", "ms3", {"a": {"dog": 2}, "c": {}}, {})
    sounds(tmp_path / "ours", "s4", {"a": {"dog": 2}}, {})
    code, printed = agree("--reference", reference, "--ours", ours, "--json", tmp_path / "figures.json")
    assert code == 0, printed
    assert "ms3: 1 clips in both, 1 in the reference alone, 1 in ours alone" in printed
    assert f"{MEASURES['pivot_exact']} 0.0 [0.0, 0.0] 1" in printed
    assert f"{MEASURES['pivot_within_1']} 100.0 [100.0, 100.0] 1" in printed
    written = json.loads((tmp_path / "figures.json").read_text())
    (ms3,) = written["agreements"]
    assert written["schema"] == "alref-edge.agreement/1"
    assert (ms3["part"], ms3["clips"], ms3["only_reference"], ms3["only_ours"]) == ("ms3", 1, ["b"], ["c"])
    assert ms3["measures"]["pivot_within_1"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 1}
    assert ms3["samples"]["a"]["pivot_exact"] == [0.0]


def _broken(folder: Path, name: str, text: str) -> Path:
    sounds(folder, "ms3", {"a": {"dog": 1}}, {})
    (folder / "ms3" / name).write_text(text)
    return folder


def _without(folder: Path, name: str) -> Path:
    sounds(folder, "ms3", {"a": {"dog": 1}}, {})
    (folder / "ms3" / name).unlink()
    return folder


def _file(path: Path) -> Path:
    path.write_text("")
    return path


def _empty(path: Path) -> Path:
    path.mkdir()
    return path


def _spoilt(folder: Path, value: Any) -> Path:
    sentence(folder, "v", 0, "a dog", (1, 1))
    (folder / "v" / "stage_2" / "0" / TWO_STAGE).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


# Our folder, made where the test says, and the words of the error. The reference has MS3's clip a, and video v.
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (lambda path: path, "There is no such folder of decisions"),
    "a file": (_file, "There is no such folder of decisions"),
    "an empty folder": (_empty, "no file of decisions in common.*ms3, rvos in .*reference and none in .*ours"),
    "another setting": (
        lambda path: sounds(path, "s4", {"a": {"dog": 1}}, {}), "ms3, rvos in .*reference and s4 in .*ours"
    ),
    "no clip in common": (lambda path: sounds(path, "ms3", {"b": {"dog": 1}}, {}), "no clip of ms3 in common.*Got: b"),
    "no clip at all": (lambda path: sounds(path, "ms3", {}, {}), "no clip of ms3 in common.*Got: none"),
    "no video in common": (lambda path: sentence(path, "w", 0, "a dog", (1, 1)), "no clip of rvos in common"),
    "no sentence in common": (lambda path: sentence(path, "v", 0, "a cat", (1, 1)), "but no segment of a sentence"),
    "no JSON": (lambda path: _broken(path, STAGE_1, "{'a': 1}"), f"{STAGE_1} is not JSON"),
    "a list": (lambda path: _broken(path, STAGE_1, "[]"), "an object of clips"),
    "frames that are none": (lambda path: _broken(path, STAGE_1, '{"a": "{\'dog\': x}"}'), "clip 'a'.*frame numbers"),
    "a clip twice": (lambda path: _broken(path, STAGE_1, '{"a": "{}", "a": "{}"}'), "a name is there twice"),
    "boxes that are none": (lambda path: _broken(path, STAGE_2, '{"a": {"dog": "x"}}'), "the number of a box"),
    "boxes of another category": (lambda path: _broken(path, STAGE_2, '{"a": {"cat": "1"}}'), "of the first stage"),
    "one stage alone": (lambda path: _without(path, STAGE_2), f"{STAGE_2} cannot be read"),
    "the other alone": (lambda path: _without(path, STAGE_1), f"{STAGE_1} cannot be read"),
    "no JSON of a sentence": (lambda path: _spoilt(path, "{"), f"v/stage_2/0/{TWO_STAGE}.* is not JSON"),
    "a sentence without segments": (lambda path: _spoilt(path, {"exp": "a dog"}), f"v/stage_2/0/{TWO_STAGE}: .*schema"),
    "a frame that is no number": (
        lambda path: _spoilt(path, {"exp": "a dog", "res_list": [{"target_frame_id": "1"}]}),
        f"v/stage_2/0/{TWO_STAGE}: .*res_list.0..target_frame_id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_folders_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    reference = sounds(tmp_path / "reference", "ms3", {"a": {"dog": 1}}, {})
    sentence(reference, "v", 0, "a dog", (1, 1))
    ours = make(tmp_path / "ours")
    with pytest.raises(InputError, match=rf"(?s){message}"):
        compare_folders(reference, ours)
    code, printed = agree("--reference", reference, "--ours", ours, "--json", tmp_path / "figures.json")
    assert (code, printed[:7]) == (2, "error: ")
    assert not (tmp_path / "figures.json").exists()


def test_a_setting_that_is_none_or_that_one_side_lacks_is_refused(tmp_path: Path) -> None:
    folder = sounds(tmp_path / "one", "ms3", {"a": {"dog": 1}}, {})
    with pytest.raises(InputError, match=r"no such setting.*v2_binary, rvos.*Got: ms4"):
        compare_folders(folder, folder, "ms4")
    with pytest.raises(InputError, match="no file of decisions in common"):
        compare_folders(folder, folder, "rvos")
    assert agree("--reference", folder, "--ours", folder, "--setting", "s4")[0] == 2

"""Training of the nano MLLM: what it is taught is true, it learns, and its folder says what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the export environment")
pytest.importorskip("tokenizers", reason="training needs the export environment")
safetensors = pytest.importorskip("safetensors.torch", reason="training needs the export environment")

from alref_edge.bundle import shipped  # noqa: E402
from alref_edge.errors import InputError  # noqa: E402
from alref_edge.mllm.questions import Questioner  # noqa: E402
from alref_edge.mllm.templates import Templates  # noqa: E402
from export.nano.mllm import HELD_OUT, MllmTask, exercises  # noqa: E402
from export.nano.mllm_answers import box_exercise, frame_exercise, parse  # noqa: E402
from export.nano.mllm_dense import dense_targets, propose  # noqa: E402
from export.nano.mllm_folder import write_folder  # noqa: E402
from export.nano.mllm_model import Mllm, MllmConfig  # noqa: E402
from export.nano.mllm_scenes import PIXEL_BUDGET, SceneFolder, Truth  # noqa: E402
from export.nano.mllm_tokens import (  # noqa: E402
    AFTER_ANSWER,
    AFTER_IMAGE,
    AFTER_PROMPT,
    BEFORE_IMAGE,
    VOCABULARY,
    decode,
    encode,
    tokenizer,
)
from export.nano.training import Recipe, train  # noqa: E402
from export.torchvision_ops import declare_operators  # noqa: E402

SCENES, FIRST = 6, HELD_OUT + 45
SMALL = {"sight_steps": 10, "images": 2, "questions": 2, "scene_count": 4, "evaluated": 1}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneFolder:
    return SceneFolder(tmp_path_factory.mktemp("scenes"), FIRST, SCENES)


@pytest.fixture(scope="module")
def views(scenes: SceneFolder) -> list[Truth]:
    """Every scene as it is, in a mirror, backwards, and both."""
    return [
        view
        for index in range(SCENES)
        for one in (scenes[index], scenes[index].flipped())
        for view in (one, one.reversed())
    ]


def test_a_kept_scene_is_read_as_it_was_rendered(scenes: SceneFolder) -> None:
    rendered, read = SceneFolder(None, FIRST, SCENES)[2], scenes[2]
    scenes[2]
    for name in ("frames_t", "labels_t", "boxes_tn4", "pixels_tn"):
        np.testing.assert_array_equal(getattr(read, name), getattr(rendered, name))
    for one, other in zip(read.objects, rendered.objects, strict=True):
        assert (one.shape, one.colour, one.size, one.motion) == (other.shape, other.colour, other.size, other.motion)
        np.testing.assert_array_equal(one.centres_t2, other.centres_t2)


def test_boxes_hold_what_the_labels_show_in_every_view(views: list[Truth]) -> None:
    for view in views:
        for frame, number in np.argwhere(view.pixels_tn >= 60):
            y, x = np.nonzero(view.labels_t[frame] == number)
            seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * 2
            assert np.abs(seen - view.boxes_tn4[frame, number]).max() <= 4


def test_sentences_of_every_view_are_true_of_its_pictures(views: list[Truth]) -> None:
    """Measured on the boxes, which know nothing of the words."""
    generator, told = np.random.default_rng(0), {"motion": 0, "relation": 0}
    for view in views:
        middles_tn2 = (view.boxes_tn4[..., :2] + view.boxes_tn4[..., 2:]) / 2
        whole_tn = view.pixels_tn >= 0.9 * view.pixels_tn.max(axis=0)
        for expression in view.sentences(generator):
            parsed = parse(expression.text)
            frames = np.flatnonzero(whole_tn[:, expression.target])
            path = middles_tn2[frames, expression.target]
            if parsed.motion in ("left", "right", "up", "down") and len(frames) > 1:
                axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[parsed.motion]
                assert sign * (path[-1] - path[0])[axis] > 0, expression
                told["motion"] += 1
            if parsed.relation is not None:
                words = set(parsed.reference)
                (other,) = (n for n, o in enumerate(view.objects) if words <= {o.size, o.colour, o.shape})
                both = np.flatnonzero(whole_tn[:, expression.target] & whole_tn[:, other])
                axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[parsed.relation]
                gaps = sign * (middles_tn2[both, expression.target] - middles_tn2[both, other])[:, axis]
                assert np.count_nonzero(gaps < -2) <= 1, expression
                told["relation"] += len(both)
    assert told["motion"] > 20
    assert told["relation"] > 20


def test_a_mirror_swaps_the_sides_and_time_the_directions(scenes: SceneFolder) -> None:
    one = scenes[0]
    other = {"left": "right", "right": "left"}
    assert [each.motion for each in one.flipped().objects] == [other.get(o.motion, o.motion) for o in one.objects]
    other |= {"up": "down", "down": "up"}
    assert [each.motion for each in one.reversed().objects] == [other.get(o.motion, o.motion) for o in one.objects]
    np.testing.assert_array_equal(one.flipped().flipped().boxes_tn4, one.boxes_tn4)
    np.testing.assert_array_equal(one.reversed().frames_t[0], one.frames_t[3])


def test_answers_follow_their_schema_and_name_the_target(views: list[Truth]) -> None:
    generator, questioner, kinds = np.random.default_rng(1), Questioner(Templates.load(), PIXEL_BUDGET), set()
    for view in views:
        proposals = propose(generator, view)
        assert proposals is not None
        count = len(proposals.owners)
        for expression in view.sentences(generator):
            box = box_exercise(generator, view, proposals, expression)
            asked = questioner.pivot_box(b"", 4, proposals.frame + 1, [""] * count, expression.text)
            value = json.loads(box.answer)
            _follows(value, asked.schema)
            choice = asked.parse(value)
            kinds.add((expression.kind, choice > 0))
            if choice == 0:
                assert expression.target not in proposals.owners
            else:
                assert proposals.owners[choice - 1] == expression.target
                match = value["match"].split(", ")
                assert [text.endswith(" yes") for text in match].index(True) + 1 == choice, box.answer
            frame = frame_exercise(view, expression)
            value = json.loads(frame.answer)
            _follows(value, questioner.pivot_frame(b"", 4, expression.text).schema)
            assert (
                view.pixels_tn[value["frame"] - 1, expression.target]
                >= 0.9 * view.pixels_tn[:, expression.target].max()
            )
    assert len(kinds) == 6


def test_prompts_are_few_tokens_and_answers_come_back_exactly(views: list[Truth]) -> None:
    generator = np.random.default_rng(2)
    for view in views:
        for proposals in (propose(generator, view), None):
            for each in exercises(generator, view, proposals, 4):
                assert len(encode(each.prompt)) < 80
                assert len(encode(each.answer)) < 130
                assert decode(encode(each.prompt)) == each.prompt
                assert decode(encode(each.answer)) == each.answer
    strange = 'naïve 42 "quotes"\n\\ 象'
    assert decode(encode(strange)) == strange
    with pytest.raises(ValueError, match="no sentence"):
        parse("what a strange thing to say")


def test_dense_targets_lie_where_objects_and_boxes_are(scenes: SceneFolder) -> None:
    view = scenes[1]
    proposals = propose(np.random.default_rng(3), view)
    assert proposals is not None
    targets = dense_targets(view, proposals)
    rows = np.arange(168) // 6
    assert not targets["present"][rows % 7 == 0].any()
    assert 0.05 < targets["present"].mean() < 0.6
    assert (targets["shape"][targets["present"] == 0] == -100).all()
    assert targets["centre"].sum() == len(proposals.owners)
    assert set(rows[targets["centre"].any(axis=1)] // 7) == {proposals.frame}
    assert targets["mask"].mean() == pytest.approx((view.labels_t >= 0).mean() * 6 / 7)


def test_texts_about_an_image_share_what_they_begin_with(scenes: SceneFolder) -> None:
    """The cache, step by step, gives what one pass over the whole text gives."""
    torch.manual_seed(0)
    model = Mllm(MllmConfig(tokenizer().get_vocab_size())).eval()
    strip = torch.from_numpy(scenes[0].strip()[None].copy())
    first, last = torch.tensor(encode(BEFORE_IMAGE)), torch.tensor(encode(AFTER_IMAGE))
    ids = torch.tensor([encode("the red circle"), encode("the blue heart")])
    with torch.inference_mode():
        cache, start = model.begin(first, last, 6, model.visual(strip))
        cache = [(key.expand(2, -1, -1, -1), value.expand(2, -1, -1, -1)) for key, value in cache]
        before = cache[0][0].shape[2]
        places = start + torch.arange(3).expand(2, -1)
        mask = torch.cat([torch.ones(3, before, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool).tril()], 1)
        whole, _ = model.language_model.go_on(ids, places, mask[None, None], cache)
        for step in range(3):
            row = torch.ones(1, 1, 1, before + step + 1, dtype=torch.bool)
            each, cache = model.language_model.go_on(ids[:, step : step + 1], places[:, step : step + 1], row, cache)
            torch.testing.assert_close(each[:, 0], whole[:, step], rtol=1e-4, atol=1e-5)
    assert start == len(first) + 28 + len(last)


def test_the_forward_pass_is_that_of_transformers(scenes: SceneFolder, tmp_path: Path) -> None:
    """From the folder as it is written: preparation of the image, chat template, tokens, logits."""
    declare_operators()
    from PIL import Image
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    folder, strip, prompt = write_folder(tmp_path / "served", None), scenes[0].strip(), "Which one is the red circle?"
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": Image.fromarray(strip)}, {"type": "text", "text": prompt}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    own = Mllm(MllmConfig(VOCABULARY)).eval()
    own.load_official_weights(safetensors.load_file(folder / "model.safetensors"))
    first, last, ids = (torch.tensor(encode(text)) for text in (BEFORE_IMAGE, AFTER_IMAGE, prompt + AFTER_PROMPT))
    with torch.inference_mode():
        official = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)(**inputs).logits[0]
        cache, start = own.begin(first, last, 6, own.visual(torch.from_numpy(strip[None].copy())))
        count, before = len(ids), cache[0][0].shape[2]
        mask = torch.cat([torch.ones(count, before), torch.ones(count, count).tril()], 1).bool()[None, None]
        hidden, _ = own.language_model.go_on(ids[None], start + torch.arange(count)[None], mask, cache)
        found = own.language_model.scores(hidden[0])
    assert inputs["input_ids"][0, -count:].tolist() == ids.tolist()
    assert inputs["input_ids"].shape[1] == before + count
    torch.testing.assert_close(found, official[-count:], rtol=1e-4, atol=1e-5)


def test_fifty_steps_lower_the_loss_and_the_run_goes_on(tmp_path: Path) -> None:
    recipe = Recipe(steps=50, lr=3e-3, warmup=5)
    scenes = tmp_path / "scenes"
    assert train(MllmTask(scenes=scenes, **SMALL), recipe, tmp_path / "run", until=25, log_every=5) == 25
    again = MllmTask(scenes=scenes, **SMALL)
    assert train(again, recipe, tmp_path / "run", log_every=5, evaluate_every=50) == 50
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if "loss" in line}
    assert sorted(steps) == list(range(5, 51, 5))
    assert steps[10]["dense"] < 0.8 * steps[5]["dense"]
    assert steps[50]["answer"] < 0.6 * steps[15]["answer"]
    reached = next(line["evaluated"] for line in lines if "evaluated" in line)
    assert all(0 <= value <= 1 for value in reached.values())
    assert {"frame", "well_formed"} < set(reached)

    folder = write_folder(tmp_path / "folder", tmp_path / "run" / "mllm.pt")
    official = Mllm(MllmConfig(again.model.mllm.config.vocab_size))
    official.load_official_weights(safetensors.load_file(folder / "model.safetensors"))
    for name, value in again.model.mllm.state_dict().items():
        torch.testing.assert_close(official.state_dict()[name], value.half().float(), rtol=0, atol=0)


def test_an_answer_is_decoded_for_every_prompt(scenes: SceneFolder) -> None:
    task = MllmTask(**SMALL)
    task.model.eval()
    strips = torch.from_numpy(np.stack([scenes[0].strip(), scenes[1].strip()]))
    with torch.inference_mode():
        texts = task.answer(task.model.mllm.visual(strips), [["one"], ["one", "and another"]])
    assert len(texts) == 3
    assert all(AFTER_ANSWER not in text for text in texts)


def test_the_shipped_weights_can_be_written_again_and_trained_on(tmp_path: Path) -> None:
    folder = shipped("nano_mllm")
    again = write_folder(tmp_path / "again", folder)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    task = MllmTask(initial=folder, scene_count=2, evaluated=1)
    written = safetensors.load_file(folder / "model.safetensors")
    for name, value in task.model.mllm.official_weights().items():
        assert torch.equal(value.half(), written[name])


def test_a_folder_of_random_weights_needs_no_training(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "served", None)
    config = json.loads((folder / "config.json").read_text())
    weights = safetensors.load_file(folder / "model.safetensors")
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert config["text_config"]["vocab_size"] == len(weights["model.language_model.embed_tokens.weight"])
    assert config["image_token_id"] == tokenizer().token_to_id("<|image_pad|>")
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"]["longest_edge"] == PIXEL_BUDGET
    assert sum(value.numel() for value in weights.values()) < 1_300_000
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_600_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"no checkpoint", "cannot be read"),
        ({"model": {}}, "another network"),
        ({"weights": {}}, "cannot be read"),
        ({"model": {"mllm.visual.pos_embed.weight": torch.zeros(4, 4)}}, "another network"),
    ],
)
def test_what_is_no_checkpoint_makes_no_folder(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "mllm.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message):
        write_folder(tmp_path / "folder", path)
    assert not (tmp_path / "folder").exists()


def test_the_accelerator_is_refused() -> None:
    with pytest.raises(InputError, match="CPU"):
        MllmTask(device="cuda")


def _follows(value: Any, schema: Any) -> None:
    """What the schemas of questions ask for."""
    if schema["type"] == "object":
        assert list(value) == schema["required"]
        for name, each in schema["properties"].items():
            _follows(value[name], each)
    elif schema["type"] == "array":
        assert schema["minItems"] <= len(value) <= schema["maxItems"]
        for each in value:
            _follows(each, schema["items"])
    elif schema["type"] == "string":
        assert schema["minLength"] <= len(value) <= schema["maxLength"]
    else:
        assert schema["minimum"] <= value <= schema["maximum"]

"""Images and sounds end to end, compared with `watch` on the output of the model's own processor."""

import json
import re
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import normscope
from normscope import Batching, Loading, Report
from normscope.cli.app import app
from normscope.data.media_files import Inputs, read_audio, read_image
from normscope.engine.forward import Forward
from normscope.engine.progress import Progress
from normscope.errors import MediaError, RunError, TextError, UsageError
from normscope.models.modality import kinds_of
from tests.support import media, models

TEXTS = ["the cat sat on the mat", "a dog", "the rain in spain", "it rained"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tiny model, four images of three sizes, and three sounds of two lengths."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("vit", "convnext", "clip", "whisper", "wav2vec2"):
        getattr(media, f"save_{name}")(folder / name)
    for number, size in enumerate([(40, 30), (40, 30), (64, 48), (50, 3)]):
        media.save_image(folder / f"{number}.png", number, size)
    for number, seconds in enumerate([0.1, 0.1, 0.15]):
        media.save_sound(folder / f"{number}.wav", seconds, seed=number)
    return folder


@pytest.fixture(scope="module")
def images(home: Path) -> list[Path]:
    return [home / f"{number}.png" for number in range(4)]


@pytest.fixture(scope="module")
def sounds(home: Path) -> list[Path]:
    return [home / f"{number}.wav" for number in range(3)]


def run(*arguments: Any, input: str | None = None) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], input=input)


def by_hand(model: Any, *batches: Any) -> Report:
    """The report of `watch` for the model on these batches."""
    with normscope.watch(model.eval()) as watcher, torch.no_grad():
        for batch in batches:
            model(**batch)
    return watcher.report()


def pictures(paths: list[Path]) -> list[Any]:
    return [Image.open(path).convert("RGB") for path in paths]


def auto_processor(folder: Path) -> Any:
    maker: Any = transformers.AutoProcessor
    return maker.from_pretrained(folder)


def waveform(path: Path) -> Any:
    """Read 16-bit samples of one channel with the standard library."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def assert_same(got: Report, want: Report, tolerance: float = 0.0) -> None:
    """Compare all numbers of all layers."""
    assert list(got.layers) == list(want.layers)
    for mine, theirs in zip(got.to_dict()["layers"], want.to_dict()["layers"], strict=True):
        wanted = dict(leaves(theirs, theirs["name"]))
        for path, value in leaves(mine, mine["name"]):
            other = wanted[path]
            if path.endswith((".calls", ".own_error")) and tolerance:
                continue  # batched otherwise
            if isinstance(value, float):
                within = max(tolerance, 1e-12)
                assert other == pytest.approx(value, rel=within, abs=within), path
            else:
                assert value == other, path


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from leaves(part, f"{path}.{key}")
    else:
        yield path, value


# Images


def test_images_give_the_numbers_of_watch(home: Path, images: list[Path]) -> None:
    report = normscope.inspect(home / "vit", images=images)
    model = transformers.ViTForImageClassification.from_pretrained(home / "vit")
    processor = transformers.ViTImageProcessorPil.from_pretrained(home / "vit")
    assert_same(report, by_hand(model, processor(images=pictures(images), return_tensors="pt")))
    run = report.run
    assert (run.texts, run.tokens, run.positions, run.batches) == (4, 4 * 17, 17, 1)
    assert (run.order, run.special_tokens, run.max_length, run.medium) == ("given", None, None, "image")
    assert len(report.layers) == 5
    assert all(layer.own_error < 1e-5 for layer in report.layers.values())


def test_the_command_line_gives_the_librarys_report(home: Path, images: list[Path]) -> None:
    options = [part for path in images for part in ("--image", path)]
    result = run(home / "vit", *options, "--json", input="")
    assert (result.exit_code, result.stderr) == (0, "")
    report = normscope.inspect(home / "vit", images=images).to_dict()
    got = json.loads(result.stdout)
    assert got["layers"] == report["layers"]
    assert got["model"]["architecture"] == "ViTForImageClassification"
    table = run(home / "vit", *options, "--details")
    assert "positions" in table.stdout
    assert "4 images" in table.stdout
    assert "text" not in table.stdout


def test_sizes_that_differ_are_run_apart(home: Path, images: list[Path]) -> None:
    processor = transformers.ConvNextImageProcessorPil.from_pretrained(home / "convnext")
    model = transformers.ConvNextModel.from_pretrained(home / "convnext")
    sizes = [images[:2], images[2:3], images[2:3]]
    files = [path for part in sizes for path in part]
    report = normscope.inspect(home / "convnext", images=files, batching=Batching(batch_size=2))
    batches = [processor(images=pictures(part), return_tensors="pt") for part in (sizes[0], sizes[1] * 2)]
    assert_same(report, by_hand(model, *batches))
    assert (report.run.texts, report.run.batches) == (4, 2)
    assert {layer.layout for layer in report.layers.values()} >= {"(B, D, T1, T2)", "(B, T1, T2, D)"}


def test_a_limit_and_progress_count_images(home: Path, images: list[Path]) -> None:
    seen: list[Progress] = []
    batching = Batching(batch_size=2, limit=3)
    report = normscope.inspect(home / "vit", images=images, batching=batching, progress=seen.append)
    assert report.run.texts == 3
    assert [(p.stage, p.texts, p.expected_texts) for p in seen] == [
        ("load", 0, None),
        ("run", 2, 3),
        ("run", 3, 3),
    ]
    assert [p.tokens for p in seen] == [0, 34, 51]


def test_images_take_the_models_dtype(home: Path, images: list[Path]) -> None:
    report = normscope.inspect(home / "vit", images=images, loading=Loading(dtype="bfloat16"))
    assert report.model.dtype == "bfloat16"
    assert all(layer.count for layer in report.layers.values())


def test_a_model_object_comes_with_its_processor(home: Path, images: list[Path]) -> None:
    model = transformers.ViTForImageClassification.from_pretrained(home / "vit")
    with pytest.raises(UsageError, match="processor=") as caught:
        normscope.inspect(model, images=images)
    assert caught.value.exit_code == 2
    processor = transformers.ViTImageProcessorPil.from_pretrained(home / "vit")
    report = normscope.inspect(model, images=images, processor=processor)
    assert_same(report, normscope.inspect(home / "vit", images=images))


def test_the_part_of_a_joint_processor_does_for_one_kind(home: Path, images: list[Path]) -> None:
    joint = auto_processor(home / "clip")
    vision = transformers.CLIPVisionModel.from_pretrained(home / "clip")
    report = normscope.inspect(vision, images=images, processor=joint)
    assert_same(report, by_hand(vision, joint.image_processor(images=pictures(images), return_tensors="pt")))


# Sounds


def test_a_whisper_is_run_whole(home: Path, sounds: list[Path]) -> None:
    report = normscope.inspect(home / "whisper", audio=sounds)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(home / "whisper")
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(home / "whisper")
    batch = extractor([waveform(path) for path in sounds], sampling_rate=media.RATE, return_tensors="pt")
    start = torch.full((3, 1), model.config.decoder_start_token_id)
    assert_same(report, by_hand(model, {**batch, "decoder_input_ids": start}))
    assert all(layer.calls == 1 for layer in report.layers.values())
    assert (report.run.texts, report.run.positions, report.run.medium) == (3, 50, "audio")


def test_sounds_of_other_lengths_are_not_padded(home: Path, sounds: list[Path]) -> None:
    options = [part for path in sounds for part in ("--audio", path)]
    result = run(home / "wav2vec2", *options, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = Report.from_dict(json.loads(result.stdout))
    model = transformers.Wav2Vec2ForCTC.from_pretrained(home / "wav2vec2")
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(home / "wav2vec2")
    waves = [waveform(path) for path in sounds]
    batches = [extractor(part, sampling_rate=16000, return_tensors="pt") for part in (waves[:2], waves[2:])]
    assert "attention_mask" in batches[0]
    assert_same(report, by_hand(model, *batches))
    assert (report.run.texts, report.run.batches) == (3, 2)


def test_a_sound_is_made_one_channel_at_the_models_rate(tmp_path: Path) -> None:
    rate, time = 44100, np.arange(44100) / 44100
    tones = [np.sin(2 * np.pi * hertz * time) for hertz in (200, 900)]
    soundfile.write(tmp_path / "a.wav", 0.5 * np.stack(tones, axis=1), rate, subtype="PCM_16")
    got = read_audio(tmp_path / "a.wav", 16000)
    at = np.arange(16000) / 16000
    want = 0.25 * (np.sin(2 * np.pi * 200 * at) + np.sin(2 * np.pi * 900 * at))
    assert (str(got.dtype), got.shape) == ("float32", (16000,))
    assert np.abs(got - want)[100:-100].max() < 1e-3
    assert read_audio(tmp_path / "a.wav", None).shape == (44100,)


def test_sixteen_bits_are_read_to_the_bit(sounds: list[Path]) -> None:
    assert np.array_equal(read_audio(sounds[0], media.RATE), waveform(sounds[0]))


def test_without_a_resampler_both_rates_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.save_sound(tmp_path / "a.wav", rate=8000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MediaError, match=r"8000 samples a second; expected 16000.*'\.\[audio\]"):
        read_audio(path, 16000)


# Texts beside images


def test_texts_go_with_images(home: Path, images: list[Path]) -> None:
    report = normscope.inspect(home / "clip", TEXTS, images=images)
    model = transformers.CLIPModel.from_pretrained(home / "clip")
    processor = auto_processor(home / "clip")
    padded = processor(text=TEXTS, images=pictures(images), padding=True, return_tensors="pt")
    assert not padded["attention_mask"].all()
    assert_same(report, by_hand(model, padded), tolerance=2e-5)
    assert report.run.texts == 4
    assert report.run.tokens == int(padded["attention_mask"].sum())


def test_texts_go_with_images_on_the_command_line(home: Path, images: list[Path]) -> None:
    result = run(home / "clip", "the cat", "a dog", "--image", images[0], "--image", images[1], "--json")
    assert result.exit_code == 0
    # CLIP normalises its embeddings by a line of its own, for each kind.
    assert [("a norm written out" in line) for line in result.stderr.splitlines()] == [True, True, False]
    report = json.loads(result.stdout)
    assert (report["run"]["texts"], report["run"]["medium"]) == (2, "several")
    want = normscope.inspect(home / "clip", ["the cat", "a dog"], images=images[:2])
    assert report["layers"] == want.to_dict()["layers"]


def test_one_kind_is_too_few_for_a_model_that_needs_two(home: Path, images: list[Path]) -> None:
    with pytest.raises(RunError, match=r"CLIPModel failed on the images.*it takes texts too"):
        normscope.inspect(home / "clip", images=images)
    with pytest.raises(RunError, match=r"CLIPModel failed on the texts.*it takes images too"):
        normscope.inspect(home / "clip", TEXTS)


@pytest.mark.parametrize(
    ("texts", "got"), [(3, "got 4 of images, 3 of texts"), (9, "got 4 of images, more than 4 of texts")]
)
def test_as_many_texts_as_images(home: Path, images: list[Path], texts: int, got: str) -> None:
    with pytest.raises(UsageError, match=f"{got}; expected as many of each"):
        normscope.inspect(home / "clip", iter(["a cat"] * texts), images=images)


def test_a_text_must_be_one(home: Path, images: list[Path]) -> None:
    with pytest.raises(TextError, match="text at index 0 is NoneType"):
        normscope.inspect(home / "clip", [None], images=images[:1])  # type: ignore[list-item]


@pytest.mark.parametrize("option", [{"max_length": 5}, {"special_tokens": "exclude"}])
def test_options_of_texts_are_refused(home: Path, images: list[Path], option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="given with images or sounds"):
        normscope.inspect(home / "clip", TEXTS, images=images, batching=Batching(**option))


# What a model takes


@pytest.mark.parametrize(
    ("model", "arguments", "line"),
    [
        ("vit", ["a text"], "takes no texts; expected images; give --image FILE, once for each file"),
        ("vit", ["b.png", "--image", "0.png"], "takes no texts; .* repeat the option for each file"),
        ("vit", ["--audio", "0.wav"], "takes no sounds; expected images; give --image FILE"),
        ("whisper", ["a text"], "takes no texts; expected sounds; give --audio FILE"),
        ("whisper", ["--image", "0.png"], "takes no images; expected sounds"),
        ("clip", ["a text", "--audio", "0.wav"], "takes no sounds; expected texts and images"),
        ("demo", ["--image", "0.png"], "BertModel takes no images; expected texts; leave them out"),
        ("vit", ["--image", "0.png", "--field", "x"], "field"),
    ],
)
def test_a_call_that_cannot_be_right_is_wrong_usage(
    home: Path, monkeypatch: pytest.MonkeyPatch, model: str, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(home)
    result = run(model, *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert re.search(line, result.stderr)


def test_a_model_object_is_asked_what_it_takes(images: list[Path]) -> None:
    with pytest.raises(UsageError, match="BertForMaskedLM takes no images; expected texts"):
        normscope.inspect(models.bert(), images=images, processor=object())


def test_nothing_to_feed_is_wrong_usage(home: Path) -> None:
    with pytest.raises(UsageError, match="nothing to feed"):
        normscope.inspect(home / "vit")


def test_kinds_are_told_by_the_class() -> None:
    told = {
        transformers.BertModel: ["text"],
        transformers.ViTModel: ["image"],
        transformers.CLIPModel: ["text", "image"],
        transformers.WhisperModel: ["audio"],
        transformers.VisionEncoderDecoderModel: ["image"],
        transformers.Wav2Vec2Model: ["audio"],
        transformers.ClapModel: ["text", "audio"],
        transformers.TimeSeriesTransformerModel: [],
    }
    assert {kind: kinds_of(kind) for kind in told} == told


class ManyKinds(nn.Module):
    """Has one parameter for all kinds of inputs, as Perceiver does."""

    main_input_name = "inputs"
    input_modalities = ("image",)

    def forward(self, inputs: torch.Tensor) -> None:
        self.seen = inputs


def test_a_model_with_one_name_for_all_inputs_is_called_by_it() -> None:
    model, pixels = ManyKinds(), torch.ones(1, 3, 2, 2)
    assert kinds_of(model) == ["text", "image"]
    Forward(model, ("image",))({"pixel_values": pixels})
    assert torch.equal(model.seen, pixels)


# Pixels


def channels(path: Path) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(read_image(path)).reshape(-1, 3).tolist()]


def test_sixteen_bits_a_channel_keep_their_upper_half(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert channels(tmp_path / name) == [(0,) * 3, (0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    red = np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], dtype=np.uint8)
    Image.fromarray(red).save(tmp_path / "a.png")
    assert channels(tmp_path / "a.png") == [(255, 0, 0), (255, 255, 255)]
    Image.fromarray(np.array([[0, 9]], dtype=np.uint8)).convert("P").save(tmp_path / "b.png", transparency=0)
    assert channels(tmp_path / "b.png") == [(255, 255, 255), (9, 9, 9)]


def test_other_colours_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (1, 1), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert channels(tmp_path / "a.tif") == [(255, 0, 0)]
    Image.new("1", (1, 1), 1).save(tmp_path / "b.png")
    assert channels(tmp_path / "b.png") == [(255, 255, 255)]


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "a.png", exif=turned)
    assert read_image(tmp_path / "a.png").size == (1, 2)


# Files that will not do


def spoil(folder: Path) -> None:
    """Write files that are not an image or not a sound, for different reasons."""
    whole = media.save_image(folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image", encoding="utf-8")
    (folder / "empty.png").write_bytes(b"")
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 99)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((2, 2), 1 << 20, dtype=np.int32)).save(folder / "wide.tif")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no sound", encoding="utf-8")
    soundfile.write(folder / "silent.wav", np.zeros(0), 16000)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cut.png", "truncated"),
        ("text.png", "its format is unknown"),
        ("empty.png", "its format is unknown"),
        ("moving.gif", "holds 2 pictures; expected one"),
        ("float.tif", "32 bits a pixel"),
        ("wide.tif", "32 bits a pixel"),
        ("empty.wav", "not recognised"),
        ("text.wav", "not recognised"),
        ("silent.wav", "holds no sound"),
        ("missing.png", "No such file"),
        ("missing.wav", "No such file"),
        (".", "is a directory; expected an image"),
        ("nul\0.png", "null"),
        ("\x1b[31m.png", r"'\\x1b\[31m\.png'.*No such file"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    spoil(tmp_path)
    monkeypatch.chdir(tmp_path)
    model, option = ("wav2vec2", "--audio") if name.endswith(".wav") else ("vit", "--image")
    result = run(home / model, option, name)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert re.search(f"^error: .*{why}", result.stderr)
    assert "\x1b" not in result.stderr


def test_a_decompression_bomb_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.save_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(MediaError, match="exceeds limit of 200 pixels") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("module", "extra"), [("PIL", "image"), ("soundfile", "audio")])
def test_a_reader_that_is_missing_is_named(
    images: list[Path], sounds: list[Path], monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MediaError, match=rf"{module} cannot be imported.*pip install '\.\[{extra}\]'"):
        Inputs(images=images) if extra == "image" else Inputs(audio=sounds)


def test_one_path_is_not_taken_for_many() -> None:
    with pytest.raises(UsageError, match="put it in a list"):
        Inputs(images="a.png")
    with pytest.raises(UsageError, match="audio is generator; expected a list of paths"):
        Inputs(audio=(path for path in "ab"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="named by int; expected a path"):
        Inputs(audio=[3])  # type: ignore[list-item]


def test_a_model_without_its_processor_says_what_is_missing(home: Path, images: list[Path]) -> None:
    (home / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (home / "bare" / name).write_bytes((home / "vit" / name).read_bytes())
    result = run(home / "bare", "--image", images[0])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert re.search("cannot read the processor of .*preprocessor_config.json", result.stderr)


def test_what_a_processor_refuses_is_one_line(home: Path, images: list[Path]) -> None:
    def broken(**_: Any) -> None:
        raise ValueError("no such\nsize")

    model = transformers.ViTForImageClassification.from_pretrained(home / "vit")
    with pytest.raises(
        MediaError, match=r"function failed on .*0\.png' \(no such\); expected images"
    ) as caught:
        normscope.inspect(model, images=images, processor=broken)
    assert "\n" not in str(caught.value)

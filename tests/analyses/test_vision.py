"""Moments of single images against a plain twin, and `why` with a vision model next to a text model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

import normscope
from normscope import Batching, Loading
from normscope.analyses.why import analysis
from normscope.analyses.why.measures import ExpectedNoise
from normscope.analyses.why.vision import ImageMoments, image_moments
from normscope.capture.text_sample import Choice
from normscope.errors import MediaError, RunError, UsageError
from normscope.results.why import WhyReport
from normscope.statistics.jackknife import groups_of, replicates
from normscope.statistics.moments import Moments
from tests.support import media, models
from tests.support.command import ended, error_of

SIZES = [(40, 30), (64, 48), (40, 30), (31, 50), (40, 30)]
TEXTS = ["the cat sat on the mat", "a dog"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two CNNs, a vision Transformer, and five images of three sizes."""
    folder = tmp_path_factory.mktemp("vision")
    for name in ("resnet", "vit", "convnext"):
        getattr(media, f"save_{name}")(folder / name)
    for number, size in enumerate(SIZES):
        media.save_image(folder / f"{number}.png", number, size)
    return folder


@pytest.fixture(scope="module")
def images(home: Path) -> list[Path]:
    return [home / f"{number}.png" for number in range(len(SIZES))]


def loaded(folder: Path) -> tuple[Any, Any]:
    """Return a saved model, in float64, and its processor."""
    auto: Any = transformers
    model = auto.AutoModelForImageClassification.from_pretrained
    if folder.name == "convnext":
        model = auto.ConvNextModel.from_pretrained
    return model(folder).eval().double(), auto.AutoImageProcessor.from_pretrained(folder, backend="pil")


def by_hand(
    model: nn.Module, processor: Any, images: Sequence[Path], names: Sequence[str]
) -> dict[str, Moments]:
    """What enters each layer when every image runs alone: count, mean and M2 of each channel."""
    inputs: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0][0])
        )
        for name, seen in inputs.items()
    ]
    with torch.no_grad():
        for path in images:
            batch = processor(images=[Image.open(path).convert("RGB")], return_tensors="pt")
            model(pixel_values=batch["pixel_values"].double())
    for handle in handles:
        handle.remove()
    return {name: moments_of(model.get_submodule(name), seen) for name, seen in inputs.items()}


def moments_of(layer: nn.Module, inputs: list[Tensor]) -> Moments:
    on_map = isinstance(layer, nn.BatchNorm2d) or getattr(layer, "data_format", "") == "channels_first"
    rows = [
        (x.flatten(1).T if on_map else x.reshape(-1, x.shape[-1])) for x in inputs
    ]  # (V, C) of each image
    count = torch.tensor([[float(len(x))] for x in rows], dtype=torch.float64)
    mean = torch.stack([x.mean(0) for x in rows])
    return Moments(count, mean, torch.stack([(x - x.mean(0)).square().sum(0) for x in rows]))


def assert_alike(found: Moments, want: Moments, rtol: float) -> None:
    assert torch.equal(found.count, want.count)
    scale = want.variance().sqrt().max()
    torch.testing.assert_close(found.mean, want.mean, rtol=rtol, atol=rtol * float(scale))
    torch.testing.assert_close(found.m2, want.m2, rtol=rtol, atol=rtol * float(want.m2.max()))


# Against a plain twin


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", ["resnet", "vit", "convnext"])
def test_moments_are_those_of_each_image_alone(home: Path, images: list[Path], name: str, size: int) -> None:
    model, processor = loaded(home / name)
    found = image_moments(model, images, processor=processor, batching=Batching(size))
    assert list(found.layers) == list(found.report.layers)
    assert len(found.layers) > 3
    want = by_hand(model, processor, images, list(found.layers))
    for layer, moments in found.layers.items():
        assert moments.mean.shape == (len(images), found.report.layers[layer].features)
        assert_alike(moments, want[layer], 1e-9)


def test_channels_of_a_cnn_pool_its_pixels(home: Path, images: list[Path]) -> None:
    """From a folder, in float32."""
    found = image_moments(home / "resnet", images)
    want = by_hand(*loaded(home / "resnet"), images, list(found.layers))
    counts = [int(moments.count[0]) for moments in found.layers.values()]
    assert counts == [16 * 16, *[8 * 8] * 2, *[4 * 4] * 5]
    assert {layer.kind for layer in found.report.layers.values()} == {"batchnorm"}
    assert found.report.run.texts == len(images)
    assert found.notes == ()
    for layer, moments in found.layers.items():
        assert_alike(moments, want[layer], 1e-5)


def test_the_batch_norms_of_a_cnn_are_chosen(images: list[Path]) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.batch, self.group = nn.BatchNorm2d(3), nn.GroupNorm(1, 3)

        def forward(self, pixel_values: Tensor) -> Tensor:
            mixed: Tensor = self.group(self.batch(pixel_values))
            return mixed

    found = image_moments(Mixed(), images, processor=whole)
    assert list(found.layers) == ["batch"]
    assert list(found.report.layers) == ["batch", "group"]
    assert "claims 5 and 6 take the inputs of 1 BatchNorm of Mixed, not of its 1 other norm" in found.notes


def test_a_vision_model_without_batch_norm_is_told(home: Path, images: list[Path]) -> None:
    found = image_moments(home / "vit", images)
    (note,) = (note for note in found.notes if "BatchNorm" in note)
    assert note.endswith(f"has no BatchNorm: claims 5 and 6 take the inputs of its {len(found.layers)} norms")


def test_too_little_memory_for_two_images_is_said_of_images(home: Path, images: list[Path]) -> None:
    with pytest.raises(UsageError, match="for two images; raise it"):
        image_moments(home / "resnet", images, table_memory=9)


def test_images_of_different_sizes_have_counts_of_their_own(home: Path, images: list[Path]) -> None:
    counts = image_moments(home / "convnext", images).layers["embeddings.layernorm"].count.flatten().tolist()
    assert counts == [(width // 4) * (height // 4) for width, height in SIZES]


def test_memory_limits_how_many_images_are_kept(home: Path, images: list[Path]) -> None:
    every = image_moments(home / "vit", images)
    one = sum(8 * (2 * layer.features + 1) for layer in every.report.layers.values())
    some = image_moments(home / "vit", images, table_memory=3 * one, seed=4)
    choice = Choice(3, seed=4)
    choice.offer(range(len(images)))
    for name, moments in some.layers.items():
        assert_alike(moments, every.layers[name].take(torch.tensor(sorted(choice.slots))), 1e-6)
    (note,) = (note for note in some.notes if "images are kept" in note)
    assert note.startswith("the moments of 3 images are kept, not of 5: more would take over the")


def test_a_repeated_image_is_one_image(home: Path, images: list[Path], tmp_path: Path) -> None:
    """By what is in the file, whatever its name."""
    (tmp_path / "again.png").write_bytes(images[0].read_bytes())
    found = image_moments(home / "vit", [*images[:2], tmp_path / "again.png", images[1], images[2]])
    want = image_moments(home / "vit", images[:3])
    for name, moments in found.layers.items():
        assert_alike(moments, want.layers[name], 1e-9)
    assert found.notes[0] == "2 images that repeat an earlier one exactly were left out"
    with pytest.raises(MediaError, match="1 image to compare"):
        image_moments(home / "vit", [images[0]] * 3)


# Layers that cannot have a part


class Flattening(nn.Module):
    """Normalises a map of pixels, and then all pixels of all images as rows of one axis."""

    def __init__(self, *, maps: bool) -> None:
        super().__init__()
        self.map = nn.BatchNorm2d(3) if maps else nn.Identity()
        self.rows = nn.BatchNorm1d(3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        rows: Tensor = self.rows(self.map(pixel_values).movedim(1, -1).reshape(-1, 3))
        return rows


def whole(images: Any, return_tensors: str) -> dict[str, Tensor]:
    """Return images of 4 x 5 pixels."""
    return {"pixel_values": torch.stack([torch.randn(3, 4, 5) for _ in images])}


def crops(images: Any, return_tensors: str) -> dict[str, Tensor]:
    """Return two crops of each image, one after the other."""
    return {"pixel_values": torch.cat([torch.randn(2, 3, 4, 5) for _ in images])}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_of_no_known_image_have_no_part(images: list[Path], size: int) -> None:
    found = image_moments(Flattening(maps=True), images, processor=whole, batching=Batching(size))
    assert list(found.layers) == ["map"]
    assert found.layers["map"].count.flatten().tolist() == [20] * len(images)
    assert any(
        note.startswith("rows: left out, because the image of each row is not known") for note in found.notes
    )
    with pytest.raises(RunError, match="no layer of Flattening shows which image each of its rows is of"):
        image_moments(Flattening(maps=False), images, processor=whole, batching=Batching(size))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_crops_are_not_taken_for_images(images: list[Path], size: int) -> None:
    with pytest.raises(RunError, match="no layer of Flattening shows which image"):
        image_moments(Flattening(maps=True), images, processor=crops, batching=Batching(size))


def test_values_that_are_not_finite_are_told(images: list[Path]) -> None:
    def spoiled(images: Any, return_tensors: str) -> dict[str, Tensor]:
        made = whole(images, return_tensors)["pixel_values"]
        made[0, 0, 0, 0] = torch.nan
        return {"pixel_values": made}

    found = image_moments(Flattening(maps=True), images, processor=spoiled)
    assert found.layers["map"].count.flatten().tolist() == [19] * len(images)
    assert any("with NaN or infinity were left out" in note for note in found.notes)


# Wrong use


def test_one_image_cannot_be_compared(home: Path, images: list[Path]) -> None:
    with pytest.raises(MediaError, match="1 image to compare; expected at least two; give more"):
        image_moments(home / "resnet", images[:1])


def test_a_model_of_texts_takes_no_images(images: list[Path]) -> None:
    with pytest.raises(UsageError, match="takes no images; expected texts"):
        image_moments("demo", images)


def test_a_model_object_needs_its_processor(images: list[Path]) -> None:
    with pytest.raises(UsageError, match="came without a processor"):
        image_moments(Flattening(maps=True), images)


# Next to a text model


MANY = [f"{text} {number}" for number in range(-(-200 // len(TEXTS))) for text in TEXTS][:200]


@pytest.mark.parametrize(
    ("texts", "count", "reason"),
    [(200, 100, None), (200, 99, "it needs 100 images"), (199, 100, "it needs 200 texts: from fewer")],
)
def test_why_needs_enough_texts_and_images(
    home: Path,
    one_block: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    texts: int,
    count: int,
    reason: str | None,
) -> None:
    materials: list[Any] = []
    images = [media.save_image(tmp_path / f"{number}.png", number) for number in range(count)]

    def findings(model: str, material: Any) -> Any:
        materials.append(material)
        return ()

    monkeypatch.setattr(analysis, "findings", findings)
    model, processor = loaded(home / "resnet")
    given = {"beside": model, "images": images, "processor": processor, "layers": ["embeddings*"]}
    normscope.why(one_block, MANY[:texts], **given)
    (material,) = materials
    if reason is not None:
        assert not material.images
        assert material.without["5"] == material.without["6"]
        assert material.without["5"].startswith(reason)
        return
    moments = image_moments(model, images, processor=processor).layers
    assert list(material.images) == list(moments)
    weights = replicates(groups_of(len(images)))
    for name, noise in material.images.items():
        assert torch.equal(noise.samples, ExpectedNoise.of_samples(moments[name], weights).samples)
        assert torch.equal(noise.excess, ExpectedNoise.of_samples(moments[name], weights).excess)


def test_what_is_said_of_the_images_is_in_the_report(one_block: Path, images: list[Path]) -> None:
    report = normscope.why(one_block, TEXTS, beside=Flattening(maps=True), images=images, processor=whole)
    assert any(warning.startswith("rows: left out, because") for warning in report.warnings)


def test_options_that_hold_for_both_models_are_handed_on(
    home: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {}

    def spy(*_: Any, **others: Any) -> ImageMoments:
        options.update(others)
        raise RunError("enough")

    monkeypatch.setattr(analysis, "image_moments", spy)
    of_text = Batching("auto", max_length=8, limit=2)
    loading = Loading(
        "v1", cache_dir="a", local_files_only=True, dtype="float32", device="cpu", attn_implementation="eager"
    )
    model = models.demo()
    for batching in (of_text, Batching(3, order="given")):
        with pytest.raises(RunError, match="enough"):
            normscope.why(
                model[0],
                TEXTS,
                tokenizer=model[1],
                loading=loading,
                batching=batching,
                beside="b",
                images=images,
            )
        assert options["loading"] == Loading(
            cache_dir="a", local_files_only=True, dtype="float32", device="cpu"
        )
        assert options["batching"] == (Batching() if batching is of_text else Batching(3))


def test_the_command_takes_all_files_that_follow(home: Path, one_block: Path, images: list[Path]) -> None:
    given = ["why", one_block, *TEXTS, "--beside", home / "resnet"]
    repeated = [part for path in images for part in ("--image", path)]
    one, other = (ended([*given, *files, "--json"]) for files in (["--image", *images], repeated))
    assert (one.exit_code, one.stderr) == (0, other.stderr)
    reports = [WhyReport.from_dict(json.loads(run.stdout)) for run in (one, other)]
    alike = [replace(report, run=replace(report.run, seconds=0.0)) for report in reports]
    assert alike[0] == alike[1]


def test_only_files_follow_an_image(home: Path, images: list[Path]) -> None:
    """Whatever is no file stays a text, however long; so does a file behind another option."""
    given = ["inspect", home / "vit", "--image", images[0], images[1], "-q", images[2]]
    assert "ViTForImageClassification takes no texts" in error_of(given)
    for text in ("no file", "x" * 5000):
        given = ["inspect", home / "vit", "--image", images[0], images[1], text]
        assert "ViTForImageClassification takes no texts" in error_of(given)
    assert "holds a NUL character" in error_of([*given, "\0"])
    assert ended([*given[:-1], "-q", "--json"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--beside", "resnet"], 2, "a vision model was given without images; expected both"),
        (["--image", "0.png"], 2, "images were given without a vision model; expected both"),
        (["--beside", "resnet", "--image", "0.png"], 1, "1 image to compare; expected at least two"),
        (["--beside", "resnet", "--image", "0.png", "--image", "no.png"], 1, "cannot read 'no.png'"),
        (["--beside", "resnet", "--image", "0.png", "bad.png"], 1, "cannot read 'bad.png': its format"),
        (["--beside", "demo", "--image", "0.png", "1.png"], 2, "takes no images; expected texts"),
        (["--beside", "none/such/x", "--image", "0.png", "1.png"], 1, "there is no folder 'none/such/x'"),
        (["--beside", "resnet", "--image", "0.png", "1.png", "-o", "1.png"], 2, "which is read for --image"),
    ],
)
def test_wrong_use_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(home)
    Path("bad.png").write_text("no image", encoding="utf-8")
    result = ended(["why", "demo", *TEXTS, *options])
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr

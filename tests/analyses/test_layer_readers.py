"""Readers of norms: found without weights, equal to those of a real run, and able to take a scale."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from typer.testing import CliRunner

from normscope.analyses.layer_readers import find_readers
from normscope.analyses.layers import list_layers
from normscope.cli.app import app
from normscope.engine.forward import Forward, tensors_in
from normscope.errors import ModelError
from normscope.norms.detection import find
from normscope.norms.readers import Readers
from normscope.render.layers import render_outline, render_outline_markdown
from normscope.results.layers import LayerReaders, Outline
from tests.support import models

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}
QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_key_value_heads": 2}

# Of one block, or of the model: the layer, its Linears, what else reads it, and its obstacle.
Expected = dict[str, tuple[list[str], list[str], str | None]]
MODELS: dict[str, tuple[Any, str, Expected]] = {
    "gpt2": (
        transformers.GPT2Config(**GPT2),
        "GPT2LMHeadModel",
        {
            "transformer.h.1.ln_1": (["transformer.h.1.attn.c_attn"], [], None),
            "transformer.h.1.ln_2": (["transformer.h.1.mlp.c_fc"], [], None),
            "transformer.ln_f": (
                ["lm_head"],
                [],
                "lm_head.weight is tied to transformer.wte.weight: untie them first",
            ),
        },
    ),
    "llama": (
        transformers.LlamaConfig(**SIZES),
        "LlamaForCausalLM",
        {
            "model.layers.1.input_layernorm": ([f"model.layers.1.{name}" for name in QKV], [], None),
            "model.layers.1.post_attention_layernorm": (
                ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"],
                [],
                None,
            ),
            "model.norm": (["lm_head"], [], None),
        },
    ),
    "gemma3": (
        transformers.Gemma3TextConfig(**SIZES, head_dim=8, num_key_value_heads=2),
        "Gemma3ForCausalLM",
        {
            "model.layers.0.input_layernorm": ([f"model.layers.0.{name}" for name in QKV], [], None),
            "model.layers.0.post_attention_layernorm": (
                [],
                ["the addition in model.layers.0"],
                "read by the addition in model.layers.0",
            ),
            "model.layers.0.self_attn.q_norm": (
                [],
                ["the multiplication, neg, the concatenation in model.layers.0.self_attn"],
                "read by the multiplication in model.layers.0.self_attn",
            ),
        },
    ),
    "t5": (
        transformers.T5Config(d_model=32, d_kv=8, num_layers=2, num_heads=4, vocab_size=100),
        "T5ForConditionalGeneration",
        {
            "encoder.block.0.layer.1.layer_norm": (["encoder.block.0.layer.1.DenseReluDense.wi"], [], None),
            "decoder.block.1.layer.1.layer_norm": (["decoder.block.1.layer.1.EncDecAttention.q"], [], None),
            "encoder.final_layer_norm": (
                [f"decoder.block.{i}.layer.1.EncDecAttention.{name}" for i in (0, 1) for name in "kv"],
                ["the caller of the model"],
                "the model returns it",
            ),
        },
    ),
    "phi has parallel blocks": (
        transformers.PhiConfig(**SIZES),
        "PhiForCausalLM",
        {
            "model.layers.0.input_layernorm": (
                [f"model.layers.0.{name}" for name in [*QKV, "mlp.fc1"]],
                [],
                None,
            )
        },
    ),
    "neox has parallel blocks of two norms": (
        transformers.GPTNeoXConfig(**SIZES),
        "GPTNeoXForCausalLM",
        {
            f"gpt_neox.layers.0.{norm}": ([f"gpt_neox.layers.0.{linear}"], [], None)
            for norm, linear in (
                ("input_layernorm", "attention.query_key_value"),
                ("post_attention_layernorm", "mlp.dense_h_to_4h"),
            )
        },
    ),
    "mixtral": (
        transformers.MixtralConfig(**SIZES, **EXPERTS),
        "MixtralForCausalLM",
        {
            "model.layers.0.post_attention_layernorm": (
                ["model.layers.0.mlp.gate"],
                ["index in model.layers.0.mlp.experts"],
                "read by a product without a bias of its own in model.layers.0.mlp.gate",
            )
        },
    ),
    "vit": (
        transformers.ViTConfig(**{**SIZES, "image_size": 32, "patch_size": 8}),
        "ViTForImageClassification",
        {
            "vit.layers.0.layernorm_after": (["vit.layers.0.mlp.fc1"], [], None),
            "vit.layernorm": (["classifier"], [], None),
        },
    ),
}


def folder_of(name: str, where: Path) -> Path:
    """Write the configuration of one of MODELS and nothing else."""
    config, architecture, _ = MODELS[name]
    members = {**config.to_dict(), "architectures": [architecture]}
    (where / "config.json").write_text(json.dumps(members), encoding="utf-8")
    return where


def real(name: str) -> tuple[Any, dict[str, Tensor]]:
    """Return the model with random weights, and an input of real values."""
    config, architecture, _ = MODELS[name]
    torch.manual_seed(0)
    model = models.spread_norms(getattr(transformers, architecture)(config))
    if name == "vit":
        return model, {"pixel_values": torch.randn(2, 3, 32, 32)}
    ids = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def readers_of(outline: Outline) -> dict[str, LayerReaders]:
    return {layer.name: layer.readers for layer in outline.layers if layer.readers is not None}


@pytest.mark.parametrize("name", MODELS)
def test_readers_of_an_architecture_from_its_configuration_alone(name: str, tmp_path: Path) -> None:
    found = readers_of(list_layers(folder_of(name, tmp_path), readers=True))
    for layer, (linears, others, obstacle) in MODELS[name][2].items():
        assert found[layer] == LayerReaders(tuple(linears), tuple(others), obstacle)


@pytest.mark.parametrize("name", MODELS)
def test_a_real_run_has_the_same_readers(name: str, tmp_path: Path) -> None:
    found = readers_of(list_layers(folder_of(name, tmp_path), readers=True))
    model, inputs = real(name)
    norms = find(model)
    readers = Readers(model, norms)
    with torch.no_grad(), readers.watching():
        returned = Forward(model, ["image" if name == "vit" else "text"])(inputs)
    readers.returns(tensors_in(returned))
    for norm in norms:
        linears = [reader.name for reader in readers.linears(norm.name)]
        assert (norm.name, linears) == (norm.name, list(found[norm.name].linears))
        assert readers.others(norm.name) == list(found[norm.name].others)


@pytest.mark.parametrize("name", MODELS)
def test_linears_are_those_that_a_hook_sees_reading_the_output(name: str, tmp_path: Path) -> None:
    """Compare with pre-hooks: a Linear reads a norm if its input has the values of the norm's output."""
    found = readers_of(list_layers(folder_of(name, tmp_path), readers=True))
    model, inputs = real(name)
    outputs: dict[str, Tensor] = {}
    seen: dict[str, list[str]] = {layer: [] for layer in found}

    def record(layer: str) -> Any:
        return lambda _module, _inputs, output: outputs.update({layer: output})

    def compare(linear: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1])
            for layer, output in outputs.items():
                values = output.reshape(-1, output.shape[-1])
                if values.shape[-1] == rows.shape[-1] and torch.isin(rows, values).all():
                    seen[layer].append(linear)

        return hook

    for path, module in model.named_modules():
        if path in found:
            module.register_forward_hook(record(path))
        if isinstance(module, nn.Linear | Conv1D):
            module.register_forward_pre_hook(compare(path))
    with torch.no_grad():
        Forward(model, ["image" if name == "vit" else "text"])(inputs)
    routers = {linear for layer in found.values() for linear in layer.linears if linear.endswith("mlp.gate")}
    for layer, readers in found.items():
        assert seen[layer] == [linear for linear in readers.linears if linear not in routers], layer


@pytest.mark.parametrize("name", MODELS)
def test_a_scale_moves_along_the_mappings_and_the_outputs_stay(name: str, tmp_path: Path) -> None:
    outline = list_layers(folder_of(name, tmp_path), readers=True)
    affine = {layer.name: layer.affine for layer in outline.layers}
    model, inputs = real(name)
    modules = dict(model.named_modules())
    forward = Forward(model, ["image" if name == "vit" else "text"], logits=True)
    mappings = outline.mappings()
    assert mappings
    with torch.no_grad():
        before = forward(inputs).logits
        for mapping in mappings:
            norm, scale = modules[mapping["smooth_layer"]], torch.rand(32) + 0.5
            norm.weight.add_(1).mul_(scale).sub_(1) if "1+" in affine[mapping["smooth_layer"]] else (
                norm.weight.mul_(scale)
            )
            if getattr(norm, "bias", None) is not None:
                norm.bias.mul_(scale)
            assert not torch.allclose(forward(inputs).logits, before, rtol=1e-4, atol=1e-5)
            for path in mapping["balance_layers"]:
                rows = modules[path].weight if isinstance(modules[path], Conv1D) else modules[path].weight.mT
                rows.div_(scale[:, None])
        torch.testing.assert_close(forward(inputs).logits, before, rtol=1e-4, atol=1e-5)


def test_demo_is_read_by_linears_additions_and_its_caller() -> None:
    outline = list_layers("demo", readers=True)
    found = readers_of(outline)
    assert found["encoder.layer.0.output.LayerNorm"] == LayerReaders(
        tuple(f"encoder.layer.1.attention.self.{name}" for name in ("query", "key", "value")),
        ("the addition in encoder.layer.1.attention.output",),
        "read by the addition in encoder.layer.1.attention.output",
    )
    assert found["encoder.layer.5.output.LayerNorm"].others == ("the caller of the model",)
    assert found["encoder.layer.5.output.LayerNorm"].linears == ("pooler.dense",)
    assert outline.mappings() == []


def test_a_tower_that_did_not_run_is_said() -> None:
    with torch.device("meta"):
        network = nn.ModuleDict({"used": nn.LayerNorm(4), "idle": nn.LayerNorm(4), "f": nn.Linear(4, 4)})
        network["embedding"] = nn.Embedding(10, 4)

    def forward(input_ids: Tensor) -> Any:
        y = network["f"](network["used"](network["embedding"](input_ids)))
        return y if y.mean() > 0 and len(y.nonzero()) else -y

    network.forward = forward
    found = find_readers(network, find(network), "m")
    assert found["used"] == LayerReaders(("f",), (), None)
    assert found["idle"] == LayerReaders((), (), "it was never called")


def test_a_forward_that_needs_values_is_refused_in_one_line() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.LayerNorm(4))
    for forward in (lambda input_ids: input_ids.numpy(), lambda waves: waves):
        network.forward = forward  # type: ignore[method-assign]
        with pytest.raises(ModelError, match=r"the readers of the layers of 'm\\n'") as caught:
            find_readers(network, find(network), "m\n")
        assert str(caught.value).isprintable()
        assert str(caught.value).count(";") >= 2


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["layers", *arguments])


def test_the_command_shows_readers_in_every_format(tmp_path: Path) -> None:
    folder = str(folder_of("gpt2", tmp_path))
    outline = list_layers(folder, readers=True)
    assert run(folder, "--readers").stdout == render_outline(outline)
    assert run(folder, "--readers", "--format", "markdown").stdout == render_outline_markdown(outline)
    data = json.loads(run(folder, "--readers", "--json").stdout)
    assert data["layers"][0]["readers"] == {
        "linears": ["transformer.h.0.attn.c_attn"],
        "others": [],
        "obstacle": None,
    }
    assert Outline.from_dict(data) == outline
    assert [layer["readers"] for layer in json.loads(run(folder, "--json").stdout)["layers"]] == [None] * 5


def test_the_tables_name_linears_and_obstacles(tmp_path: Path) -> None:
    text = render_outline(list_layers(folder_of("gpt2", tmp_path), readers=True))
    assert "transformer.h.0.ln_1  pre-norm  attn.c_attn" in text
    assert "1 of 5 layers whose scale cannot move into their readers" in text
    assert "transformer.ln_f  lm_head.weight is tied to transformer.wte.weight" in text
    assert "read by" not in render_outline(list_layers(tmp_path))


def test_the_command_writes_mappings(tmp_path: Path) -> None:
    folder, path = str(folder_of("gpt2", tmp_path)), tmp_path / "mappings.json"
    done = run(folder, "--format", "mappings", "--layer", "*.0.*", "-o", str(path))
    assert (done.exit_code, done.output) == (0, "")
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"smooth_layer": "transformer.h.0.ln_1", "balance_layers": ["transformer.h.0.attn.c_attn"]},
        {"smooth_layer": "transformer.h.0.ln_2", "balance_layers": ["transformer.h.0.mlp.c_fc"]},
    ]
    done = run(folder, "--format", "mappings")
    assert len(json.loads(done.stdout)) == 4
    assert done.stderr == "1 of 5 layers left out; --readers says why\n"
    assert run(folder, "--format", "mappings", "-q").stderr == ""
    assert run(folder, "--format", "mappings", "--json").exit_code == 2

"""`layers`: the outline of a model from its configuration alone equals the layers that a run finds."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from typer.testing import CliRunner

import normscope
from normscope.analyses.layers import list_layers
from normscope.cli.app import app
from normscope.errors import ModelError, ReportError, UsageError
from normscope.models.location import Loading
from normscope.norms.placement import head_sizes
from normscope.norms.residual_flow import side_of
from normscope.render.layers import render_outline, render_outline_markdown
from normscope.render.terminal import Screen
from normscope.results.layers import Outline, OutlinedLayer, OutlinedModel
from tests.support.hub import COMMIT, fill_cache, save_bert, save_gpt2, save_llama
from tests.test_readme import PAGES, commands, shell

PLACES = {"embeddings", "pre-norm", "post-norm", "final", "per-head", "head", "other"}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
HEADS: dict[str, Any] = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
HUGE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def folder_of(config: Any, where: Path, head: str | None = None) -> Path:
    """Write config.json and nothing else."""
    where.mkdir(exist_ok=True)
    members = {**config.to_dict(), **({"architectures": [head]} if head else {})}
    (where / "config.json").write_text(json.dumps(members), encoding="utf-8")
    return where


def places(outline: Outline) -> dict[str, str]:
    """Return the place of each layer without the number of its block; blocks must agree."""
    pairs = {(re.sub(r"\d+", "N", layer.name), layer.place) for layer in outline.layers}
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found


# Architectures


def test_demo() -> None:
    outline = list_layers("demo")
    assert len(outline.layers) == 13
    assert places(outline) == {
        "embeddings.LayerNorm": "embeddings",
        "encoder.layer.N.attention.output.LayerNorm": "post-norm",
        "encoder.layer.N.output.LayerNorm": "post-norm",
    }
    first = outline.layers[0]
    assert (first.kind, first.features, first.eps, first.affine) == ("layernorm", 384, 1e-12, "weight+bias")
    assert (first.index, first.module, first.parameters) == (0, "LayerNorm", 768)
    assert (outline.model.id, outline.model.architecture) == ("demo", "BertModel")
    assert outline.model.parameters == 22_713_216


LLAMA = {
    "model.layers.N.input_layernorm": "pre-norm",
    "model.layers.N.post_attention_layernorm": "pre-norm",
    "model.norm": "final",
}
ARCHITECTURES: dict[str, tuple[Any, str | None, dict[str, str], set[tuple[str, str]]]] = {
    "gpt2": (
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4),
        "GPT2LMHeadModel",
        {"transformer.h.N.ln_N": "pre-norm", "transformer.ln_f": "final"},
        {("layernorm", "weight+bias")},
    ),
    "llama": (transformers.LlamaConfig(**SIZES), "LlamaForCausalLM", LLAMA, {("rmsnorm", "weight")}),
    "gemma3": (
        transformers.Gemma3TextConfig(**SIZES, head_dim=8),
        "Gemma3ForCausalLM",
        {
            "model.layers.N.self_attn.q_norm": "per-head",
            "model.layers.N.self_attn.k_norm": "per-head",
            "model.layers.N.input_layernorm": "pre-norm",
            "model.layers.N.post_attention_layernorm": "post-norm",
            "model.layers.N.pre_feedforward_layernorm": "pre-norm",
            "model.layers.N.post_feedforward_layernorm": "post-norm",
            "model.norm": "final",
        },
        {("rmsnorm", "1+weight")},
    ),
    "bert": (
        transformers.BertConfig(**SIZES),
        "BertForMaskedLM",
        {
            "bert.embeddings.LayerNorm": "embeddings",
            "bert.encoder.layer.N.attention.output.LayerNorm": "post-norm",
            "bert.encoder.layer.N.output.LayerNorm": "post-norm",
            "cls.predictions.transform.LayerNorm": "head",
        },
        {("layernorm", "weight+bias")},
    ),
    "t5": (
        transformers.T5Config(d_model=32, d_kv=8, num_layers=2, num_heads=4),
        "T5ForConditionalGeneration",
        {
            "encoder.block.N.layer.N.layer_norm": "pre-norm",
            "encoder.final_layer_norm": "final",
            "decoder.block.N.layer.N.layer_norm": "pre-norm",
            "decoder.final_layer_norm": "final",
        },
        {("rmsnorm", "weight")},
    ),
    "vit": (
        transformers.ViTConfig(**SIZES),
        None,
        {
            "layers.N.layernorm_before": "pre-norm",
            "layers.N.layernorm_after": "pre-norm",
            "layernorm": "final",
        },
        {("layernorm", "weight+bias")},
    ),
    "bart registers its embedding norm last": (
        transformers.BartConfig(d_model=32, encoder_layers=2, decoder_layers=2),
        None,
        {
            "encoder.layernorm_embedding": "embeddings",
            "encoder.layers.N.self_attn_layer_norm": "post-norm",
            "encoder.layers.N.final_layer_norm": "post-norm",
            "decoder.layernorm_embedding": "embeddings",
            "decoder.layers.N.self_attn_layer_norm": "post-norm",
            "decoder.layers.N.encoder_attn_layer_norm": "post-norm",
            "decoder.layers.N.final_layer_norm": "post-norm",
        },
        {("layernorm", "weight+bias")},
    ),
    "opt has a flag": (
        transformers.OPTConfig(**HEADS, word_embed_proj_dim=32, do_layer_norm_before=False),
        None,
        {
            "decoder.layers.N.self_attn_layer_norm": "post-norm",
            "decoder.layers.N.final_layer_norm": "post-norm",
        },
        {("layernorm", "weight+bias")},
    ),
    "olmo hides its eps": (
        transformers.OlmoConfig(**SIZES),
        None,
        {
            "layers.N.input_layernorm": "pre-norm",
            "layers.N.post_attention_layernorm": "pre-norm",
            "norm": "final",
        },
        {("layernorm", "none")},
    ),
    "whisper": (
        transformers.WhisperConfig(d_model=36, encoder_layers=2, decoder_layers=2),
        None,
        {
            "encoder.layers.N.self_attn_layer_norm": "pre-norm",
            "encoder.layers.N.final_layer_norm": "pre-norm",
            "encoder.layer_norm": "final",
            "decoder.layers.N.self_attn_layer_norm": "pre-norm",
            "decoder.layers.N.encoder_attn_layer_norm": "pre-norm",
            "decoder.layers.N.final_layer_norm": "pre-norm",
            "decoder.layer_norm": "final",
        },
        {("layernorm", "weight+bias")},
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_from_its_configuration_alone(name: str, tmp_path: Path) -> None:
    config, head, expected, kinds = ARCHITECTURES[name]
    outline = list_layers(folder_of(config, tmp_path / "model", head))
    assert places(outline) == expected
    assert {(layer.kind, layer.affine) for layer in outline.layers} == kinds
    assert set(expected.values()) <= PLACES
    if name.startswith("olmo"):
        assert {layer.eps for layer in outline.layers} == {1e-5}
    assert outline.model.architecture == head or head is None


def test_unknown_features_are_none(tmp_path: Path) -> None:
    config = transformers.Llama4TextConfig(**SIZES, head_dim=8, num_local_experts=2, intermediate_size_mlp=48)
    outline = list_layers(folder_of(config, tmp_path / "model"))
    bare = [layer for layer in outline.layers if layer.name.endswith("qk_norm")]
    assert {(layer.features, layer.kind, layer.place) for layer in bare} == {(None, "rmsnorm", "per-head")}
    assert Outline.from_dict(json.loads(outline.to_json())) == outline
    assert re.search(r"qk_norm .* - ", render_outline(outline))


@pytest.mark.parametrize("save", [save_bert, save_gpt2, save_llama])
def test_it_is_what_inspect_finds(save: Any, tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    measured = normscope.inspect(folder, ["the cat sat on the mat", "a dog"])
    outline = normscope.list_layers(folder)
    members = ("name", "index", "module", "kind", "features", "eps", "affine")
    assert [[getattr(layer, member) for member in members] for layer in outline.layers] == [
        [getattr(layer, member) for member in members] for layer in measured.layers.values()
    ]
    assert outline.model.parameters == measured.model.parameters
    assert outline.model.architecture == measured.model.architecture


def test_a_cached_model_says_its_commit(tmp_path: Path) -> None:
    folder = folder_of(transformers.LlamaConfig(**SIZES), tmp_path / "model", "LlamaForCausalLM")
    fill_cache(tmp_path / "cache", "some/model", folder)
    outline = list_layers("some/model", Loading(cache_dir=str(tmp_path / "cache"), local_files_only=True))
    assert (outline.model.id, outline.model.commit) == ("some/model", COMMIT)
    assert places(outline) == LLAMA


def test_nothing_random_is_drawn_from_the_callers_dice(tmp_path: Path) -> None:
    folder = folder_of(transformers.LlamaConfig(**SIZES), tmp_path / "model")
    before = torch.get_rng_state()
    list_layers(folder)
    assert torch.equal(before, torch.get_rng_state())


# Places that the code shows


class Block(nn.Module):
    """Each method applies a norm in one way."""

    before: Any
    after: Any
    inner: Any
    none: Any
    flagged: Any
    apart: Any
    inside: Any
    dense: Any

    def __init__(self, flag: bool = False) -> None:
        super().__init__()
        for name in ("before", "after", "inner", "none", "flagged", "apart", "inside"):
            setattr(self, name, nn.LayerNorm(4))
        self.f, self.dropout, self.flag = nn.Linear(4, 4), nn.Dropout(), flag

    def forward(self, x: Any) -> Any:
        y = self.dropout(self.f(self.before(x)))
        x = x + y * 0.5
        residual, z = x, self.f(x)
        x = self.after((residual + z).view(x.shape))
        x += self.dropout(self.inner(self.f(x)))
        return self.none(self.f(x))

    def other(self, x: Any) -> Any:
        residual = x
        if not self.flag:
            x = self.flagged(x)
        x = residual + self.f(x).to(x.dtype)
        if self.flag:
            x = self.flagged(x)
        return x

    def parallel(self, x: Any) -> Any:
        y = self.apart(x)
        return self.f(y)[0] + (self.f(y) + x * 2.0)

    def handed(self, x: Any) -> Any:
        return self.dense(self.f(self.inside(x)), x)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("before", "pre-norm"),
        ("after", "post-norm"),
        ("inner", "post-norm"),
        ("none", ""),
        ("apart", "pre-norm"),
        ("inside", "pre-norm"),
        ("no such name", ""),
    ],
)
def test_the_side_of_the_residual_is_read_off_the_code(name: str, side: str) -> None:
    assert side_of(Block(), name) == side


def test_flags_decide() -> None:
    assert side_of(Block(False), "flagged") == "pre-norm"
    assert side_of(Block(True), "flagged") == "post-norm"


def test_code_without_source_tells_nothing() -> None:
    names: dict[str, Any] = {"nn": nn}
    exec("class A(nn.Module):\n  def forward(self, x):\n    return x + self.f(self.norm(x))\n", names)
    assert side_of(names["A"](), "norm") == ""
    assert side_of(nn.Sequential(nn.LayerNorm(3)), "0") == ""


def test_head_sizes_of_nested_configurations() -> None:
    assert head_sizes(transformers.T5Config(d_model=64, d_kv=7, num_heads=2)) == {7, 32}
    assert {16, 24} <= head_sizes(
        transformers.CLIPConfig(
            text_config={"hidden_size": 64, "num_attention_heads": 4},
            vision_config={"hidden_size": 48, "num_attention_heads": 2},
        )
    )
    assert head_sizes(None) == set()


# Choosing, refusing, writing


def test_globs_choose_and_the_index_counts_all(tmp_path: Path) -> None:
    folder = folder_of(transformers.BertConfig(**SIZES), tmp_path / "model")
    outline = list_layers(folder, layers=["*.1.*"], exclude=["*attention*"])
    assert [(layer.name, layer.index) for layer in outline.layers] == [
        ("encoder.layer.1.output.LayerNorm", 4)
    ]
    with pytest.raises(UsageError, match=r"'nope'.*'embeddings\.LayerNorm'"):
        list_layers(folder, layers=["nope"])


@pytest.mark.parametrize("hostile", ["../..", "a\x1b[31mb", "no/such/place", "", "x" * 300, "\x00", "-"])
def test_hostile_ids_are_one_line(hostile: str) -> None:
    with pytest.raises(ModelError) as caught:
        list_layers(hostile, Loading(local_files_only=True))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "hidden_size": -4},
        {"model_type": "llama", "hidden_size": "wide"},
        {"model_type": "no such type"},
        {"model_type": "bert", "hidden_size": 7, "num_attention_heads": 2},
        [],
    ],
)
def test_configurations_that_lie_are_one_line(config: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        list_layers(tmp_path)
    assert str(caught.value).isprintable()
    assert str(caught.value).count(";") >= 2


def test_code_of_the_repository_is_not_run_unasked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "own",
                "architectures": ["Own"],
                "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"},
            }
        )
    )
    (tmp_path / "own.py").write_text(
        "from torch import nn\nfrom transformers import PreTrainedConfig, PreTrainedModel\n"
        "class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n"
        "class Own(PreTrainedModel):\n    config_class = OwnConfig\n"
        "    def __init__(self, config):\n        super().__init__(config)\n"
        "        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))])\n"
        "        self.norm = nn.RMSNorm(4)\n        self.post_init()\n"
        "    def forward(self, x):\n        for b in self.blocks:\n            x = b(x)\n"
        "        return self.norm(x)\n"
    )
    with pytest.raises(ModelError, match="--trust-remote-code"):
        list_layers(tmp_path)
    trusted = list_layers(tmp_path, Loading(trust_remote_code=True))
    assert [(x.name, x.kind, x.place) for x in trusted.layers] == [
        ("blocks.0.1", "layernorm", "other"),
        ("norm", "rmsnorm", "final"),
    ]


def sample(name: str = "a.norm", **changes: Any) -> Outline:
    layers = [OutlinedLayer(name, 0, "RMSNorm", "rmsnorm", 8, 1e-6, "weight", 8, "final")]
    if changes:
        layers.append(OutlinedLayer(**{**vars(layers[0]), "name": "b", **changes}))
    return Outline("0", OutlinedModel("m", "r", None, "Model", 2_500_000_000), tuple(layers))


def test_json_round_trip(tmp_path: Path) -> None:
    outline = sample(eps=float("nan"), features=None)
    text = outline.to_json(tmp_path / "layers.json")
    assert (tmp_path / "layers.json").read_text(encoding="utf-8") == text
    data = json.loads(text)
    assert data["schema"] == "normscope.layers/1"
    assert data["layers"][1] == {
        "name": "b", "index": 0, "module": "RMSNorm", "kind": "rmsnorm", "features": None, "eps": None,
        "affine": "weight", "parameters": 8, "place": "final", "readers": None,
    }  # fmt: skip
    assert data["model"] == {
        "id": "m", "revision": "r", "commit": None, "architecture": "Model", "parameters": 2_500_000_000,
    }  # fmt: skip
    assert Outline.from_dict(data) == outline
    assert repr(outline) == "<Outline of m: 2 layers>"
    refused: list[Any] = [[], {}, {**data, "schema": "x"}, {**data, "layers": [{}]}]
    for bad in refused:
        with pytest.raises(ReportError):
            Outline.from_dict(bad)


def test_what_all_layers_share_stands_above() -> None:
    alike, differ = (
        render_outline(sample(index=1)),
        render_outline(sample(index=1, eps=1e-5, kind="layernorm")),
    )
    assert alike.startswith(
        "m · Model · 2.50B parameters · revision r\neach: rmsnorm · 8 features · eps 1e-6"
    )
    assert "each: 8 features · affine weight" in differ
    assert "kind" in differ
    assert "eps" in differ
    assert "#" in render_outline(sample(index=1), verbose=True)
    assert render_outline(Outline("0", sample().model, ())).startswith("m · Model")


def test_a_deep_model_lists_a_few_layers_of_each_group(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": 9})
    folder = str(folder_of(config, tmp_path / "model", "LlamaForCausalLM"))
    options: list[list[str]] = [[], ["--layers", "all"], ["--layer", "*"]]
    few, everything, named = (run(folder, "-q", *each).stdout for each in options)
    listed = re.findall(r"^(\S*norm) ", few, re.MULTILINE)
    assert [name.split(".")[-1] for name in listed] == [
        *["input_layernorm"] * 2,
        *["post_attention_layernorm"] * 2,
        "norm",
    ]
    assert "19 normalization layers" in few
    assert "14 more: 7 " in few
    assert everything == named
    assert len(re.findall(r"^(\S*norm) ", everything, re.MULTILINE)) == 19
    assert len(json.loads(run(folder, "-q", "--json").stdout)["layers"]) == 19
    outline = Outline.from_dict(json.loads(run(folder, "-q", "--json").stdout))
    assert render_outline_markdown(outline).count("\n| model.") == 19


def test_a_layer_whose_width_is_new_has_a_row() -> None:
    (layer,) = sample().layers
    widths = [8] * 7 + [16] * 7
    layers = [replace(layer, name=f"blocks.{i}.norm", index=i, features=n) for i, n in enumerate(widths)]
    text = render_outline(Outline("0", sample().model, tuple(layers)))
    assert re.findall(r"blocks\.(\d+)\.norm", text) == ["0", "7", "13"]
    assert "11 more: 11 blocks.*.norm; --layers all" in text


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_hostile_names_are_shown_not_obeyed(width: int) -> None:
    outline = sample("[red]\x1b[31m\u202e\n|" + "x" * 90, module="`M`\x07", affine="\n")
    screen = Screen(width, unicode=width > 60)
    for text in (
        render_outline(outline, screen=screen),
        render_outline(outline, verbose=True, screen=screen),
        render_outline_markdown(outline),
    ):
        assert all(c == "\n" or c.isprintable() for c in text)
    assert max(map(len, render_outline(outline, screen=screen).splitlines())) <= max(width, 60)


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["layers", *arguments])


def test_the_command_writes_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    folder = str(folder_of(transformers.LlamaConfig(**SIZES), tmp_path / "model", "LlamaForCausalLM"))
    outline = list_layers(folder)
    for arguments, text in (
        ([], render_outline(outline)),
        (["-v", "-q"], render_outline(outline, verbose=True)),
        (["--format", "markdown"], render_outline_markdown(outline)),
    ):
        result = run(folder, *arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (0, text, "")
    for options in (["--json"], ["--format", "json"]):
        assert Outline.from_dict(json.loads(run(folder, *options).stdout)) == outline
    assert run(folder, "--json", "-o", str(tmp_path / "out")).stdout == ""
    assert Outline.from_dict(json.loads((tmp_path / "out").read_text(encoding="utf-8"))) == outline
    assert len(json.loads(run(folder, "--json", "--layer", "*.0.*").stdout)["layers"]) == 2


def test_the_command_refuses(tmp_path: Path) -> None:
    folder = str(folder_of(transformers.LlamaConfig(**SIZES), tmp_path / "model"))
    assert run(folder, "--json", "--format", "markdown").exit_code == 2
    assert run(folder, "--layer", "nope").exit_code == 2
    assert run(folder, "--revision", "main").exit_code == 2
    missing = run(str(tmp_path / "none"))
    assert (missing.exit_code, missing.stdout, len(missing.stderr.splitlines())) == (1, "", 1)
    assert missing.stderr.startswith("error: ")


def test_help_all_has_the_rule() -> None:
    text = run("--help-all").stdout
    assert all(place in text for place in PLACES)


def test_rendering_loads_no_torch() -> None:
    code = (
        "import sys\nimport normscope.render.layers, normscope.results.layers\n"
        "import normscope.cli.commands.layers\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_70b_configuration_takes_the_memory_of_a_tiny_one(tmp_path: Path, preloaded_commands: Path) -> None:
    tiny = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 64}
    peak, data = peak_of_layers(preloaded_commands, {**HUGE, **tiny}, tmp_path / "tiny")
    huge_peak, huge_data = peak_of_layers(preloaded_commands, HUGE, tmp_path / "huge")
    assert [len(found["layers"]) for found in (data, huge_data)] == [161, 161]
    assert huge_data["model"]["parameters"] > 70e9
    assert huge_peak < 1.1 * peak


PEAK = """
import resource, sys
from normscope.cli.start import main
sys.argv = ["normscope", "layers", ".", "--json"]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def peak_of_layers(commands: Path, config: dict[str, Any], folder: Path) -> tuple[int, dict[str, Any]]:
    """Run `layers` on a configuration; return its peak memory and what it printed."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    command = [str(commands / "python"), "-c", PEAK]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True)
    return int(done.stderr), json.loads(done.stdout)


def test_the_guide_shows_what_comes_out(tmp_path: Path) -> None:
    (command,) = (c for c in commands(PAGES["inspect.md"]) if c.line.startswith("normscope layers"))
    assert shell(command.line, tmp_path) == command.shown
    assert {"embeddings", "post-norm"} <= set(command.shown.split())

"""Quantized, sharded and adapted models: what runs on a CPU, and one line for what does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

import normscope
from normscope.errors import ModelError
from normscope.models import location, quantization
from normscope.models.loading import load
from tests.support.hub import LINES, byte_tokenizer, edit_config


def save_llama(folder: Path) -> Path:
    """Save a Llama as wide as one group of 4-bit weights."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=2, bos_token_id=0, eos_token_id=0, **sizes
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_quantized(wanted: Any, folder: Path) -> Path:
    """Quantize a small Llama as transformers does, and save it."""
    whole = save_llama(folder / "whole")
    model = transformers.LlamaForCausalLM.from_pretrained(whole, quantization_config=wanted)
    model.save_pretrained(folder / "quantized")
    byte_tokenizer().save_pretrained(folder / "quantized")
    return folder / "quantized"


def refusal(model: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(model)
    message = str(caught.value)
    assert message.isprintable()
    assert message.count(";") >= 2
    return message


def sums_by_hooks(folder: Path) -> dict[str, float]:
    """Return the mean of each norm's input over the tokens of one text, by transformers and hooks alone."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    means: dict[str, float] = {}
    for name, module in model.named_modules():
        if "Norm" in type(module).__name__:
            module.register_forward_pre_hook(
                lambda _, args, name=name: means.update({name: float(args[0].double().mean())})
            )
    with torch.no_grad():
        model(**byte_tokenizer()(LINES[0], return_tensors="pt"), use_cache=False)
    return means


def assert_measured(folder: Path) -> None:
    """Compare what `inspect` measures with the library's own load of the same folder."""
    report = normscope.inspect(folder, [LINES[0]])
    expected = sums_by_hooks(folder)
    assert report.layers.keys() == expected.keys()
    assert not report.warnings
    for name, mean in expected.items():
        view: Any = report.layers[name].token
        assert view.mean.mean == pytest.approx(mean, rel=1e-5, abs=1e-7)


def test_sharded_safetensors_are_measured(tmp_path: Path) -> None:
    save_llama(tmp_path / "whole")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    byte_tokenizer().save_pretrained(tmp_path / "shards")
    assert len([*(tmp_path / "shards").glob("model-*.safetensors")]) > 1
    assert_measured(tmp_path / "shards")


@pytest.mark.parametrize(
    "config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig"]
)
def test_torchao_is_measured(config: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    folder = save_quantized(transformers.TorchAoConfig(getattr(quantization, config)()), tmp_path)
    assert_measured(folder)
    assert sums_by_hooks(folder) != sums_by_hooks(tmp_path / "whole")


@pytest.mark.parametrize("option", ["load_in_4bit", "load_in_8bit"])
def test_bitsandbytes_is_measured_on_a_cpu(option: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    kind: Any = transformers.BitsAndBytesConfig
    assert_measured(save_quantized(kind(**{option: True}), tmp_path))


def test_compressed_tensors_are_measured(tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.compressors import ModelCompressor

    model: Any = transformers.LlamaForCausalLM.from_pretrained(save_llama(tmp_path / "whole"))
    weights = quantization.QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    config = quantization.QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"])
    quantization.apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data = module.weight.abs().amax(1, keepdim=True) / 127
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "compressed")
    compressor.update_config(tmp_path / "compressed")
    byte_tokenizer().save_pretrained(tmp_path / "compressed")
    assert_measured(tmp_path / "compressed")


@pytest.mark.parametrize(
    ("method", "packages"),
    [("gptq", "optimum gptqmodel"), ("awq", "gptqmodel"), ("torchao", "torchao")],
)
def test_a_method_without_its_packages_is_refused(
    method: str, packages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edit_config(save_llama(tmp_path / "m"), quantization_config={"quant_method": method, "bits": 4})
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    assert refusal(folder).endswith(f"run pip install {packages}")


def save_gguf(path: Path, model: Any, architecture: str = "qwen2", left_out: str = "none") -> None:
    """Write a Qwen2 as llama.cpp does, its matrices in blocks of 8 bits, and leave the same in the model."""
    gguf = pytest.importorskip("gguf")
    config, tokenizer = model.config, byte_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens([*range(len(tokenizer))]))
    writer.add_token_types([3] + [1] * (len(tokenizer) - 1))
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_token_merges([" ".join(merge) for merge in state["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if left_out in name:
            continue
        if weight.dim() == 1:
            writer.add_tensor(stored, weight.numpy())
            continue
        blocks = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(stored, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        weight.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def small_qwen2() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(byte_tokenizer())}
    config = transformers.Qwen2Config(bos_token_id=0, eos_token_id=0, **sizes)
    model: Any = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    return model.requires_grad_(False).eval()


def test_a_gguf_file_is_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = small_qwen2()
    save_gguf(tmp_path / "tiny.gguf", model)
    (tmp_path / "unrelated.index.json").write_text(json.dumps({"weight_map": {"a": "absent"}}))
    capfd.readouterr()
    report = normscope.inspect(tmp_path / "tiny.gguf", LINES)
    assert capfd.readouterr() == ("", "")
    assert not report.warnings
    assert report.model.id == str(tmp_path / "tiny.gguf")
    assert report.model.architecture == "Qwen2ForCausalLM"
    assert_alike(report, normscope.inspect(model, LINES, tokenizer=byte_tokenizer()))
    outline = normscope.list_layers(tmp_path / "tiny.gguf")
    assert [layer.name for layer in outline.layers] == [*report.layers]


def assert_alike(report: Any, expected: Any) -> None:
    assert report.layers.keys() == expected.layers.keys()
    for name, layer in expected.layers.items():
        measured = report.layers[name]
        assert measured.kind == layer.kind
        assert measured.token.mean.mean == pytest.approx(layer.token.mean.mean, rel=1e-4, abs=1e-6)
        assert measured.feature.count == layer.feature.count
        assert measured.feature.variance == pytest.approx(layer.feature.variance, rel=1e-4)


def test_a_gguf_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "other.gguf", small_qwen2(), architecture="clip")
    assert "clip" in refusal(tmp_path / "other.gguf")
    save_gguf(tmp_path / "part.gguf", small_qwen2(), left_out="layers.1.")
    assert "not in the checkpoint" in refusal(tmp_path / "part.gguf")
    for content in (b"", b"GGUF", b"GGUF" + b"\xff" * 64):
        (tmp_path / "tiny.gguf").write_bytes(content)
        assert "tiny.gguf" in refusal(tmp_path / "tiny.gguf")
    shutil.move(tmp_path / "tiny.gguf", tmp_path / "tiny.bin")
    assert "is a file" in refusal(tmp_path / "tiny.bin")


def test_a_gguf_file_without_its_packages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    assert refusal(tmp_path / "tiny.gguf").endswith("run pip install gguf accelerate")


def save_adapter(base: Path, folder: Path, config: Any) -> Any:
    """Save an adapter with random weights; return the base model with it, merged."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    model = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 10)
    model.save_pretrained(folder)
    return model.merge_and_unload()


@pytest.mark.parametrize("kind", ["lora", "dora", "modules_to_save", "ln_tuning", "ia3"])
def test_an_adapter_is_measured_on_its_base(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    task: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    lora: dict[str, Any] = {**task, "target_modules": ["q_proj", "down_proj"]}
    config = {
        "lora": lambda: peft.LoraConfig(**lora),
        "dora": lambda: peft.LoraConfig(use_dora=True, **lora),
        "modules_to_save": lambda: peft.LoraConfig(modules_to_save=["input_layernorm", "norm"], **lora),
        "ln_tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"], **task),
        "ia3": lambda: peft.IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **task
        ),
    }[kind]()
    base = save_llama(tmp_path / "base")
    save_adapter(base, tmp_path / "adapter", config).save_pretrained(tmp_path / "merged")
    byte_tokenizer().save_pretrained(tmp_path / "merged")
    report = normscope.inspect(tmp_path / "adapter", LINES)
    assert report.warnings == ()
    assert report.model.id == str(tmp_path / "adapter")
    assert_alike(report, normscope.inspect(tmp_path / "merged", LINES))
    loaded = load(tmp_path / "adapter").model
    merged: Any = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(loaded.model.norm.weight, merged.model.norm.weight)
    assert not torch.equal(loaded.model.norm.weight, torch.ones(64)) or kind not in (
        "modules_to_save",
        "ln_tuning",
    )
    outline = normscope.list_layers(tmp_path / "adapter")
    assert [layer.name for layer in outline.layers] == [*report.layers]


def test_a_tokenizer_with_the_adapter_is_used(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = save_llama(tmp_path / "base")
    save_adapter(base, tmp_path / "adapter", peft.LoraConfig(target_modules=["q_proj"]))
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 7
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert load(tmp_path / "adapter").tokenizer.model_max_length == 7  # type: ignore[union-attr]
    assert load(base).tokenizer.model_max_length != 7  # type: ignore[union-attr]


def test_an_adapter_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, folder = save_llama(tmp_path / "base"), tmp_path / "adapter"
    save_adapter(base, folder, peft.LoraConfig(target_modules=["q_proj"]))
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    settings = json.loads(config.read_text())
    tensors = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(dict([*tensors.items()][1:]), weights)
    assert "missing adapter keys" in refusal(folder)
    weights.write_bytes(b"{")
    assert "cannot read the adapter" in refusal(folder)
    weights.unlink()
    assert "no adapter_model.safetensors" in refusal(folder)
    for wrong, part in {
        "absent/folder/of": "the base model of the adapter",
        str(folder): "cannot read the configuration",
        5: "names the base model",
    }.items():
        config.write_text(json.dumps({**settings, "base_model_name_or_path": wrong}))
        assert part in refusal(folder)
    for text in ("{}", "[]", "{"):
        config.write_text(text)
        assert "names no base model" in refusal(folder)
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(base), prompts).save_pretrained(
        tmp_path / "prompts"
    )
    assert "learned prompts" in refusal(tmp_path / "prompts")


def test_a_base_on_the_hub_is_taken_at_its_revision(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = {"base_model_name_or_path": "owner/base", "revision": "v1"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    source = location.locate(str(tmp_path), location.Loading(token="hf_x"))
    assert (source.location, source.is_folder, source.adapter) == ("owner/base", False, str(tmp_path))
    assert source.download_keywords(source.options.revision) == {
        "revision": "v1", "token": "hf_x", "cache_dir": None, "local_files_only": False,
    }  # fmt: skip


def test_an_adapter_without_peft_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    monkeypatch.setattr(location, "find_spec", lambda name: None)
    message = refusal(tmp_path)
    assert "a PEFT adapter without its base model" in message
    assert "pip install peft" in message
    assert "merge_and_unload" in message

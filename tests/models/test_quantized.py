"""Quantized, sharded and adapted models: what runs on a CPU, and one line for what does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import normscope
from normscope.errors import ModelError
from normscope.models import loading
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
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    assert refusal(folder).endswith(f"run pip install {packages}")


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    message = refusal(tmp_path)
    assert "a PEFT adapter without its base model" in message
    assert "merge_and_unload" in message


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    message = refusal(tmp_path / "tiny.gguf")
    assert "is a GGUF file" in message
    assert "gguf_file=file" in message
    shutil.move(tmp_path / "tiny.gguf", tmp_path / "tiny.bin")
    assert "GGUF" not in refusal(tmp_path / "tiny.bin")

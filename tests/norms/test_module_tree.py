"""Compiled and data-parallel models give the numbers and the names of the model within."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import normscope
from normscope.errors import UsageError
from normscope.norms.module_tree import named_modules, unwrapped
from tests.capture.test_watcher import hooks_of, padded
from tests.support import models

# The compiler's own graphs, run by PyTorch: what is skipped and traced is the same, without a C compiler.
BACKEND = "eager"


def watched(model: nn.Module, run: Callable[..., Any] | None = None) -> dict[str, Any]:
    with normscope.watch(model) as watcher, torch.no_grad():
        (model if run is None else run)(**padded("right"))
    plain = watcher.report().to_dict()
    plain["run"]["seconds"], plain["provenance"] = 0, None
    return plain


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend=BACKEND)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return watched(models.bert())


def outer(model: Any) -> Any:
    return compiled(model)


def in_place(model: Any) -> Any:
    model.compile(backend=BACKEND)
    return model


def a_block(model: Any) -> Any:
    model.bert.encoder.layer[0] = compiled(model.bert.encoder.layer[0])
    return model


def a_norm(model: Any) -> Any:
    model.bert.embeddings.LayerNorm = compiled(model.bert.embeddings.LayerNorm)
    return model


def twice(model: Any) -> Any:
    return nn.DataParallel(compiled(model))


def parallel_part(model: Any) -> Any:
    model.bert.encoder = nn.DataParallel(model.bert.encoder)
    return model


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("wrap", [outer, in_place, a_block, a_norm, nn.DataParallel, twice, parallel_part])
def test_a_wrapped_model_gives_the_plain_ones_report(wrap: Any, used: bool, plain: dict[str, Any]) -> None:
    model = wrap(models.bert())
    if used:  # Compiled code that is there already would pass new hooks by.
        with torch.no_grad():
            model(**padded("right"))
    assert watched(model) == plain
    assert hooks_of(model) == 0


def test_the_inner_model_is_watched_while_its_compiled_form_runs(plain: dict[str, Any]) -> None:
    model = models.bert()
    fast = compiled(model)
    with torch.no_grad():
        fast(**padded("right"))
    assert watched(model, run=fast) == plain


def test_compiling_within_the_context_loses_nothing(plain: dict[str, Any]) -> None:
    model = models.bert()

    def run(**batch: Any) -> None:
        compiled(model)(**batch)

    assert watched(model, run) == plain


def test_a_model_stays_compiled_and_its_outputs_stay_the_same() -> None:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    fast: Any = torch.compile(model, backend=backend)
    x = torch.randn(2, 3, 6)
    before = fast(x)
    count = len(graphs)
    assert count
    with normscope.watch(fast) as watcher:
        during = fast(x)
    assert len(graphs) == count
    assert torch.equal(before, during)
    assert torch.equal(before, fast(x))
    assert watcher.report().layers["1"].calls == 1
    torch.compile(nn.Linear(6, 6), backend=backend)(x)
    assert len(graphs) > count  # The compiler works again.


def test_the_compiler_is_given_back_after_an_error() -> None:
    model = compiled(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)))
    with pytest.raises(RuntimeError), normscope.watch(model):
        model(torch.randn(2, 3, 5))
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_data_parallel_over_processes_is_seen_through(plain: dict[str, Any]) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this build of PyTorch has no torch.distributed")
    torch.distributed.init_process_group(
        "gloo",
        store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
    )
    try:
        assert watched(nn.parallel.DistributedDataParallel(models.bert())) == plain
    finally:
        torch.distributed.destroy_process_group()


def test_copies_on_several_devices_are_refused() -> None:
    model = nn.DataParallel(nn.LayerNorm(4))
    model.device_ids = [0, 1]
    with pytest.raises(
        UsageError, match=r"copies on 2 devices; expected one; watch and run its own model\.module"
    ):
        normscope.watch(model)


def test_a_script_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # releases of PyTorch differ in how they discourage this
        model = torch.jit.trace(nn.LayerNorm(4), torch.randn(2, 4))  # type: ignore[no-untyped-call]
    with pytest.raises(UsageError, match="is a ScriptModule"):
        normscope.watch(model)


def test_inspect_sees_through_wrappers() -> None:
    model, tokenizer = models.demo()
    expected = normscope.inspect(model, ["a b c", "d"], tokenizer=tokenizer)
    for wrapped in (compiled(model), nn.DataParallel(model)):
        report = normscope.inspect(wrapped, ["a b c", "d"], tokenizer=tokenizer)
        assert report.to_dict()["layers"] == expected.to_dict()["layers"]
        assert report.model.id == expected.model.id


def test_names_of_wrappers_are_left_out_and_others_of_their_kind_stay() -> None:
    inner = nn.ModuleDict({"module": nn.ModuleDict({"norm": nn.LayerNorm(4)})})
    model = nn.Sequential(nn.DataParallel(inner), nn.Linear(4, 4))
    assert [name for name, _ in named_modules(model)] == ["", "0", "0", "0.module", "0.module.norm", "1"]
    assert list(dict(named_modules(nn.DataParallel(inner)))) == ["", "module", "module.norm"]
    assert unwrapped(nn.DataParallel(nn.DataParallel(inner))) is inner
    assert unwrapped(inner) is inner

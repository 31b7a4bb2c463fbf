"""Measures a model in forward passes that the user runs: `watch` and its context."""

from collections.abc import Sequence

from torch import Tensor, nn

from normscope.capture.recorder import Recorder
from normscope.capture.window import Window
from normscope.results.inspect import Report
from normscope.statistics.position_bins import MEMORY
from normscope.statistics.running_statistics import MOMENTUM


def watch(
    model: nn.Module,
    *,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_call: bool = False,
    words: bool | int = False,
    curve: bool = False,
    table_memory: int = MEMORY,
    exclude_tokens: Sequence[int] = (),
    skip_first: int = 0,
) -> "Watcher":
    """Measure the normalization layers of any module, in whatever forward passes you run.

        with normscope.watch(model) as watcher:
            for batch in loader:
                model(**batch)
        report = watcher.report()

    Padding does not count. It is read from the forward's own `attention_mask` (B, T), which is mapped
    through the convolutions of an audio model. For a decoder it is read from its own mask, or from
    labels of -100 at the end of a text. For a model without a mask, or to leave out more tokens, set
    `watcher.mask`, for tokens or a layer's rows. Packed texts are separated where `position_ids` go back.

    Tokens whose id is in `exclude_tokens`, and the `skip_first` first real tokens of each text, do not
    count either; they keep their positions. The ids are those of the forward's own `input_ids`.

    `layers` and `exclude` are globs on layer names. All calls of a layer in one forward are pooled by
    default. With `per_call` each call is reported separately, as "name#1", "name#2". The context may
    be entered several times, for example at every k-th training step; the numbers add up.

    With `words` the report also says how much the token id explains, from the forward's `input_ids`.
    This takes memory for each distinct id. True keeps as many ids as fit into 1 GiB over all layers; a
    number is the maximum of ids in each layer. If there are more ids, the lowest ones are kept, and
    `coverage` says how many tokens they cover.

    With `curve` the report has each layer's elements counted by input and output, `LayerReport.curve`. This
    takes 2.4 MB of memory a layer.

    The tables over positions take at most `table_memory` bytes over all layers. If the longest texts of
    the model need more, late positions share bins, and the report names the bins.

    Of a model in torch.compile, nn.DataParallel or DistributedDataParallel, the inner model is measured,
    with its own names. Compiled parts run as written, uncompiled, while the context is open. Each process
    measures its own part of the data. FSDP is not supported: its weights are not whole where hooks run.

    Raises UsageError when a glob matches no layer, for models that take no hooks, when the table memory is
    too small for any bins, and for a token id outside of the vocabulary.
    """
    recorder = Recorder(
        model,
        layers,
        exclude,
        per_call=per_call,
        words=words,
        curve=curve,
        table_memory=table_memory,
        exclude_tokens=exclude_tokens,
        skip_first=skip_first,
    )
    return Watcher(recorder)


class Watcher:
    """A context in which a model's forward passes are measured; created by `watch`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._window: Window | None = None

    @property
    def model(self) -> nn.Module:
        """The model without its wrappers; UsageError when it no longer exists.

        After the context has closed, the watcher does not keep the model alive.
        """
        return self._recorder.model

    @property
    def mask(self) -> Tensor | None:
        """Which tokens, or rows of a tower's layers, count in the next forwards, (B, T): true or 1."""
        return self._recorder.mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        """Set the mask of the next forwards."""
        self._recorder.mask = mask

    @property
    def decoder_mask(self) -> Tensor | None:
        """The same mask for the tokens of the decoder of an encoder-decoder."""
        return self._recorder.decoder_mask

    @decoder_mask.setter
    def decoder_mask(self, mask: Tensor | None) -> None:
        """Set the mask of the next forwards' decoder tokens."""
        self._recorder.decoder_mask = mask

    def window(self, *, momentum: float = MOMENTUM) -> Window:
        """Return a context whose forward passes are measured on their own, as one step of a training.

            watcher = normscope.watch(model)
            for step, batch in enumerate(loader):
                if step % 100 == 0:
                    with watcher.window() as window:
                        loss = model(**batch).loss
                    logger.log(window.scalars(), step)
                else:
                    loss = model(**batch).loss

        Each window begins with empty moments; `report` is then on the last one. `momentum` is that of
        BatchNorm's running statistics over windows. Raises UsageError while the watcher is open.
        """
        before = self._window.running() if self._window else {}
        self._recorder = self._recorder.renewed()
        self._window = Window(self._recorder, before, momentum)
        return self._window

    def __enter__(self) -> "Watcher":
        self._recorder.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.__exit__()

    def report(self, *, moments: bool = False) -> Report:
        """Return the report on all forwards so far; the watcher can continue afterwards.

        With `moments` the report carries a copy of the moments and can be merged with others.
        Raises UsageError when there is neither a layer nor a warning to report.
        """
        return self._recorder.report(moments=moments)

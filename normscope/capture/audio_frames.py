"""Maps the mask of a waveform to frames, through every convolution and pool of the model."""

from typing import Any

from torch import Tensor, nn

from normscope.statistics.alignment import TokenMask, fits

# Modules that reduce the number of frames.
STRIDED = (nn.Conv1d, nn.Conv2d, nn.AvgPool1d, nn.MaxPool1d)


class Frames:
    """The real frames of each sound of a batch, at every stage that the model has reached.

    `real` (B, S) bool is the mask of the model's input. After a convolution or a pool, a padded sound has
    as many real frames as it would have without padding; models map their masks in the same way. The
    number is unknown if padding does not come last.
    """

    def __init__(self, real: Tensor) -> None:
        self._input_mask = real
        lengths, size = real.sum(1), real.shape[1]
        self._lengths: dict[int, Tensor] = {}
        """The number of real frames of each sound, (B,), by the total number of frames."""
        if bool((real == _until(lengths, size)).all()):
            self._lengths[size] = lengths

    def convolved(self, module: nn.Module, hidden: Tensor, output: Tensor) -> None:
        """Compute the real frames after a convolution or a pool, (B, C, L, ...), if its input's are known."""
        if hidden.dim() < 3 or output.dim() < 3 or len(hidden) != len(self._input_mask):
            return
        size, new_size = hidden.shape[2], output.shape[2]
        if size not in self._lengths or size == new_size or _output_size(module, size) != new_size:
            return
        lengths = _output_size(module, self._lengths[size]).clamp(min=0)
        # Two branches with the same number of frames are added: a frame is real if it is real in both.
        other_branch = self._lengths.get(new_size)
        self._lengths[new_size] = lengths if other_branch is None else lengths.minimum(other_branch)

    def mask_of(self, lead: tuple[int, ...]) -> TokenMask:
        """Return the mask of the frames that match the axes `lead`, or of the model's input if none match."""
        for size in sorted(self._lengths, reverse=True):
            real = _until(self._lengths[size], size)
            if fits(lead, TokenMask(real, real)):
                return TokenMask(real, real)
        return TokenMask(self._input_mask, self._input_mask)


def _until(lengths: Tensor, size: int) -> Tensor:
    return lengths.new_ones(len(lengths), size).cumsum(1) <= lengths[:, None]


def _output_size(module: nn.Module, size: Any) -> Any:
    """Return the number of frames after a convolution or a pool of `size` frames; PyTorch's formula."""
    kernel, stride, padding, dilation = (
        _along_time(getattr(module, name, 1)) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _along_time(value: Any) -> int:
    value = value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, int) else 0

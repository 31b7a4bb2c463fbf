"""Maps the mask of a waveform to frames, through every convolution and pool of the model."""

from typing import Any

from torch import Tensor, nn

from normscope.statistics.alignment import TokenMask, fits

# What makes fewer frames of a sound.
STRIDED = (nn.Conv1d, nn.Conv2d, nn.AvgPool1d, nn.MaxPool1d)


class Frames:
    """The real frames of each sound of a batch, at every stage that the model has come to.

    `real` (B, S) bool is about what the model is given. A convolution or a pool makes as many frames of
    a padded sound as it would of that sound alone, which is how models map the mask themselves. Where
    padding does not come last that cannot be told.
    """

    def __init__(self, real: Tensor) -> None:
        self._given = real
        lengths, size = real.sum(1), real.shape[1]
        self._lengths: dict[int, Tensor] = {}
        """How many frames of each sound are real, (B,), by the number of frames that there are."""
        if bool((real == _until(lengths, size)).all()):
            self._lengths[size] = lengths

    def convolved(self, module: nn.Module, given: Tensor, output: Tensor) -> None:
        """Note what a convolution or a pool (B, C, L, ...) makes of frames that are known."""
        if given.dim() < 3 or output.dim() < 3 or len(given) != len(self._given):
            return
        size, made = given.shape[2], output.shape[2]
        if size not in self._lengths or size == made or _made(module, size) != made:
            return
        lengths = _made(module, self._lengths[size]).clamp(min=0)
        # Two ways to as many frames are added up: what both have is real.
        known = self._lengths.get(made)
        self._lengths[made] = lengths if known is None else lengths.minimum(known)

    def mask_of(self, lead: tuple[int, ...]) -> TokenMask:
        """Return the mask of the frames that these axes hold, that of the whole sounds if none."""
        for size in sorted(self._lengths, reverse=True):
            real = _until(self._lengths[size], size)
            if fits(lead, TokenMask(real, real)):
                return TokenMask(real, real)
        return TokenMask(self._given, self._given)


def _until(lengths: Tensor, size: int) -> Tensor:
    return lengths.new_ones(len(lengths), size).cumsum(1) <= lengths[:, None]


def _made(module: nn.Module, size: Any) -> Any:
    """Return how many frames a module makes of `size`; PyTorch's formula for convolutions and pools."""
    kernel, stride, padding, dilation = (
        _along_time(getattr(module, name, 1)) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _along_time(value: Any) -> int:
    value = value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, int) else 0

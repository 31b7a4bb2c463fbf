"""SHA-256 digests of named tensors and the strings stored with them."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

# The header entry that holds the digest of the tensors and of all other header entries.
KEY = "sha256"


def digest_of(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Return the SHA-256 of the tensors and the header, as 64 hexadecimal digits.

    Any change of a name, dtype, shape, element or header string changes it; the header's own digest entry
    is ignored. The elements of a tensor without memory (on the meta device) are not included.
    """
    digest = hashlib.sha256()
    for name, text in sorted(header.items()):
        if name != KEY:
            digest.update(json.dumps([name, text]).encode())
    for name, values in sorted(tensors.items()):
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        if not values.is_meta:
            digest.update(_bytes(values).numpy().data)
    return digest.hexdigest()


def signed(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the header with the digest added."""
    return {**header, KEY: digest_of(tensors, header)}


def _bytes(values: Tensor) -> Tensor:
    values = values.detach()
    if type(values) is not Tensor:  # A quantized tensor, for example, has no plain memory to hash.
        values = values.double()
    return values.cpu().contiguous().reshape(-1).view(torch.uint8)

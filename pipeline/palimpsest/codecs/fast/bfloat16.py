"""Products of bfloat16 numbers on CPUs without instructions for them (docs/decisions/0045-bfloat16-on-old-cpus.md).

There torch takes about thirty times as long for such a product as for one of float32. These layers compute it in float32 from the
same bfloat16 numbers and round the result: what the instructions give, up to the order of the sums.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional


@cache
def has_instructions() -> bool:
    """Whether this machine's CPU multiplies bfloat16 numbers about as fast as float32 ones."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`."""
    if not is_slow(x):
        return functional.linear(x, weight, bias)
    return functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def speed_up(model: nn.Module) -> nn.Module:
    """The same model, its linear layers and convolutions computed in this way where the CPU lacks the instructions."""
    for module in model.modules():
        if type(module) in _FASTER:
            module.__class__ = _FASTER[type(module)]
    return model


def is_slow(x: Tensor) -> bool:
    """Whether torch's own products with `x` would be slow."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not has_instructions()


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        if not is_slow(input):
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        return self._conv_forward(input.float(), self.weight.float(), bias).to(input.dtype)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, nn.Conv2d: _Conv2d}

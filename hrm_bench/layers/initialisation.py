"""How the parameters of every architecture are drawn."""

import hashlib

import torch
from torch import nn

LEARNED_STD = 0.02  # standard deviation of embeddings and learned states


def initialise(model: nn.Module, *, seed: int, width: int) -> None:
    """Draw every parameter anew, each from a stream of its own that its seed and name decide.

    So models of one seed agree in each parameter that has the same name and shape in both. Linear weights have standard
    deviation 1/√width, embeddings and learned states 0.02. All come from a normal that is truncated at ±2 (not at two
    standard deviations, so far out in its tails). Other parameters (norms at 1, gates at 0) keep their values.
    """
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = width**-0.5
        elif isinstance(module, (nn.Embedding, nn.ParameterList)):
            std = LEARNED_STD
        else:
            continue
        for name, parameter in module.named_parameters(prefix, recurse=False):
            stream = torch.Generator().manual_seed(stream_seed(seed, name))
            nn.init.trunc_normal_(parameter, std=std, a=-2.0, b=2.0, generator=stream)


def stream_seed(*key: int | str) -> int:
    """Return a seed for a stream of random numbers, another one for each key.

    The key is hashed, because PyTorch uses the last 32 bits of a seed only.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

"""A memory of fixed size on the output of a trained model, which is frozen; it learns through its reads and its writes.

    φ(h) = softmax(W h + b)                                      K features of what the head reads
    S ← S + Σ_t φ(h_t) onehot(x_{t+1})ᵀ,   n ← n + Σ_t φ(h_t)    written after a window
    p_memory(x) = φ(h)ᵀ S_x / φ(h)ᵀ n
    p(x) = (1 − g) p_model(x) + g p_memory(x),   g = sigmoid(w·h + c + d · log(1 + windows written)), and 0 if none is

This is the matrix and the normaliser of Infini-attention (arXiv 2404.07143) with other features, with the characters
that followed as values, and with an output gate. An empty memory gives the model's own probabilities, so every gain is
the memory's. W, b, w, c and d learn by Adam on spans of consecutive windows, each from an empty memory.

Shapes: B spans, N windows, T characters of a window, D width, K features, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.evidence.reading import Reading

FEATURES = 128
STEPS, SPANS, SPAN = 200, 8, 32  # optimizer steps, spans per step, windows per span
RATE = 0.01  # falls to 0 as a cosine
CLIP = 1.0  # largest norm of a gradient


class OutputMemory(nn.Module):
    """The memory's features and its gate."""

    def __init__(self, width: int, vocabulary_size: int, *, seed: int, features: int = FEATURES) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.features = nn.Linear(width, features)
        self.gate = nn.Linear(width, 1)
        self.growth = nn.Parameter(torch.zeros(()))
        stream = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.features.weight.copy_(torch.randn(features, width, generator=stream))
            self.features.bias.zero_()
            self.gate.weight.zero_()
            self.gate.bias.fill_(-1.0)

    @property
    def state_size(self) -> int:
        """How many numbers are carried from window to window."""
        return self.features.out_features * (self.vocabulary_size + 1)

    def forward(self, states: Tensor, targets: Tensor, given: Tensor) -> Tensor:
        """Return the probabilities of the characters of consecutive windows: (B, N, T).

        Args:
            states: what the head read, (B, N, T, D).
            targets: the characters, (B, N, T).
            given: the model's own probabilities of them, (B, N, T).
        """
        features = self.features(states).softmax(dim=-1)  # (B, N, T, K)
        followed = functional.one_hot(targets, self.vocabulary_size).to(features.dtype)
        written = torch.einsum("bntk,bntv->bnkv", features, followed)
        before = written.cumsum(dim=1) - written  # what earlier windows have written
        read = torch.einsum("bntk,bnkv->bntv", features, before)
        windows = torch.arange(states.shape[1], device=states.device)[None, :, None]
        remembered = read.gather(3, targets[..., None])[..., 0] / read.sum(dim=3).clamp_min(1e-20)
        gate = torch.sigmoid(self.gate(states)[..., 0] + self.growth * torch.log1p(windows.to(states.dtype)))
        return torch.where(windows > 0, (1 - gate) * given + gate * remembered, given)


def learn(text: Reading, vocabulary_size: int, *, seed: int, steps: int = STEPS) -> OutputMemory:
    """Train a memory on a text that a model has read, at least a span long."""
    states, targets, given = _windows(text)
    memory = OutputMemory(states.shape[2], vocabulary_size, seed=seed)
    optimizer = torch.optim.Adam(memory.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = torch.Generator().manual_seed(seed)
    span = min(SPAN, len(targets))
    for _ in range(steps):
        starts = torch.randint(len(targets) - span + 1, (SPANS, 1), generator=stream)
        places = starts + torch.arange(span)
        loss = -memory(states[places], targets[places], given[places]).clamp_min(1e-12).log().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(memory.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return memory.requires_grad_(requires_grad=False)


def remembered(memory: OutputMemory, text: Reading) -> Tensor:
    """Return the probabilities of a text's characters, read from an empty memory: (T,) in double precision."""
    states, targets, given = (part[None] for part in _windows(text))
    return memory(states, targets, given).flatten().double()


def _windows(text: Reading) -> tuple[Tensor, Tensor, Tensor]:
    """Return a text's states, characters and probabilities by window, in single precision."""
    parts = (text.states.float(), text.targets, text.probabilities.float())
    states, targets, given = (part.unflatten(0, (-1, text.window)) for part in parts)
    return states, targets, given

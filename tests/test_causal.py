"""The audit of anyone's language model: planted leaks are caught, and causal models of many kinds pass."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from hrm_bench.causal import audit

V, D, T = 11, 8, 17
check = functools.partial(audit, vocabulary=V, length=T)


class Model(nn.Module):
    """Embedding, what a subclass mixes over time, and head."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(V, D)
            self.head = nn.Linear(D, V)
            self.build()

    def build(self): ...

    def forward(self, tokens):
        return self.head(self.mix(self.embedding(tokens)))

    def mix(self, x):
        return x


class GRU(Model):
    def build(self):
        self.gru = nn.GRU(D, D, num_layers=2, batch_first=True, dropout=0.5)

    def mix(self, x):
        return self.gru(x)[0]

    def step(self, tokens, state):
        hidden, state = self.gru(self.embedding(tokens), state)
        return self.head(hidden), state


class Convolution(Model):
    left = 4  # characters before and with its own that it sees, of 5

    def build(self):
        self.convolution = nn.Conv1d(D, D, 5)

    def mix(self, x):
        padded = functional.pad(x.transpose(1, 2), (self.left, 4 - self.left))
        return self.convolution(padded).transpose(1, 2).relu()


class FourierConvolution(Model):
    """A convolution as long as the text, by FFT: a later character moves earlier outputs by rounding."""

    def mix(self, x):
        length = x.shape[1]
        kernel = torch.exp(-torch.arange(length, dtype=x.dtype, device=x.device) / 5)
        product = torch.fft.rfft(x, n=2 * length, dim=1) * torch.fft.rfft(kernel, n=2 * length)[:, None]
        return torch.fft.irfft(product, n=2 * length, dim=1)[:, :length]


class Transformer(Model):
    shift = 0  # how many later characters attention sees

    def build(self):
        self.position = nn.Embedding(T, D)
        self.projection = nn.Linear(D, 3 * D)
        self.norms = nn.ModuleList([nn.LayerNorm(D), nn.LayerNorm(D)])
        self.wide = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Dropout(0.3), nn.Linear(4 * D, D))

    def forward(self, tokens):
        return self.read(tokens, None)[0]

    def read(self, tokens, state):
        past = 0 if state is None else state[0].shape[1]
        x = self.embedding(tokens) + self.position.weight[past : past + tokens.shape[1]]
        queries, keys, values = self.projection(self.norms[0](x)).chunk(3, dim=-1)
        if state is not None:
            keys, values = (torch.cat(pair, dim=1) for pair in zip(state, (keys, values), strict=True))
        mask = torch.ones(x.shape[1], keys.shape[1], dtype=torch.bool).tril(past + self.shift)
        x = x + functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.head(x + self.wide(self.norms[1](x))), (keys, values)


class CachedTransformer(Transformer):
    def step(self, tokens, state):
        return self.read(tokens, state)


class LinearAttention(Model):
    """A sum of outer products, for a whole text at once and as a recurrence."""

    def build(self):
        self.projection = nn.Linear(D, 3 * D)

    def forward(self, tokens):
        queries, keys, values = self.projection(self.embedding(tokens)).chunk(3, dim=-1)
        return self.head((queries @ keys.transpose(1, 2)).tril() @ values)

    def step(self, tokens, state):
        queries, keys, values = self.projection(self.embedding(tokens)).chunk(3, dim=-1)
        state = torch.zeros(len(tokens), D, D, dtype=keys.dtype) if state is None else state
        outputs = []
        for i in range(tokens.shape[1]):
            state = state + keys[:, i, :, None] * values[:, i, None]
            outputs.append(queries[:, i, None] @ state)
        return self.head(torch.cat(outputs, dim=1)), state


class StateSpace(Model):
    """A diagonal recurrence, by sums of logarithms: rounding differs from piece to piece."""

    def build(self):
        self.decay = nn.Parameter(torch.linspace(0.5, 0.95, D))

    def forward(self, tokens):
        return self.step(tokens, None)[0]

    def step(self, tokens, state):
        x = self.embedding(tokens)
        powers = self.decay ** torch.arange(1, x.shape[1] + 1)[:, None]
        weights = (
            torch.ones(x.shape[1], x.shape[1]).tril()[..., None]
            * self.decay ** (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).clamp(min=0)[..., None]
        )
        hidden = torch.einsum("tsd,bsd->btd", weights.to(x.dtype), x)
        hidden = hidden if state is None else hidden + powers * state[:, None]
        return self.head(hidden), hidden[:, -1]


class Counts:
    """Counts of pairs of characters, which give probabilities of a character and then take it in."""

    updates_first = False
    smoothing = 1.0

    def step(self, tokens, state):
        lanes = torch.arange(len(tokens))
        counts, last = state or (torch.full((len(tokens), V, V), 0.5), torch.zeros(len(tokens), dtype=torch.long))
        counts, outputs = counts.clone(), []
        for character in tokens.T:
            if self.updates_first:
                counts[lanes, last, character] += 1
            row = counts[lanes, last]
            outputs.append(row / row.sum(dim=-1, keepdim=True) * self.smoothing)
            if not self.updates_first:
                counts[lanes, last, character] += 1
            last = character
        return torch.stack(outputs, dim=1), (counts, last)


class LargeLogits(GRU):
    def forward(self, tokens):
        return super().forward(tokens) * 1e5

    def step(self, tokens, state):
        output, state = super().step(tokens, state)
        return output * 1e5, state


def softmax_of(model):
    return lambda tokens: model(tokens).softmax(dim=-1)


CAUSAL = {
    "a GRU": (GRU, {}),
    "a convolution": (Convolution, {}),
    "a convolution by FFT in single precision": (FourierConvolution, {}),
    "a transformer": (Transformer, {}),
    "a transformer with a cache": (CachedTransformer, {}),
    "linear attention": (LinearAttention, {}),
    "a state-space recurrence": (StateSpace, {}),
    "counts that are updated after scoring": (Counts, {"output": "probabilities", "predicts": "same"}),
    "large logits in single precision": (LargeLogits, {}),
    "a function of a module in training mode": (lambda: softmax_of(GRU()), {"output": "probabilities"}),
    "half precision": (lambda: Transformer().bfloat16(), {}),
    "double precision": (lambda: GRU().double(), {}),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_passes(name):
    build, options = CAUSAL[name]
    report = check(build(), **options)
    assert report.is_causal, str(report)
    assert report.lengths == [1, 2, 3, 7, 8, 9, 12, 16, 17]
    assert report.num_perturbations >= 3 * sum(length - 1 for length in report.lengths)


class MeanOverTime(Model):
    def mix(self, x):
        return x - x.mean(dim=1, keepdim=True)


class MeanOverLanes(GRU):
    def mix(self, x):
        return super().mix(x) - x.mean(dim=0)


class BatchStatistics(Model):
    def mix(self, x):
        return functional.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2)


class ChunkEnd(GRU):
    """At the end of a chunk of 8, the first character of the next, in texts of whole chunks only."""

    def mix(self, x):
        hidden = super().mix(x)
        if x.shape[1] % 8 == 0:
            hidden[:, 7:-1:8] += x[:, 8::8]
        return hidden


class BothDirections(Model):
    def build(self):
        self.gru = nn.GRU(D, D // 2, batch_first=True, bidirectional=True)

    def mix(self, x):
        return self.gru(x)[0]


class Looking(GRU):
    """Sees the character some places ahead, ever so slightly."""

    def __init__(self, ahead, size):
        super().__init__()
        self.ahead, self.size = ahead, size

    def mix(self, x):
        later = functional.pad(x[:, self.ahead :], (0, 0, 0, min(self.ahead, x.shape[1])))
        return super().mix(x) + self.size * later


class Variety(GRU):
    """Sees whether later characters are of 5 kinds, which no single one decides where they are of 3."""

    def forward(self, tokens):
        output = super().forward(tokens)
        for i in range(tokens.shape[1] - 11):
            kinds = functional.one_hot(tokens[:, i + 1 :], V).amax(dim=1).sum(dim=-1)
            output[:, i, 0] += kinds > 4
        return output


class TimesLength(GRU):
    def mix(self, x):
        return super().mix(x) / x.shape[1]


class WrongOffset(CachedTransformer):
    def step(self, tokens, state):
        return self.read(tokens, state and tuple(part[:, 1:] for part in state))


class WritesFirst(LinearAttention):
    """Adds all characters of a call to its state before the first of them reads it."""

    def forward(self, tokens):
        return self.step(tokens, None)[0]

    def step(self, tokens, state):
        queries, keys, values = self.projection(self.embedding(tokens)).chunk(3, dim=-1)
        state = keys.transpose(1, 2) @ values + (0 if state is None else state)
        return self.head(queries @ state), state


class UpdatesFirst(Counts):
    updates_first = True


class SumsToMore(Counts):
    smoothing = 1.0001


class LaneNumber(GRU):
    def mix(self, x):
        return super().mix(x) + torch.arange(len(x))[:, None, None]


class AlwaysDropped(GRU):
    def mix(self, x):
        return functional.dropout(super().mix(x), 0.1)


class Remembers(GRU):
    """Keeps the state of the call before in itself."""

    last = None

    def step(self, tokens, state):
        usable = self.last is not None and self.last.shape[1] == len(tokens)
        output, self.last = super().step(tokens, self.last if usable else state)
        return output, self.last


class NotANumber(GRU):
    def mix(self, x):
        return 0 * super().mix(x) / (torch.arange(x.shape[1])[:, None] < 15)


COUNTS = {"output": "probabilities", "predicts": "same"}
LEAKS = {  # what is planted: the model, its options, the conditions it breaks, and how far ahead it sees
    "a mask that is one too far": (lambda: set_to(Transformer(), shift=1), {}, {"future": 1}),
    "a convolution that is not padded": (lambda: set_to(Convolution(), left=0), {}, {"future": 4}),
    "a mean over time": (MeanOverTime, {}, {"future": T - 1}),
    "a mean over the lanes": (MeanOverLanes, {"step": False}, {"lanes": None}),
    "statistics of the batch": (BatchStatistics, {"lengths": [2, 16, 17]}, {"future": T - 1, "lanes": None}),
    "the end of a chunk": (ChunkEnd, {"step": False}, {"future": 1}),
    "two directions": (BothDirections, {}, {"future": T - 1}),
    "a weak look 9 characters ahead": (lambda: Looking(9, 1e-6), {"step": False}, {"future": 9}),
    "the variety of later characters": (Variety, {"step": False}, {"future": 14}),
    "the length of the text": (TimesLength, {"step": False}, {"future": None}),
    "a cache that loses characters": (WrongOffset, {}, {"cache": None}),
    "a cache of another model": (lambda: set_to(GRU(), step=GRU(seed=1).step), {}, {"cache": None}),
    "a state that is written first": (WritesFirst, {}, {"future": T - 1, "cache": None}),
    "counts that are updated first": (UpdatesFirst, COUNTS, {"update": 1}),
    "an output that sees its own character": (GRU, {"predicts": "same", "step": False}, {"update": 1}),
    "probabilities that sum to more": (SumsToMore, COUNTS, {"sum": None}),
    "logits that are called probabilities": (GRU, {"output": "probabilities"}, {"sum": None}),
    "outputs that are not numbers": (NotANumber, {"step": False}, {"sum": None}),
    "the number of the lane": (LaneNumber, {"step": False}, {"lanes": None}),
    "dropout that stays on": (AlwaysDropped, {"step": False}, {"repeat": None}),
    "a state that outlives the call": (Remembers, {}, {"repeat": None}),
}


def set_to(model, **attributes):
    for name, value in attributes.items():
        object.__setattr__(model, name, value)
    return model


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_caught_under_its_name(name):
    build, options, expected = LEAKS[name]
    report = check(build(), **options)
    print(report)
    assert {finding.condition: finding.ahead for finding in report.findings} == expected

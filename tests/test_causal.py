"""The audit of anyone's language model: planted leaks are caught, and causal models of many kinds pass."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import hrm_bench
from conftest import small
from torch import nn
from torch.nn import functional

from hrm_bench import assert_causal
from hrm_bench.audit import main
from hrm_bench.causal import CONDITIONS, NotCausal, audit
from hrm_bench.causal.audit import lengths_to_try
from hrm_bench.causal.changes import changed_texts
from hrm_bench.errors import UsageError

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


class StepsLikeThat(LinearAttention):
    step = WritesFirst.step


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
    "a step that writes first, though one call does not": (StepsLikeThat, {}, {"future": 15, "cache": None}),
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
    assert {finding.condition: finding.ahead for finding in report.findings} == expected


def test_every_condition_is_broken_by_a_planted_model():
    assert {condition for _, _, expected in LEAKS.values() for condition in expected} == {*CONDITIONS}


def test_a_finding_says_in_one_sentence_what_it_saw():
    with pytest.raises(NotCausal) as refused:
        assert_causal(ChunkEnd(), V, length=T, step=False)
    (finding,) = refused.value.report.findings
    assert (finding.condition, finding.length, finding.position, finding.ahead) == ("future", 16, 7, 1)
    assert str(refused.value) == (
        f"ChunkEnd: NOT CAUSAL: future: in a text of 16 characters, the output at position 7 changes by "
        f"{finding.change:.2g} if the character at 8 changes: it sees 1 character ahead"
    )


def test_the_lengths_are_no_multiples_of_anything():
    assert {1, 2, 63, 64, 65, 127, 128} < {*lengths_to_try(128)}
    assert lengths_to_try(1) == [1]
    report = check(GRU(), length=1)
    assert (report.is_causal, report.num_perturbations) == (True, 0)  # nothing comes before a first character


def test_rounding_is_told_from_a_leak_of_its_size():
    class Leaky(FourierConvolution):
        size = 0.0

        def mix(self, x):
            return super().mix(x) + self.size * functional.pad(x, (0, 0, 0, 9))[:, 9:]

    clean = FourierConvolution()
    text, others = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))
    rounding = (clean(changed_texts(text, others, torch.tensor([T - 1]))) - clean(text[None])).abs()[0, : T - 1].max()
    assert 0 < rounding < 1e-5
    assert check(clean).is_causal
    assert check(Leaky()).is_causal
    assert check(set_to(Leaky(), size=rounding.item())).findings[0].ahead == 9


def test_the_audit_leaves_the_model_and_the_random_numbers_as_they_were():
    model = Transformer()
    model.wide.eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert check(model).is_causal
    assert [module.training for module in model.modules()] == modes
    assert len({*modes}) == 2
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    assert torch.get_rng_state().equal(random)
    assert torch.is_grad_enabled()


def test_a_model_that_fails_is_left_in_its_mode():
    model = GRU().train()
    with pytest.raises(UsageError, match=r"GRU: fails on tokens of shape \(4, 2\) below 99 \(IndexError: .*\); give a"):
        audit(model, 99, lengths=[2])
    assert model.training


@pytest.mark.parametrize("words", [["model=hrm"], ["model=infini_hrm", "memory=carry"]])
def test_models_of_the_bench_pass_and_their_leaks_are_caught(words):
    model = small(*words)
    leak = "memory.write=every_segment" if "memory=carry" in words else "model.causal=false"
    options = {"vocabulary": model.vocabulary_size, "lengths": [2, model.window + 1]}
    assert audit(model, **options).is_causal
    assert audit(small(*words, leak), **options).findings[0].condition == "future"


def test_models_of_x_transformers_pass():
    x_transformers = pytest.importorskip("x_transformers", reason="pip install 'hrm_bench[peers]'")
    layers = x_transformers.Decoder(dim=16, depth=2, heads=2, rotary_pos_emb=True)
    assert check(x_transformers.TransformerWrapper(num_tokens=V, max_seq_len=T, attn_layers=layers)).is_causal
    layers = x_transformers.Encoder(dim=16, depth=1, heads=2)
    leaky = x_transformers.TransformerWrapper(num_tokens=V, max_seq_len=T, attn_layers=layers)
    assert check(leaky).findings[0].ahead == T - 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a user's models, in which a command is typed."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "models.py").write_text(
        """
import torch
from torch import nn

class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru, self.head = nn.Embedding(9, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 9)

    def forward(self, tokens):
        return self.head(self.gru(self.embedding(tokens))[0])

def good():
    return Good()

def uniform(tokens):
    return torch.full((*tokens.shape, 9), 1 / 9)

def counter(tokens, state):
    return torch.zeros(*tokens.shape, 9), state

def leaky(tokens):
    return torch.nn.functional.one_hot(tokens.roll(-1, dims=1), 9).float()

def flat(tokens):
    return tokens.float()

def broken():
    raise RuntimeError("no weights")

number = 3
"""
    )
    (tmp_path / "mine" / "half.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


def test_the_command_passes_models_of_a_users_own_and_says_what_it_has_tried(folder, capsys):
    words = ["vocabulary=9", "length=5"]
    for name in ("good", "Good", "counter"):
        assert main([f"module=mine.models:{name}", *words]) == 0
    assert main(["module=mine.models:uniform", "output=probabilities", "predicts=same", *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "Good: causal, if output i predicts character i + 1; conditions: future, lanes, repeat; "
        "texts of 1, 2, 3, 4, 5 characters; 30 perturbations; rounding: changes up to 2e-12 of an output"
    )
    assert "conditions: future, lanes, cache, repeat;" in printed[2]
    assert "if output i predicts character i; conditions: future, sum, update, lanes, repeat;" in printed[3]


def test_the_command_exits_with_1_after_a_leak(folder):
    leaky = hrm_bench("module=mine.models:leaky", "vocabulary=9", "length=5", cwd=folder, module="hrm_bench.audit")
    assert leaky.returncode == 1, leaky.stderr
    assert leaky.stdout.startswith("leaky: NOT CAUSAL: future: in a text of ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("module=mine.models vocabulary=9", r"module=mine.models: must name a module and a callable in it"),
        ("module=mine.module:good vocabulary=9", r"module=mine.module:good: no module mine.module, in .* neither"),
        ("module=mine.half:good vocabulary=9", r"cannot be imported \(No module named 'no_such_package'\); install"),
        ("module=mine.models:god vocabulary=9", r"mine.models has no god; its callables are .*; did you mean good\?"),
        ("module=mine.models:number vocabulary=9", r"int is not callable; must be a model, or a function that gives"),
        ("module=mine.models:broken vocabulary=9", r"broken\(\) fails \(RuntimeError: no weights\)"),
        (
            "module=mine.models:flat vocabulary=9",
            r"flat: gives \(5, 1\) of .*; must give \(\d, 1, 9\) of a floating-point",
        ),
        ("module=mine.models:good", r"vocabulary: must be given; vocabulary=256"),
        ("module=mine.models:good vocabulary=1", r"vocabulary=1: must be at least 2"),
        ("module=mine.models:good vocabulary=10", r"Good: gives .*; must give \(5, 1, 10\) of"),
        ("module=mine.models:good vocabulary=9 length=0", r"length=0: must be at least 1; try length=128"),
        ("module=mine.models:good vocabulary=9 output=logit", r"output=logit: must be one of logits, probabilities"),
        ("module=mine.models:good vocabulary=9 predicts=last", r"predicts=last: must be one of next, same"),
        ("module=mine.models:good vocabulary=9 lenght=3", r"lenght: no such key; .*; did you mean length\?"),
        ("module=mine.models:good hf=here vocabulary=9", r"module, hf: give one of them"),
    ],
)
def test_a_fault_of_the_command_is_one_line(folder, words, line):
    with pytest.raises(UsageError, match=line) as refused:
        main(words.split())
    assert len(refused.value.faults) == 1


def test_models_of_transformers_are_audited_with_their_cache(tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="pip install 'hrm_bench[transformers]'")
    settings = {"vocab_size": V, "bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(**settings, n_positions=T, n_embd=16, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    settings |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": T}
    transformers.BertLMHeadModel(transformers.BertConfig(**settings)).save_pretrained(tmp_path / "bert")
    assert main([f"hf={tmp_path / 'gpt2'}"]) == 0
    assert "conditions: future, lanes, cache, repeat; texts of 1, 2, 3, 7, 8, 9, 12, 16, 17" in capsys.readouterr().out
    assert main([f"hf={tmp_path / 'bert'}"]) == 1
    assert f"another output {T - 1}" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"length=99: the model reads at most 17 tokens"):
        main([f"hf={tmp_path / 'gpt2'}", "length=99"])
    with pytest.raises(UsageError, match=r"nowhere: no config.json here"):
        main([f"hf={tmp_path / 'nowhere'}"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UsageError, match=r"is no causal language model that transformers reads \(ValueError"
    ) as refused:
        main([f"hf={tmp_path}"])
    assert len(refused.value.faults) == 1


def test_without_transformers_the_command_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"needs transformers; pip install 'hrm_bench\[transformers\]'"):
        main([f"hf={tmp_path}"])


def test_assert_causal_is_imported_without_lightning_hydra_and_pandas():
    script = "from hrm_bench import assert_causal; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not {"lightning", "hydra", "omegaconf", "pandas", "rich", "pydantic", "scipy"} & {*done.stdout.split()}

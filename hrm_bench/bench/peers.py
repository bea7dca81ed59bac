"""Models of the package index, as large as ours, on the same batches: how fast they train.

Each peer has the width, heads, context, vocabulary and batch of the model of ours that it is set beside, and a
feed-forward so wide that it has as many parameters. All are trained with the same fused AdamW and clipping.
``pip install 'hrm_bench[peers]'`` brings them.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from hrm_bench.bench.settings import LANES, Settings, training_batches
from hrm_bench.bench.subjects import Subject, ours, train_next
from hrm_bench.bench.table import Row, compare
from hrm_bench.bench.timing import Place, at, interleave
from hrm_bench.charlm import Batch
from hrm_bench.data.vocabulary import CHARACTERS
from hrm_bench.objectives import task_loss
from hrm_bench.training.build import build

DEPTH = 2  # blocks, as ours have
TOLERANCE = 0.05  # by which parameters may differ


class Peer(NamedTuple):
    """A package, its model, and those of ours that it is set beside."""

    package: str
    module: str
    beside: tuple[str, ...]
    build: Callable[[DictConfig, int], nn.Module]  # with so wide a feed-forward: (B, T) tokens → logits (B, T, V)


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows of characters a second, and a line for each package that is not there."""
    for peer in PEERS:
        if importlib.util.find_spec(peer.module) is None:
            yield f"{peer.package} is not installed; pip install 'hrm_bench[peers]'"
            continue
        for name in peer.beside:
            for place in settings.places:
                if name in settings.models:
                    with at(place):
                        yield from _compare(settings, name, peer, place)


def _compare(settings: Settings, name: str, peer: Peer, place: Place) -> Iterator[Row]:
    cfg = settings.cfg(name)
    batches = training_batches(cfg, place)
    model = build(cfg)
    parameters = num_parameters(model)
    built = fitted(partial(peer.build, cfg), parameters)
    note = f"{parameters:,} and {num_parameters(built):,} parameters, {model.num_segments} and 1 steps a batch"
    ways = {name: ours(cfg, place), peer.package: _subject(cfg, built, place, compile=False)}
    pairs = [(name, peer.package)]
    if settings.is_compiled(name, place):
        pairs.append((f"{name} compiled", f"{peer.package} compiled"))
        ways[pairs[1][0]] = ours(cfg, place, compile=True)
        ways[pairs[1][1]] = _subject(cfg, fitted(partial(peer.build, cfg), parameters), place, compile=True)
    times = interleave(
        {way: partial(train_next, subject, batches) for way, subject in ways.items()}, rounds=settings.rounds
    )
    rates = {way: [LANES * cfg.data.window / each for each in seconds] for way, seconds in times.items()}
    for first, second in pairs:
        yield compare("training step", place, rates, first, second, unit="characters/s", note=note)


def num_parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def fitted(build: Callable[[int], nn.Module], wanted: int) -> nn.Module:
    """The model whose feed-forward is as wide as brings its parameters nearest to those wanted.

    Raises ArithmeticError where they are further off than TOLERANCE.
    """
    narrow, wide = (num_parameters(build(width)) for width in (64, 128))
    model = build(round(64 + 64 * (wanted - narrow) / (wide - narrow)))
    if abs(num_parameters(model) / wanted - 1) > TOLERANCE:
        raise ArithmeticError(f"{type(model).__name__}: {num_parameters(model):,} parameters instead of {wanted:,}")
    return model


def _subject(cfg: DictConfig, model: nn.Module, place: Place, *, compile: bool) -> Subject:
    model.to(place.device).train()
    recipe = cfg.recipe
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    called = torch.compile(model, dynamic=False) if compile else model

    def train(batch: Batch) -> Tensor:
        tokens, targets = batch
        optimizer.zero_grad(set_to_none=True)
        loss = task_loss(called(tokens), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        return loss.detach()

    return Subject(train, train)


class _InfiniTransformer(nn.Module):
    """A peer that reads and writes an empty memory in each layer, as Infini-HRM does at each batch."""

    def __init__(self, cfg: DictConfig, hidden_width: int) -> None:
        from infini_transformer_pytorch import InfiniTransformer

        super().__init__()
        width = cfg.model.width
        self.num_heads = cfg.model.num_heads
        self.head_width = width // self.num_heads
        self.model = InfiniTransformer(
            num_tokens=len(CHARACTERS),
            dim=width,
            depth=DEPTH,
            dim_head=self.head_width,
            heads=self.num_heads,
            ff_mult=(hidden_width + 0.5) / width * 3 / 2,  # it takes two thirds, and cuts off what is not whole
        )

    def forward(self, tokens: Tensor) -> Tensor:
        from infini_transformer_pytorch.infini_transformer import Memories

        like = self.model.token_emb.weight
        keys = (len(tokens), self.num_heads, self.head_width)
        memories = [Memories(like.new_zeros(*keys, self.head_width), like.new_zeros(keys)) for _ in range(DEPTH)]
        return self.model(tokens, past_memories=memories, return_new_memories=True).logits


def _x_transformer(cfg: DictConfig, hidden_width: int) -> nn.Module:
    """Our transformer as far as its settings go: rotary positions, RMSNorm, a gated feed-forward, fused attention."""
    from loguru import logger
    from x_transformers import Decoder, TransformerWrapper

    logger.disable("x_transformers")  # it warns of narrow heads
    width = cfg.model.width
    head_width = width // cfg.model.num_heads
    return TransformerWrapper(
        num_tokens=len(CHARACTERS),
        max_seq_len=cfg.data.window,
        use_abs_pos_emb=False,
        attn_layers=Decoder(
            dim=width,
            depth=DEPTH,
            heads=cfg.model.num_heads,
            attn_dim_head=head_width,
            attn_flash=True,
            rotary_pos_emb=True,
            rotary_emb_dim=head_width,
            use_rmsnorm=True,
            ff_glu=True,
            ff_swish=True,
            ff_no_bias=True,
            ff_mult=(hidden_width + 0.5) / width,  # it cuts off what is not whole
        ),
    )


PEERS = (
    Peer("infini-transformer-pytorch", "infini_transformer_pytorch", ("infini_hrm",), _InfiniTransformer),
    Peer("x-transformers", "x_transformers", ("hrm", "transformer"), _x_transformer),
)

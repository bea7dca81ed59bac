"""Models of the package index, as large as ours and on the same batches: how fast they train.

Each peer has the width, heads, context, vocabulary and batch of the model that it is compared with, and a feed-forward
as wide as gives it as many parameters. All are trained with fused AdamW and clipping.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks.implementations import package
from benchmarks.settings import LANES, Batch, Settings, training_batches
from benchmarks.table import Row, compare
from benchmarks.timing import Device, interleave, use
from hrm_bench.objectives import task_loss
from hrm_bench.training.build import build

QUESTION = "how fast do other packages' models of the same size train?"
DEPTH = 2  # blocks, as in our models
TOLERANCE = 0.05  # largest relative difference between the numbers of parameters


class Peer(NamedTuple):
    """A package's model, and those of our models that it is compared with."""

    package: str
    module: str
    models: tuple[str, ...]
    build: Callable[[DictConfig, int, int], nn.Module]  # config, characters, feed-forward width; (B, T) → (B, T, V)


def measure(settings: Settings) -> Iterator[Row | str]:
    """Yield rows of characters per second, and a remark for each package that is not installed."""
    for peer in PEERS:
        if importlib.util.find_spec(peer.module) is None:
            yield f"{peer.package} is not installed; pip install 'hrm_bench[peers]'"
            continue
        for name in peer.models:
            for device in settings.devices:
                if name in settings.models:
                    with use(device):
                        yield _compare(settings, name, peer, device)


def _compare(settings: Settings, name: str, peer: Peer, device: Device) -> Row:
    config = settings.config(name)
    batches = training_batches(config, device)
    model = build(config)
    size = num_parameters(model)
    peer_model = fitted(partial(peer.build, config, model.head.out_features), size)
    note = f"{size:,} and {num_parameters(peer_model):,} parameters, {model.num_segments} and 1 steps per batch"
    trainings = {name: package(config, device).train, peer.package: training(config, peer_model.to(device.type))}
    works = {way: lambda train=train: train(next(batches)) for way, train in trainings.items()}
    timings = interleave(works, rounds=settings.rounds)
    rates = {way: [LANES * config.data.window / second for second in seconds] for way, seconds in timings.items()}
    return compare("training step", device, rates, name, peer.package, unit="characters/s", note=note)


def num_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def fitted(build_with: Callable[[int], nn.Module], size: int) -> nn.Module:
    """Return the model whose feed-forward width brings its number of parameters nearest to ``size``.

    Raises ArithmeticError if they differ by more than TOLERANCE.
    """
    narrow, wide = (num_parameters(build_with(width)) for width in (64, 128))
    model = build_with(round(64 + 64 * (size - narrow) / (wide - narrow)))
    if abs(num_parameters(model) / size - 1) > TOLERANCE:
        raise ArithmeticError(f"{type(model).__name__}: {num_parameters(model):,} parameters instead of {size:,}")
    return model


def training(config: DictConfig, model: nn.Module) -> Callable[[Batch], Tensor]:
    """Return a function that takes one training step of a peer and returns its loss."""
    recipe = config.recipe
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )

    def train(batch: Batch) -> Tensor:
        tokens, targets = batch
        optimizer.zero_grad(set_to_none=True)
        loss = task_loss(model(tokens), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        return loss.detach()

    return train


class InfiniTransformerPeer(nn.Module):
    """A peer that reads and writes an empty memory in each layer, as Infini-HRM does in each batch."""

    def __init__(self, config: DictConfig, vocabulary_size: int, hidden_width: int) -> None:
        from infini_transformer_pytorch import InfiniTransformer

        super().__init__()
        width = config.model.width
        self.num_heads = config.model.num_heads
        self.head_width = width // self.num_heads
        self.model = InfiniTransformer(
            num_tokens=vocabulary_size,
            dim=width,
            depth=DEPTH,
            dim_head=self.head_width,
            heads=self.num_heads,
            ff_mult=(hidden_width + 0.5) / width * 3 / 2,  # the package takes two thirds of it, and rounds down
        )

    def forward(self, tokens: Tensor) -> Tensor:
        from infini_transformer_pytorch.infini_transformer import Memories

        like = self.model.token_emb.weight
        keys = (len(tokens), self.num_heads, self.head_width)
        memories = [Memories(like.new_zeros(*keys, self.head_width), like.new_zeros(keys)) for _ in range(DEPTH)]
        return self.model(tokens, past_memories=memories, return_new_memories=True).logits


def x_transformer(config: DictConfig, vocabulary_size: int, hidden_width: int) -> nn.Module:
    """Return our transformer as closely as the package can: rotary positions, RMSNorm, gated feed-forward."""
    from loguru import logger
    from x_transformers import Decoder, TransformerWrapper

    logger.disable("x_transformers")  # it warns of narrow heads
    width = config.model.width
    head_width = width // config.model.num_heads
    return TransformerWrapper(
        num_tokens=vocabulary_size,
        max_seq_len=config.data.window,
        use_abs_pos_emb=False,
        attn_layers=Decoder(
            dim=width,
            depth=DEPTH,
            heads=config.model.num_heads,
            attn_dim_head=head_width,
            attn_flash=True,
            rotary_pos_emb=True,
            rotary_emb_dim=head_width,
            use_rmsnorm=True,
            ff_glu=True,
            ff_swish=True,
            ff_no_bias=True,
            ff_mult=(hidden_width + 0.5) / width,  # the package rounds down
        ),
    )


PEERS = (
    Peer("infini-transformer-pytorch", "infini_transformer_pytorch", ("infini_hrm",), InfiniTransformerPeer),
    Peer("x-transformers", "x_transformers", ("hrm", "transformer"), x_transformer),
)

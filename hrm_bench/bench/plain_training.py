"""Plain models made from a config, and trained as plainly: AdamW and clipping, a parameter after another.

Shapes: B lanes, T characters, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hrm_bench.bench.plain import PLAIN, PlainModel, State, total

FUSED = {  # the end of a parameter's name → those of its parts in the plain model, equal shares of its rows
    "qkv.weight": ("query.weight", "key.weight", "value.weight"),
    "gate_up.weight": ("gate.weight", "up.weight"),
    "weight_ih_l0": tuple(f"from_input.{gate}.weight" for gate in range(4)),
    "weight_hh_l0": tuple(f"from_hidden.{gate}.weight" for gate in range(4)),
    "bias_ih_l0": tuple(f"from_input.{gate}.bias" for gate in range(4)),
    "bias_hh_l0": tuple(f"from_hidden.{gate}.bias" for gate in range(4)),
}


def unfused(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters, or their gradients, by the plain model's names."""
    found = {}
    for name, value in parameters.items():
        end = next((end for end in FUSED if name.endswith(f".{end}")), "")
        parts = FUSED.get(end, ("",))
        for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
            found[name.removesuffix(end) + part] = piece
    return found


class PlainTraining:
    """A plain model, and the task loss after every segment, a step each."""

    def __init__(self, cfg: DictConfig, model: PlainModel) -> None:
        self.model = model
        self.recipe = cfg.recipe
        self.settings = cfg.model.objective
        self.optimizers = self.make_optimizers()

    def make_optimizers(self) -> list[torch.optim.AdamW]:
        return [self.adamw(self.model.parameters(), self.recipe.learning_rate)]

    def adamw(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.AdamW:
        decay = self.recipe.weight_decay
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, foreach=False, fused=False)

    def train(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Train on one window, (B, T), from an empty memory: the loss that the model's own objective gives back."""
        for logits, _ in self.segments(tokens):
            loss = task_loss(logits, targets)
            self.descend(self.optimizers[0], loss)
        return loss.detach()

    @torch.no_grad()
    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of one window of each lane, nats a character."""
        return task_loss(self.model(tokens), targets)

    def segments(self, tokens: Tensor) -> Iterator[tuple[Tensor, State]]:
        """Logits and state of each segment in turn; the next reads the state without gradient."""
        state, memory = self.model.initial_state(*tokens.shape), self.model.initial_memory(len(tokens))
        for _ in range(self.model.num_segments):
            logits, state, _ = self.model.segment(tokens, state, memory)
            yield logits, state
            state = tuple(each.detach() for each in state)

    def descend(self, optimizer: torch.optim.AdamW, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.recipe.gradient_clip, foreach=False)
        optimizer.step()


class LastSegment(PlainTraining):
    """The task loss after the last segment alone."""

    def train(self, tokens: Tensor, targets: Tensor) -> Tensor:
        *_, (logits, _) = self.segments(tokens)
        loss = task_loss(logits, targets)
        self.descend(self.optimizers[0], loss)
        return loss.detach()


class Dispersion(PlainTraining):
    """OACD on the body after every segment, then the task loss on the head, which reads the last states."""

    def make_optimizers(self) -> list[torch.optim.AdamW]:
        body = [parameter for name, parameter in self.model.named_parameters() if not name.startswith("head.")]
        return [
            self.adamw(body, self.settings.body_learning_rate),
            self.adamw(self.model.head.parameters(), self.settings.head_learning_rate),
        ]

    def train(self, tokens: Tensor, targets: Tensor) -> Tensor:
        body, head = self.optimizers
        for _, state in self.segments(tokens):
            computed = [level for level in state if level.requires_grad]
            self.descend(body, total([self.dispersion(level.flatten(0, 1)) for level in computed]))
        losses = []
        for _ in range(self.settings.head_steps):
            losses.append(task_loss(self.model.head(torch.cat(state, dim=-1).detach()), targets))
            self.descend(head, losses[-1])
        return losses[0].detach()

    def dispersion(self, vectors: Tensor) -> Tensor:
        """−‖z − c‖_F / n + λ·‖c‖² of (n, D) vectors."""
        centroid = vectors.mean(dim=0)
        spread = (vectors - centroid).pow(2).sum().sqrt()
        return self.settings.anchor_weight * centroid.pow(2).sum() - spread / len(vectors)


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean −log softmax(logits)[target], nats a character."""
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])
    return -chosen.mean()


TRAINING: dict[str, type[PlainTraining]] = {  # by the objective that each is the counterpart of
    "hrm_bench.objectives.DeepSupervision": PlainTraining,
    "hrm_bench.objectives.LastSegmentSupervision": LastSegment,
    "hrm_bench.objectives.OriginAnchoredDispersion": Dispersion,
}


def has_counterpart(cfg: DictConfig) -> bool:
    """Whether the config's model and objective are written plainly here."""
    return cfg.model._target_ in PLAIN and cfg.model.objective._target_ in TRAINING


def counterpart(cfg: DictConfig, parameters: Mapping[str, Tensor]) -> PlainTraining:
    """The plain model of a config and its training, beginning with copies of these parameters of ours."""
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg.model, resolve=True))
    model = PLAIN[cfg.model._target_](settings, window=cfg.data.window, rule=cfg.memory.rule)
    example = next(iter(parameters.values()))
    model.to(dtype=example.dtype, device=example.device).load_state_dict(unfused(parameters))
    return TRAINING[cfg.model.objective._target_](cfg, model)

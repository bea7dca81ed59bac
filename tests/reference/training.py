"""Training steps of the reference models: plain AdamW and clipping, one parameter after another.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .layers import Parameters
from .models import MODELS, Memories, Model, State, total


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean −log softmax(logits)[target], nats per character."""
    return -torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None]).mean()


def dispersion_loss(vectors: Tensor, anchor_weight: float) -> Tensor:
    """Return OACD of (n, D) vectors: −‖z − c‖_F / n + λ·‖c‖²."""
    centroid = vectors.mean(dim=0)
    spread = torch.sqrt(((vectors - centroid) ** 2).sum())
    return anchor_weight * (centroid**2).sum() - spread / len(vectors)


class DeepSupervision:
    """The task loss after every segment, one optimizer step each."""

    def __init__(self, model: Model, config: Mapping[str, Any]) -> None:
        """Take a reference model and the config that says how to train it."""
        self.model, self.recipe, self.objective = model, config["recipe"], config["model"]["objective"]
        self.rule = config["memory"]["rule"]
        self.optimizers = self.make_optimizers()

    def make_optimizers(self) -> list[torch.optim.AdamW]:
        return [self.adamw(self.model.parameters.values(), self.recipe["learning_rate"])]

    def adamw(self, parameters: Iterable[Tensor], rate: float) -> torch.optim.AdamW:
        decay = self.recipe["weight_decay"]
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, foreach=False, fused=False)

    def train(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Train on one window (B, T) after an empty memory; return the loss that the objective reports."""
        for logits, _ in self.segments(tokens):
            loss = task_loss(logits, targets)
            self.descend(self.optimizers[0], loss)
        return loss.detach()

    @torch.no_grad()
    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of one window per lane, nats per character."""
        self.model.training = False
        *_, (logits, _) = self.segments(tokens)
        self.model.training = True
        return task_loss(logits, targets)

    def segments(self, tokens: Tensor, memory: Memories | None = None) -> Iterator[tuple[Tensor, State]]:
        """Yield logits and state of each segment; the next one reads the state without gradient.

        The last one is written into ``memory``, by default an empty one.
        """
        model = self.model
        memory = model.initial_memory(len(tokens)) if memory is None else memory
        state = model.initial_state(*tokens.shape)
        for index in range(model.num_segments):
            logits, state = model.segment(tokens, state, memory, index)
            yield logits, state
            state = tuple(level.detach() for level in state)
        for part in memory:
            part.commit(self.rule)

    def descend(self, optimizer: torch.optim.AdamW, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.recipe["gradient_clip"], foreach=False)
        optimizer.step()


class LastSegmentSupervision(DeepSupervision):
    """The task loss after the last segment alone."""

    def train(self, tokens: Tensor, targets: Tensor) -> Tensor:
        *_, (logits, _) = self.segments(tokens)
        loss = task_loss(logits, targets)
        self.descend(self.optimizers[0], loss)
        return loss.detach()


class ThroughTime(DeepSupervision):
    """The mean task loss of all segments of some windows, one optimizer step for them."""

    def __init__(self, model: Model, config: Mapping[str, Any]) -> None:
        super().__init__(model, config)
        self.window, self.unroll = config["data"]["window"], config["memory"]["unroll"]

    def train(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Train on the windows of a sample (B, W·window); return the last one's loss."""
        memory = self.model.initial_memory(len(tokens))
        windows = list(zip(tokens.split(self.window, dim=1), targets.split(self.window, dim=1), strict=True))
        while windows:
            losses: list[Tensor] = []
            for some, following in windows[: self.unroll]:
                losses += [task_loss(logits, following) for logits, _ in self.segments(some, memory)]
            self.descend(self.optimizers[0], total(losses) / len(losses))
            for part in memory:
                part.detach()
            windows = windows[self.unroll :] if self.unroll else []
        return losses[-1].detach()


class OriginAnchoredDispersion(DeepSupervision):
    """OACD on the body after every segment, then the task loss on the head, which reads the last states."""

    def make_optimizers(self) -> list[torch.optim.AdamW]:
        parameters, rates = self.model.parameters.items(), self.objective
        body = [parameter for name, parameter in parameters if not name.startswith("head.")]
        head = [parameter for name, parameter in parameters if name.startswith("head.")]
        return [self.adamw(body, rates["body_learning_rate"]), self.adamw(head, rates["head_learning_rate"])]

    def train(self, tokens: Tensor, targets: Tensor) -> Tensor:
        body, head = self.optimizers
        for _, state in self.segments(tokens):
            computed = [level.flatten(0, 1) for level in state if level.requires_grad]
            self.descend(body, total([dispersion_loss(level, self.objective["anchor_weight"]) for level in computed]))
        losses = []
        for _ in range(self.objective["head_steps"]):
            losses.append(task_loss(self.model.head(torch.cat(state, dim=-1).detach()), targets))
            self.descend(head, losses[-1])
        return losses[0].detach()


OBJECTIVES: dict[str, type[DeepSupervision]] = {  # by a config's _target_
    "hrm_bench.objectives.DeepSupervision": DeepSupervision,
    "hrm_bench.objectives.LastSegmentSupervision": LastSegmentSupervision,
    "hrm_bench.objectives.OriginAnchoredDispersion": OriginAnchoredDispersion,
    "hrm_bench.objectives.ThroughTime": ThroughTime,
}


def has_reference(config: Mapping[str, Any]) -> bool:
    """Return whether a config's model and objective are implemented here."""
    return config["model"]["_target_"] in MODELS and config["model"]["objective"]["_target_"] in OBJECTIVES


def reference(config: Mapping[str, Any], parameters: Parameters) -> DeepSupervision:
    """Return a config's reference model in training, which starts from copies of the package's parameters."""
    copies = {name: parameter.detach().clone().requires_grad_() for name, parameter in parameters.items()}
    model = MODELS[config["model"]["_target_"]](config["model"], copies)
    model.how = config["memory"]
    return OBJECTIVES[config["model"]["objective"]["_target_"]](model, config)

"""The moving average of a cell's weights, which is scored and kept in their place."""

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """Lightning's average, left in the model from the start of a validation to the end of its epoch.

    So the best epoch's checkpoint contains the average; Lightning would restore the weights before it is saved. The
    first average is the weights after the first batch; after each batch, average = decay · average + (1 − decay) ·
    weights. Buffers are not averaged: metrics are sums, and rotary angles are constant.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay, use_buffers=False)
        self._is_in_model = False

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._is_in_model = True

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Do nothing: the average stays until the epoch's end."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._is_in_model:
            self._swap_models(pl_module)
            self._is_in_model = False
        super().on_train_epoch_end(trainer, pl_module)

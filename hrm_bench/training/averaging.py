"""The moving average of a cell's weights, which is scored and kept in their place."""

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """Lightning's, with the average left in the model from the start of a validation to the end of its epoch.

    So it is the average that is kept as the best epoch's weights: Lightning gives them back before those are saved. The
    first average is the weights after the first batch; after each batch, average = decay · average + (1 − decay) ·
    weights. No buffer is averaged: metrics are sums, and angles stay as they are.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay, use_buffers=False)
        self._is_in = False

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._is_in = True

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Nothing: the average stays until the epoch's end."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._is_in:
            self._swap_models(pl_module)
            self._is_in = False
        super().on_train_epoch_end(trainer, pl_module)

"""Control: a Tiny Recursive Model that is trained by HRM's one-step gradient instead of the gradient of a whole cycle.

It computes what ``TRM`` computes. Of the last cycle, only the last update of z and the update of y carry gradient. In
HRM it is the last update of each level (arXiv 2506.21734, section 2). TRM's paper (arXiv 2510.04871) compares the two.

Shapes: B lanes, T characters, D width.
"""

import torch
from torch import Tensor

from hrm_bench.models.trm import TRM


class OneStepTRM(TRM):
    """A TRM of which the last update of each state carries gradient."""

    def cycle(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answer and the latent after one more cycle, each (B, T, D)."""
        with torch.no_grad():
            for _ in range(self.config.num_latent_updates - 1):
                z = self.net(x + y + z)
        z = self.net(x + y + z)
        return self.net(y + z), z

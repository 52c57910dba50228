"""An LSTM that reads an image row by row, for ``large_batch_lstm.toml``: MNIST as 14 steps of 14 pixels."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

HIDDEN = 64


class Rows(nn.Module):
    """Of images (B, 1, height, width), averaged over 2 x 2 pixels, the rows through one LSTM."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width // 2, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of the last state."""
        _, (last, _) = self.lstm(avg_pool2d(images, 2).squeeze(1))
        return self.head(last[-1])


def make(shape: tuple[int, ...], classes: int) -> Rows:
    """For images of one channel, ``shape`` (1, height, width)."""
    return Rows(shape[-1], classes)

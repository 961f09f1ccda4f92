"""The autoencoder that most published detectors of whole films share, for squares of S × S pixels.

That of Mao et al. (AE-U, MICCAI 2020) and Cai et al. (DDAD, MICCAI 2022), whose code agrees: four
strided convolutions, two dense layers to a code, and back. Shapes below for S = 64.
"""

from itertools import pairwise

from torch import Tensor, nn

from patchad.errors import RequestError


def check_side(side: int, name: str, halvings: int) -> None:
    """Refuse a square that cannot be halved as often as the network does (RequestError)."""
    if side % 2**halvings:
        raise RequestError(
            f"{name} halves its square {halvings} times, so {name}.side must be a multiple of "
            f"{2**halvings}; got {side}"
        )


class Encoder(nn.Module):
    """(N, C, S, S) → a code (N, ``code``)."""

    def __init__(
        self, side: int, code: int, channels: tuple[int, ...], hidden: int, inputs: int = 1
    ) -> None:
        super().__init__()
        sizes = (inputs, *channels)
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in zip(sizes, channels, strict=False)
            ),
            nn.Flatten(),  # 64 channels of 4 × 4
        )
        self.dense = nn.Sequential(
            nn.Linear(_flat(side, channels), hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, code),
        )

    def forward(self, squares: Tensor) -> Tensor:
        """The code of each square."""
        found: Tensor = self.dense(self.convolutions(squares))
        return found


class Decoder(nn.Module):
    """A code (N, ``code``) → (N, ``outputs``, S, S), linear at the end."""

    def __init__(
        self, side: int, code: int, channels: tuple[int, ...], hidden: int, outputs: int = 1
    ) -> None:
        super().__init__()
        self.shape = (channels[-1], side >> len(channels), side >> len(channels))
        self.dense = nn.Sequential(
            nn.Linear(code, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, _flat(side, channels)),
        )
        sizes = channels[::-1]
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()
                )
                for a, b in pairwise(sizes)
            ),
            nn.ConvTranspose2d(sizes[-1], outputs, 4, 2, 1, bias=False),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """The picture of each code."""
        found: Tensor = self.convolutions(self.dense(codes).unflatten(1, self.shape))
        return found


class Backbone(nn.Module):
    """Encoder and decoder: (N, 1, S, S) in [-1, 1] → (N, ``outputs``, S, S)."""

    def __init__(
        self, side: int, code: int, channels: tuple[int, ...], hidden: int, outputs: int = 1
    ) -> None:
        super().__init__()
        self.encoder = Encoder(side, code, channels, hidden)
        self.decoder = Decoder(side, code, channels, hidden, outputs)

    def forward(self, squares: Tensor) -> Tensor:
        """The reconstruction of each square."""
        found: Tensor = self.decoder(self.encoder(squares))
        return found


def _flat(side: int, channels: tuple[int, ...]) -> int:
    return channels[-1] * (side >> len(channels)) ** 2

"""What a fine-tuned model said of the reported records, kept beside it.

So that a further evaluation needs neither to encode again nor the model's checkpoints.
"""

import dataclasses
import zlib
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np

from ecgssl_jax.output_folder import whole_file

FILE = "logits.npz"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeptLogits:
    """Of one model.

    Attributes:
      rows: [n] int64, the records' places in their set, ascending.
      logits: [n, Y] float32, in the order of `rows`.
      step: the model's.
      records: that the model was trained on.
    """

    rows: np.ndarray
    logits: np.ndarray
    step: int
    records: int

    def write(self, folder: Path) -> None:
        """Whole or not at all.

        Raises:
          OSError: it cannot be written.
        """
        with whole_file(folder / FILE) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path, rows: np.ndarray) -> Self | None:
        """Of these rows alone; None where some are not kept, or nothing is intact."""
        try:
            with np.load(folder / FILE) as file:
                found = cls(
                    rows=file["rows"],
                    logits=file["logits"],
                    step=int(file["step"]),
                    records=int(file["records"]),
                )
        # What a cut or altered file may raise.
        except (OSError, ValueError, KeyError, EOFError, zlib.error, BadZipFile):
            return None
        return found.only(rows) if np.isin(rows, found.rows).all() else None

    def only(self, rows: np.ndarray) -> Self:
        """Of some of its rows."""
        place = np.searchsorted(self.rows, rows)
        return dataclasses.replace(self, rows=rows, logits=self.logits[place])

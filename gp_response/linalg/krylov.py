"""Block Lanczos for operators with very many rows, in little more memory than the basis itself.

Every image is orthogonalised against the whole basis, twice or more. Where the Krylov space ends for a direction, a fresh
random one takes its place, until the images of a whole fresh block vanish: then the operator has been seen completely. A
basis that is full goes on from its best Ritz vectors (thick restart: Wu & Simon 2000; Stewart 2001, "Krylov-Schur").
Golub & Underwood 1977 for the block form.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.errors import InputError, SolverError
from gp_response.linalg.krylov_file import load_state, save_state
from gp_response.linalg.orthonormal import append
from gp_response.linalg.recurrence import Recurrence, Ritz
from gp_response.linalg.rows import Rows

Product = Callable[[Tensor], Tensor]
STORAGE = (torch.float64, torch.float32, torch.bfloat16)
ROUNDING = 8.0  # of a product, in units of eps
SMALL = 4.0  # a direction this small is the product's rounding, in units of it
AGREE = 100.0  # times the rounding of a product: two runs of one operator differ by less
COUNTS = ("products", "draws", "restarts", "fresh", "complete")
INDEPENDENT = 1e-10  # of fresh random directions, which have length √n


class KrylovBasis:
    """Rows Q (m, n) and what is known of a symmetric A on them; see `Recurrence` for the small matrices.

    Args:
        product: v (n, t) -> A v, t at most `block`, of any shape-preserving precision.
        n: rows of A.
        rank: rows that A is multiplied with, k; `block` more are stored beside them.
        block: vectors a product.
        storage: of the rows. A is applied to what is stored.
        precision: of the vectors that the product is given; float64 for rows in float64, else float32.
        rounding: bound on `‖(product's error)‖ / (‖A‖ ‖v‖)`; 8 eps of the precision when None.
        budget: bytes for the rows; the rank is lowered to fit, and restarts take the place of rows.
        start: (n, <= block) instead of random vectors.
        seed: of all random vectors.
        device: where.

    Raises:
        InputError: an argument that cannot be used, or a budget too small for two blocks.
    """

    def __init__(
        self,
        product: Product,
        n: int,
        *,
        rank: int,
        block: int = 1,
        storage: torch.dtype = torch.float32,
        precision: torch.dtype | None = None,
        rounding: float | None = None,
        budget: int | float | None = None,
        start: Tensor | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        if storage not in STORAGE:
            raise InputError(f"storage={storage}; expected torch.float64, torch.float32 or torch.bfloat16")
        _require_positive(n=n, rank=rank, block=block)
        self.product, self.seed, self.block = product, seed, min(block, n)
        self.precision = precision or (storage if storage == torch.float64 else torch.float32)
        self.rank = min(n, _affordable(rank, self.block, n, storage, budget))
        self.rows = Rows(n, min(n, self.rank + self.block), dtype=storage, device=device)
        self.small = Recurrence.empty(rounding or ROUNDING * torch.finfo(self.precision).eps, device)
        self.products = self.draws = self.restarts = self.fresh = 0
        self.complete = False
        if start is not None:
            self._begin(start)

    @property
    def n(self) -> int:
        return self.rows.n

    @property
    def k(self) -> int:
        """Rows that have been multiplied."""
        return self.small.k

    @property
    def m(self) -> int:
        """Rows that are stored."""
        return self.small.m

    @property
    def smallest(self) -> float:
        """Sizes that are rounding."""
        return SMALL * self.small.rounding * self.small.scale

    def project(self, v: Tensor) -> Tensor:
        """`Q v` (m, t), float64, for v (n, t)."""
        return self.rows.project(v, self.m)

    def lift(self, low: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """`Qᵀ low` (n, t) for low (m, t), or (k, t) for the first rows alone."""
        return self.rows.lift(low, dtype)

    def ritz(self) -> Ritz:
        """Ritz values, the largest first, with bounds of their residuals."""
        return self.small.ritz()

    def step(self) -> None:
        """One product.

        Raises:
            SolverError: it is not finite, or A is not symmetric.
        """
        self._refill()
        w = min(self.block, self.m - self.k, self.rank - self.k)
        if w <= 0:
            self.complete = self.complete or self.m == self.k == self.n
            return
        image, new = self._image(self.rows.data[self.k : self.k + w]), max(0, self.m - self.k - self.fresh)
        size = self._size(image)
        self.small.scale = max(self.small.scale, size)
        found = append(
            self.rows, self.small.gram, image, smallest=self.smallest, most=min(w, self.rows.capacity - self.m)
        )
        self.small.add_image(found)
        self.products += w
        # Fresh rows stand last: where none but them were multiplied and nothing came of it, nothing is left to find.
        self.complete = self.k == self.n or (new == 0 and size <= self.smallest)
        self.fresh = 0

    def build(
        self,
        *,
        tolerance: float | None = None,
        wanted: int | None = None,
        most: int | None = None,
        progress: bool = False,
        checkpoint: Path | str | None = None,
    ) -> "KrylovBasis":
        """Fill the basis; with a tolerance, restart until the leading Ritz values are that good.

        Args:
            tolerance: on residuals, in units of the largest |Ritz value|. None stops when the basis is full.
            wanted: how many leading pairs (by |θ|) have to meet it; half the rank when None.
            most: vectors multiplied at most, over all runs.
            progress: show a bar.
            checkpoint: a folder that holds the state after every step. What lies there is gone on from.

        Raises:
            InputError: the checkpoint belongs to something else.
        """
        if checkpoint is not None:
            self._load(Path(checkpoint))
        most = most if most is not None else (self.rank if tolerance is None else 20 * self.rank)
        wanted = max(1, self.rank // 2) if wanted is None else wanted
        with tqdm(total=most, initial=self.products, desc="lanczos", disable=not progress, leave=False) as bar:
            while not self.complete and self.products < most:
                if self.k == self.rank:
                    if tolerance is None or self._good(tolerance, wanted):
                        break
                    self.restart(wanted + max(0, self.rank - self.block - wanted) // 2)
                before = self.products
                self.step()
                if checkpoint is not None:
                    self._save(Path(checkpoint))
                bar.update(self.products - before)
        return self

    def restart(self, keep: int) -> None:
        """Go on from the `keep` Ritz vectors of largest |θ|, which take the place of all k rows."""
        found = self.ritz()
        keep = max(1, min(keep, self.rank - self.block))
        at = found.values.abs().argsort(descending=True, stable=True)[:keep].sort().values
        values, turn = found.values[at], found.turn[:, at]
        self.small.restart(values, turn, *self.rows.rotate(turn, self.m))
        self.restarts += 1

    def _good(self, tolerance: float, wanted: int) -> bool:
        found = self.ritz()
        size = found.values.abs()
        at = size.argsort(descending=True, stable=True)[:wanted]
        return bool((found.residual[at] <= tolerance * size.max()).all())

    @property
    def _run(self) -> dict[str, Any]:
        """What a checkpoint has to agree with."""
        return {
            "n": self.n, "block": self.block, "storage": str(self.rows.data.dtype), "precision": str(self.precision),
            "seed": self.seed, "rounding": self.small.rounding,
        }  # fmt: skip

    def _save(self, folder: Path) -> None:
        counts = {name: int(getattr(self, name)) for name in COUNTS}
        save_state(folder, self.rows, self.small, self._run, counts)

    def _load(self, folder: Path) -> None:
        found = load_state(folder, self.rows, self._run)
        if found is not None:
            self.small, counts = found
            for name, value in counts.items():
                setattr(self, name, value)
            self._require_same(folder)

    def _require_same(self, folder: Path) -> None:
        """Raise InputError unless the first row has the image that the recurrence says: else it is another operator's."""
        if not self.k:
            return
        small = self.small
        seen = self.project(self._image(self.rows.data[:1]))[:, 0]
        off = float((seen - small.gram @ small.coupling[:, 0]).norm())
        stored = float(small.parts * small.left[0, 0]) ** 0.5
        if not off <= 2.0 * stored + AGREE * small.rounding * small.scale:
            raise InputError(
                f"the checkpoint in {folder} is of another operator (other data, parameters, prior or weights): images differ by "
                f"{off:.1e} of {small.scale:.1e}; give another folder"
            )

    def _image(self, rows: Tensor) -> Tensor:
        image = self.product(rows.T.to(self.precision))
        if image.shape != (self.n, len(rows)):
            raise InputError(f"a product of shape {tuple(image.shape)}; expected {(self.n, len(rows))}")
        return image.detach()

    def _size(self, image: Tensor) -> float:
        square = sum(image[at].double().square().sum(dim=0) for at in self.rows.slices(image.shape[1]))
        size = float(torch.as_tensor(square).max()) ** 0.5
        if not size < float("inf"):
            raise SolverError("a product with the operator holds NaN or inf; check the model's outputs on this data")
        return size

    def _begin(self, start: Tensor) -> None:
        if start.shape[0] != self.n or not 1 <= start.shape[1] <= self.block:
            raise InputError(f"start of shape {tuple(start.shape)}; expected ({self.n}, at most block={self.block})")
        size = self._size(start)
        found = append(self.rows, self.small.gram, start, smallest=INDEPENDENT * size, most=self.rows.capacity)
        self.small.add_rows(found.gram)

    def _refill(self) -> None:
        """Fresh random rows where fewer than a block wait to be multiplied."""
        waiting = self.m - self.k
        lack = min(self.block, self.rank - self.k) - waiting
        if lack <= 0:
            return
        into = self.rows.data[self.m : self.m + lack]
        for row in into:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.draws)
            row.copy_(torch.randn(self.n, generator=generator, dtype=torch.float32))
            self.draws += 1
        found = append(self.rows, self.small.gram, into.T, smallest=INDEPENDENT, most=lack)
        self.small.add_rows(found.gram)
        self.fresh += found.gram.shape[1]


def _require_positive(**given: int) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r}; expected a positive integer")


def _affordable(rank: int, block: int, n: int, storage: torch.dtype, budget: int | float | None) -> int:
    if budget is None:
        return rank
    fits = int(budget // (n * storage.itemsize)) - block
    if fits < min(n, 2 * block):
        raise InputError(
            f"budget={budget:.3g} bytes holds {fits + block} vectors of {n} numbers in {storage}; three blocks of {block} are "
            f"needed, {3 * block * n * storage.itemsize:.3g} bytes: raise it, or take a smaller block or bfloat16"
        )
    return min(rank, fits)


__all__ = ["KrylovBasis"]

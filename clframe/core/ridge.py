"""Ridge regression that takes rows in and out again in closed form, always in double precision.

With all rows X [n, d] and their one-hot targets Y [n, C], the weights are the minimum of
    |X W - Y|^2 + gamma |W|^2,     W = (A + gamma I)^-1 Q,     A = X^T X,     Q = X^T Y.
`RidgeMoments` keeps A and Q, so that rows come and go by addition. `RidgeInverse` keeps W and
R = (A + gamma I)^-1, as recursive least squares does: no solve, but rounding that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.options import check_above
from clframe.errors import DataError

BLOCK = 1024  # rows that the inverse form takes at once, at most
LEAST = 1e-6  # eigenvalue of I - X R X^T, below which an inverse has lost too many digits
NOISE = 100 * torch.finfo(torch.float64).eps  # of that eigenvalue, for rows of norm and gamma 1
FOREIGN = "the rows to be taken out were never put in, or not so often: nothing was changed."


class Ridge(nn.Module):
    """What both forms share; `weight` [d, C] is the solution. Buffers stay float64 whatever comes.

    Rows `x` are [m, d], and `y` their classes [m] or targets [m, C]; ranks bring all rows alike.
    """

    num: Tensor

    def __init__(self, num_features: int, num_classes: int, *, gamma: float = 0.1) -> None:
        super().__init__()
        check_above(0, gamma=gamma)
        self.gamma, self.num_classes = gamma, num_classes
        self.register_buffer("num", torch.zeros((), dtype=torch.long))

    def _targets(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        target = F.one_hot(y, self.num_classes) if y.dim() == 1 else y
        return x.double(), target.to(x.device, torch.float64)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Ridge:
        """Go where the module goes, without ever losing digits on the way."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, kept in before.items():
            moved = self._buffers[name]
            if kept is not None and moved is not None and moved.dtype != kept.dtype:
                self._buffers[name] = kept.to(moved.device)
        return self


class RidgeMoments(Ridge):
    """A ridge regression by its moments: exact to rounding after any number of comings and goings.

    Moments of disjoint rows add up, also over ranks.
    """

    gram: Tensor
    cross: Tensor

    def __init__(self, num_features: int, num_classes: int, *, gamma: float = 0.1) -> None:
        super().__init__(num_features, num_classes, gamma=gamma)
        gram = torch.zeros(num_features, num_features, dtype=torch.float64)
        self.register_buffer("gram", gram)
        self.register_buffer("cross", torch.zeros(num_features, num_classes, dtype=torch.float64))
        self._weight: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The solution [d, C], worked out when it is first asked for after a change."""
        if self._weight is None:
            with torch.inference_mode(False), torch.no_grad():
                self._weight = self._solved(self.gram, self.cross)
        return self._weight

    @torch.no_grad()
    def learn(self, x: Tensor, y: Tensor) -> None:
        x, target = self._targets(x, y)
        self.gram.addmm_(x.T, x)
        self.cross.addmm_(x.T, target)
        self.num += len(x)
        self._weight = None

    @torch.no_grad()
    def forget(self, x: Tensor, y: Tensor) -> None:
        """Take rows out again. Raises DataError where what is left is no sum of rows."""
        x, target = self._targets(x, y)
        gram, cross = self.gram - x.T @ x, self.cross - x.T @ target
        if int(self.num) < len(x):
            raise DataError(FOREIGN)
        self._weight = self._solved(gram, cross)
        self.gram.copy_(gram)
        self.cross.copy_(cross)
        self.num -= len(x)

    @torch.no_grad()
    def clear(self, classes: Iterable[int]) -> None:
        """Let nothing be left of classes without rows; without any row, nothing at all."""
        self.cross[:, list(classes)] = 0.0
        if not self.num:
            self.gram.zero_()
            self.cross.zero_()
        self._weight = None

    def _solved(self, gram: Tensor, cross: Tensor) -> Tensor:
        gram = gram.clone()
        gram.diagonal().add_(self.gamma)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if int(failed):
            raise DataError(FOREIGN)
        return torch.cholesky_solve(cross, factor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Ridge:
        self._weight = None  # it would stay where it is
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._weight = None


class RidgeInverse(Ridge):
    """A ridge regression by its inverse; it refuses what it cannot take out to enough digits.

    What `RidgeMoments` answers to rounding is here off by as much as rounding grew on the way:
    more with a small gamma, and where the rows to be taken out have nearly all of a direction.
    """

    inverse: Tensor
    weight: Tensor

    def __init__(self, num_features: int, num_classes: int, *, gamma: float = 0.1) -> None:
        super().__init__(num_features, num_classes, gamma=gamma)
        inverse = torch.eye(num_features, dtype=torch.float64) / gamma
        self.register_buffer("inverse", inverse)
        self.register_buffer("weight", torch.zeros(num_features, num_classes, dtype=torch.float64))

    @torch.no_grad()
    def learn(self, x: Tensor, y: Tensor) -> None:
        for rows, target in self._blocks(x, y):
            reach = rows @ self.inverse
            core = torch.eye(len(rows)).to(rows) + reach @ rows.T
            self.inverse -= reach.T @ torch.cholesky_solve(reach, torch.linalg.cholesky(core))
            self.inverse.copy_((self.inverse + self.inverse.T) / 2)
            self.weight += self.inverse @ rows.T @ (target - rows @ self.weight)
        self.num += len(x)

    @torch.no_grad()
    def forget(self, x: Tensor, y: Tensor) -> None:
        """Take rows out again.

        Raises DataError, and changes nothing, where they were never put in, or where I - X R X^T
        has an eigenvalue below `LEAST`, or no larger than the rounding that R has seen.
        """
        inverse, weight = self.inverse.clone(), self.weight.clone()
        if int(self.num) < len(x):
            raise DataError(FOREIGN)
        for rows, target in self._blocks(x, y):
            reach = rows @ inverse
            core = torch.eye(len(rows)).to(rows) - reach @ rows.T
            least = float(torch.linalg.eigvalsh(core)[0])
            limit = max(LEAST, NOISE * float(rows.square().sum()) / self.gamma)
            if not least > -limit:
                raise DataError(FOREIGN)
            if least < limit:
                raise DataError(
                    f"taking these rows out of an inverse would lose too many digits (an eigenvalue"
                    f" of {least:.1e}, below {limit:.0e}); keep moments, or give a larger gamma."
                )
            inverse += reach.T @ torch.cholesky_solve(reach, torch.linalg.cholesky(core))
            inverse = (inverse + inverse.T) / 2
            weight -= inverse @ rows.T @ (target - rows @ weight)
        self.inverse.copy_(inverse)
        self.weight.copy_(weight)
        self.num -= len(x)

    @torch.no_grad()
    def clear(self, classes: Iterable[int]) -> None:
        """Let nothing be left of classes without rows; without any row, nothing at all."""
        self.weight[:, list(classes)] = 0.0
        if not self.num:
            self.weight.zero_()
            self.inverse.copy_(torch.eye(len(self.inverse)) / self.gamma)

    def _blocks(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        x, target = self._targets(x, y)
        size = min(x.shape[1], BLOCK)
        return zip(x.split(size), target.split(size), strict=True)

"""Which updates of an experience are evaluated."""

from __future__ import annotations


def is_due(local: int, *, rho: int, dense: int, last: bool) -> bool:
    """Whether the `local`-th update (from 1) of an experience is evaluated.

    Updates 1, 1 + rho, 1 + 2 rho, ... and always the last; `dense` adds each of the first `dense`
    updates after the switch; rho 0 leaves the last alone (metrics.md section 1).
    """
    return last or local <= dense or (rho > 0 and (local - 1) % rho == 0)

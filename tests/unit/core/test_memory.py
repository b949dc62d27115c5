"""The archive: rows appended, kept, withdrawn, counted and restored."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from clframe.core.memory import Archive, Memory
from clframe.core.strategy import Strategy
from tests.unit.strategies.methods import experience


def filled(*uids: int) -> Archive:
    archive = Archive()
    uid = torch.tensor(uids)
    archive.append(uid=uid, code=(uid % 256).to(torch.uint8)[:, None].expand(-1, 3))
    return archive


def test_rows_are_kept_in_the_order_they_came_in() -> None:
    archive = filled(5, 3)
    assert len(Archive()) == 0 == Archive().num_bytes and Archive().forget(uids=torch.ones(1)) == 0
    archive.append(code=torch.full((1, 3), 9, dtype=torch.uint8), uid=torch.tensor([9]))
    assert archive.column("uid").tolist() == [5, 3, 9]
    assert archive.column("code").dtype == torch.uint8
    assert archive.num_bytes == 3 * 8 + 3 * 3
    archive.keep(torch.tensor([True, False, True]))
    assert archive.column("code").tolist() == [[5] * 3, [9] * 3]
    assert archive.forget(uids=torch.tensor([5, 77])) == 1 and len(archive) == 1


def test_rows_without_a_name_or_a_column_are_refused() -> None:
    with pytest.raises(AssertionError, match="uid"):
        Archive().append(code=torch.ones(2))
    with pytest.raises(AssertionError, match="appended"):
        filled(1).append(uid=torch.tensor([2]))


@pytest.mark.parametrize("there", [(), (1,), (1, 2, 3)])
def test_a_checkpoint_replaces_whatever_is_there(there: tuple[int, ...]) -> None:
    file = io.BytesIO()
    torch.save(nn.ModuleList([filled(7, 8)]).state_dict(), file)
    file.seek(0)
    again = nn.ModuleList([filled(*there) if there else Archive()])
    again.load_state_dict(torch.load(file, weights_only=True))
    (archive,) = again
    assert isinstance(archive, Archive) and archive.column("uid").tolist() == [7, 8]
    again.load_state_dict(nn.ModuleList([Archive()]).state_dict())
    assert len(archive) == 0 and not archive.state_dict()


def test_a_request_empties_every_kind_of_memory() -> None:
    strategy = Strategy()
    strategy.archive = filled(0, 1, 2)
    request = experience(1, [0])
    assert request.uids == (0,) and isinstance(strategy.archive, Memory)
    strategy.forget(request)
    assert strategy.archive.column("uid").tolist() == [1, 2]

"""I-LoRA: adapters, interpolation and consistency against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.experience import Batch
from clframe.core.net import Net, evaluating
from clframe.core.rng import clock
from clframe.errors import ConfigError
from clframe.strategies import ilora as plugin
from tests.unit.strategies.methods import build, experience, images, small_net, step


def vit(**more: Any) -> Net:
    """Two blocks of width 8 on 4 x 4 images."""
    torch.manual_seed(0)
    args = {"img_size": 4, "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2} | more
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=3, **args)
    return Net(backbone, 8, 4)


def make(**options: Any) -> Any:
    strategy = build("ilora", 4, vit(), **{"dropout": 0.0, "rank": 2, "capacity": 6} | options)
    strategy.prepare(experience(0, [0, 1]))
    return strategy


def later(strategy: Any, steps: int = 3, lr: float = 0.1) -> torch.optim.Optimizer:
    """Let it learn some batches and come to its second experience."""
    optimizer = torch.optim.SGD(strategy.trainable(), lr=lr)
    for number in range(1, steps + 1):
        step(strategy, optimizer, number, images(number))
    strategy.prepare(experience(1, [2, 3]))
    return optimizer


@pytest.mark.parametrize(("rate", "wanted"), [(0.25, 4.0), (0.99, 1.04)])
def test_interpolation(rate: float, wanted: float) -> None:
    slow, fast = torch.tensor([1.0]), torch.tensor([5.0])
    plugin.interpolate(iter([(slow, fast)]), rate)
    assert slow.item() == pytest.approx(wanted) and fast.item() == 5.0


def test_three_interpolations() -> None:
    slow, fast = torch.tensor([1.0]), torch.tensor([5.0])
    for _ in range(3):
        plugin.interpolate(iter([(slow, fast)]), 0.9)
    assert slow.item() == pytest.approx(2.084)


def test_factors_are_interpolated_not_products() -> None:
    slow, fast = [torch.tensor(1.0), torch.tensor(1.0)], [torch.tensor(3.0), torch.tensor(3.0)]
    plugin.interpolate(zip(slow, fast, strict=True), 0.5)
    assert slow[0] * slow[1] == 4  # 5 between the products


def test_the_rate_rises_to_lambda() -> None:
    assert [round(plugin.kept(k, 0.99), 6) for k in (1, 2, 9, 99, 199)] == [
        *(0.5, 0.666667, 0.9, 0.99, 0.99)
    ]


def test_a_step_moves_the_slow_learner_towards_the_fast_one() -> None:
    """After one update slow has changed, by half the way, and interpolation has not moved fast."""
    strategy = make()
    before = [slow.clone() for slow, _ in strategy._pairs()]
    seen: list[Tensor] = []
    inner = strategy.after_step

    def after_step(batch: Batch) -> None:
        seen.extend(fast.detach().clone() for _, fast in strategy._pairs())
        inner(batch)

    strategy.after_step = after_step
    step(strategy, torch.optim.SGD(strategy.trainable(), lr=0.5), 1, images(1))
    rows = list(zip(before, strategy._pairs(), seen, strict=True))
    assert all(torch.equal(fast, there) for _, (_, fast), there in rows)
    for start, (slow, fast), _ in rows:
        torch.testing.assert_close(slow, (start + fast) / 2)
    assert any(not torch.equal(start, slow) for start, (slow, _), _ in rows)


@pytest.mark.parametrize(
    ("kind", "loss", "gradient"),
    [("plain", 1.666667, [-0.666667, 0, 1.333333]), ("one_sided", 0.333333, [-0.666667, 0, 0])],
)
def test_consistency(kind: str, loss: float, gradient: list[float]) -> None:
    strategy = make(consistency=kind)
    fast = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    slow = torch.tensor([[2.0, 2.0, 1.0]], requires_grad=True)
    value = strategy._apart(fast, slow.detach())
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6) and slow.grad is None
    assert fast.grad is not None and fast.grad[0].tolist() == pytest.approx(gradient, abs=1e-6)


def test_a_site_by_hand() -> None:
    inner = nn.Linear(2, 2, bias=False)
    site = plugin.Adapted(inner, [0], 1, rank=1, scale=2.0, p=0.0)
    with torch.no_grad():
        inner.weight.copy_(torch.eye(2))
        site.fast[0].copy_(torch.tensor([[[1.0, 1.0]]]))
        site.fast[1].copy_(torch.tensor([[[0.5], [0.0]]]))
    assert site(torch.tensor([[1.0, 2.0]])).tolist() == [[4.0, 2.0]]
    site.learner = "slow"
    assert site(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]


def test_at_first_both_learners_are_the_base() -> None:
    x = images(0).x
    base = vit().eval()(x)
    strategy = make(dropout=0.5).eval()
    for name, readout in strategy.readouts().items():
        assert torch.equal(readout(x, None), base), name
    strategy.after_batch(images(5))
    strategy.prepare(experience(1, [2, 3]))
    assert strategy.loss(images(1))["consistency"] == 0


@pytest.mark.parametrize(
    ("sites", "values"), [(("q", "k", "v", "proj"), 589_824), (("q", "v"), 294_912)]
)
def test_sizes_on_vit_b_16(sites: tuple[str, ...], values: int) -> None:
    with torch.device("meta"):
        backbone = timm.create_model("vit_base_patch16_224", num_classes=0)
    net = Net(nn.Identity(), 768, 2)
    net.backbone = backbone
    strategy = build("ilora", 2, net, sites=sites)
    adapters = {n: p.numel() for n, p in net.backbone.named_parameters() if p.requires_grad}
    assert sum(adapters.values()) == values
    assert all(".attn." in name and "patch_embed" not in name for name in adapters)
    assert len(strategy._adapted) == 12 * (1 + ("proj" in sites))


def test_an_adapter_of_q_leaves_k_and_v_alone() -> None:
    strategy = make(sites=["q"])
    layer = strategy.net.backbone.blocks[0].attn.qkv
    x = torch.randn(3, 5, 8)
    before = layer(x)
    with torch.no_grad():
        layer.fast[1].normal_()
    after = layer(x)
    assert torch.equal(before[..., 8:], after[..., 8:])
    assert not torch.equal(before[..., :8], after[..., :8])


def test_each_slice_is_a_lora_of_its_own() -> None:
    """Against three plain formulas, one per third of the fused layer."""
    inner = nn.Linear(4, 12)
    site = plugin.Adapted(inner, [0, 1, 2], 3, rank=2, scale=0.5, p=0.0)
    with torch.no_grad():
        site.fast[1].normal_()
    x = torch.randn(5, 7, 4)
    wanted = [
        F.linear(x, inner.weight[4 * i : 4 * i + 4], inner.bias[4 * i : 4 * i + 4])
        + 0.5 * x @ site.fast[0][i].T @ site.fast[1][i].T
        for i in range(3)
    ]
    torch.testing.assert_close(site(x), torch.cat(wanted, -1))


def test_the_mix_of_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """CE 0.9 on three rows, 0.5 on one replayed, consistency 0.2: 0.9, not the rows' mean 1.0."""
    strategy = make(replay_size=1)
    later(strategy, steps=1)
    values = iter([torch.tensor(0.9), torch.tensor(0.5)])
    monkeypatch.setitem(type(strategy).loss.__globals__, "cross_entropy", lambda *_: next(values))
    strategy._apart = lambda fast, slow: torch.tensor(0.2)
    batch = Batch(*(t[:3] for t in images(9)))
    assert sum(strategy.loss(batch).values()).item() == pytest.approx(0.9)


def test_replay_starts_with_the_second_experience() -> None:
    strategy = make()
    strategy.after_batch(images(1))
    assert list(strategy.loss(images(2))) == ["new"]
    later(strategy, steps=2)
    assert list(strategy.loss(images(3))) == ["new", "replay", "consistency"]


def test_without_gamma_the_slow_learner_is_not_asked() -> None:
    strategy = make(gamma=0.0, inference="fast")
    later(strategy)
    strategy._as = None  # whoever calls it fails
    assert list(strategy.loss(images(3))) == ["new", "replay"]
    assert list(make(inference="fast").readouts()) == ["fast", "slow"]


def test_the_consistency_term_is_what_it_says() -> None:
    strategy = make(gamma=2.0)
    later(strategy, lr=1.0)
    clock.set(0, 50)
    term = strategy.loss(images(3))["consistency"]
    clock.set(0, 50)
    old = strategy.memory.sample(6)
    assert old is not None
    with torch.no_grad(), evaluating(strategy.net):
        fast = strategy.net.features(old["x"])
        with strategy._as("slow"):
            slow = strategy.net.features(old["x"])
    torch.testing.assert_close(term, 2 * F.mse_loss(fast, slow))
    assert term > 0


def test_all_blocks_compares_every_blocks_tokens() -> None:
    strategy = make(embedding="all_blocks")
    features, states = strategy._embed(images(0).x, [6])
    assert states.shape == (6, 2, 5, 8) and features.shape == (6, 8)
    last = strategy.net.backbone.norm(states[:, -1])[:, 0]
    torch.testing.assert_close(last, features)
    later(strategy)
    assert strategy.loss(images(3))["consistency"] > 0
    fast, slow = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8)
    torch.testing.assert_close(strategy._apart(fast, slow), F.mse_loss(fast, slow))


def test_only_the_fast_learner_is_trained() -> None:
    strategy = make()
    names = {n for n, p in strategy.named_parameters() if p.requires_grad}
    assert {n.split(".")[-2] for n in names} == {"fast", "head"}
    base = {k: v.clone() for k, v in strategy.net.backbone.state_dict().items() if "fast" not in k}
    later(strategy)
    moved = {
        k for k, v in base.items() if not torch.equal(v, strategy.net.backbone.state_dict()[k])
    }
    assert moved and all(".slow." in name for name in moved)


def test_new_classes_start_alike_in_both_heads() -> None:
    net = vit()
    net = Net(net.backbone, 8, 4, growing=True)
    strategy = build("ilora", 4, net, dropout=0.0)
    strategy.prepare(experience(0, [0, 1]))
    later(strategy, lr=1.0)
    slow, fast = strategy.slow_head.weight, net.get_parameter("head.weight")
    assert not torch.equal(slow[:2], fast[:2]) and torch.equal(slow[2:], fast[2:])


def test_dropout_masks_are_one_draw_for_all_ranks() -> None:
    """Two halves of a batch, each told which rows it holds, see the masks of the whole."""
    site = plugin.Adapted(nn.Linear(4, 4), [0], 1, rank=2, scale=1.0, p=0.5).train()
    x = torch.ones(6, 3, 4)

    def dropped(rows: Tensor, shares: list[tuple[int, slice]]) -> Tensor:
        clock.set(0, 7)
        site.shares = shares
        return site._dropped(rows)

    whole = dropped(x, [(4, slice(0, 4)), (2, slice(0, 2))])
    first = dropped(x[:3], [(4, slice(0, 2)), (2, slice(0, 1))])
    second = dropped(x[:3], [(4, slice(2, 4)), (2, slice(1, 2))])
    assert torch.equal(whole[[0, 1, 4]], first) and torch.equal(whole[[2, 3, 5]], second)
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert dropped(x, [(9, slice(0, 9))]).shape == x.shape  # somebody else's forward


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sites": ["q", "o"]}, "sites: 'o' is unknown; choose from q, k, v, proj"),
        ({"sites": []}, "sites: '' is unknown"),
        ({"embedding": "cls"}, "embedding: 'cls' is unknown"),
        ({"inference": "both"}, "inference: 'both' is unknown; choose from slow, fast"),
        ({"rate": 1.0}, r"rate: 1.0 is not a share in \[0, 1\)"),
        ({"rank": 0}, "rank: 0 is out of range; give 1 or more"),
        ({"gamma": -1.0}, "gamma: -1.0 is out of range; give 0 or more"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**options)


def test_nets_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"net.name: ilora adapts .* use net.name=vit"):
        build("ilora", 4, small_net())
    frozen = vit()
    frozen.freeze()
    with pytest.raises(ConfigError, match=r"net\.freeze"):
        build("ilora", 4, frozen)

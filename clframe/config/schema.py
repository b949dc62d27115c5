"""What a run may be told: every key, its type, its default and what must hold between keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from clframe.config.part import Count, Part, Some
from clframe.config.requests import Request, Requests, read_requests
from clframe.errors import nearest

NETS = ("mlp", "cnn", "lenet", "vgg", "slim_resnet18", "resnet18_cifar", "vit")
Diagnostic = Literal["feature_drift", "gradient_norm", "decomposition"]


def _refuse(key: str, value: Any, message: str) -> PydanticCustomError:
    """A value that another one rules out; `message` ends in the way out."""
    facts = {"key": key, "value": value, "message": message}
    return PydanticCustomError("refused", "{message}", facts)


def _net_name(value: Any) -> Any:
    if isinstance(value, str) and value not in NETS and not re.fullmatch(r"timm:\S+", value):
        known = ", ".join(NETS)
        raise ValueError(f"expected one of {known}, or timm:NAME.{nearest(value, NETS)}")
    return value


def _subset(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not whole and value != "all":
        raise ValueError("expected a whole number of samples per experience, at least 1, or all")
    return value


def _precision(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Optim(Part):
    """The optimizer and its schedule; a strategy may bring its own."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    nesterov: bool = False
    reset: Literal["experience", "never"] = "experience"
    schedule: Literal["none", "cosine", "step", "linear"] = "none"
    warmup: Count = 0
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = []
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _cross(self) -> Optim:
        if self.nesterov and not self.momentum:
            raise _refuse(
                "optim.nesterov", True, "it needs momentum; set optim.momentum, such as 0.9"
            )
        if self.name == "adamw" and self.momentum:
            raise _refuse(
                "optim.momentum",
                self.momentum,
                "it belongs to sgd; remove it, or set optim.name=sgd",
            )
        if (self.schedule == "step") != bool(self.milestones):
            raise _refuse(
                "optim.milestones",
                self.milestones,
                "they go with optim.schedule=step; give both or neither",
            )
        if sorted(set(self.milestones)) != self.milestones:
            raise _refuse("optim.milestones", self.milestones, "they must rise; sort them")
        return self


class Pretrain(Part):
    """Supervised training of the whole network on the first experience, before the stream."""

    epochs: Some = 10
    batch_size: Annotated[int, Field(ge=3)] = 64
    optim: Optim = Optim()


class Net(Part):
    """The network: `timm:NAME` takes any timm model."""

    name: Annotated[str, BeforeValidator(_net_name)] = "mlp"
    pretrained: bool = False
    weights: str | None = None
    pretrain: Pretrain | None = None
    head: Literal["linear", "cosine"] = "linear"
    growing: bool = False
    freeze: bool = False
    batch_norm: Literal["sync", "local"] = "sync"
    augment: bool = False
    normalise: bool = True
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _cross(self) -> Net:
        if self.pretrained and not self.name.startswith("timm:"):
            raise _refuse(
                "net.pretrained",
                True,
                f"{self.name} has no weights to fetch; set net.name=timm:NAME, or pretrained=false",
            )
        given = [k for k in ("pretrained", "weights", "pretrain") if getattr(self, k)]
        if len(given) > 1:
            message = f"net.{given[0]} excludes it; remove one of them"
            raise _refuse(f"net.{given[1]}", getattr(self, given[1]), message)
        return self


class Eval(Part):
    """Which samples are evaluated, and after which updates."""

    subset: Annotated[int | str, BeforeValidator(_subset)] = 250
    rho: Count = 1
    dense: Count = 0
    split: Literal["test", "val"] = "test"
    diagnostics: list[Diagnostic] = []
    chunk: Some | None = None
    budget: Some | None = None
    mode: Literal["auto", "plain", "bf16", "graph"] = "auto"


class Data(Part):
    """Where data sets lie; None searches the usual places."""

    root: str | None = None


class Track(Part):
    """Where results are shown besides the files of the run."""

    enabled: bool = True
    uri: str | None = None
    experiment: Annotated[str, Field(min_length=1)] = "clframe"


class RunConfig(Part):
    """Everything one run is told. `strategy` may be a chain, as in refresh+replay."""

    strategy: str
    scenario: str
    seed: Count = 0
    epochs: Some = 1
    batch_size: Some = 32
    devices: Some = 1
    num_nodes: Some = 1
    timeout: Annotated[float, Field(gt=0)] = 600.0
    memory: Literal["replicated", "sharded"] = "replicated"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Annotated[Literal["32", "bf16", "16", "64"], BeforeValidator(_precision)] = "32"
    clip: Annotated[float, Field(gt=0)] | None = None
    threads: Some = 1
    deterministic: bool = True
    checkpoint: Count = 200
    tune: bool = False
    options: dict[str, dict[str, Any]] = {}
    requests: Requests = None
    forget_data: bool = False  # whether a forget request that does not say hands over its data
    copies: bool = False  # keep the state before each forget request, as before-<position>.ckpt
    net: Net = Net()
    optim: Optim = Optim()
    eval: Eval = Eval()
    data: Data = Data()
    track: Track = Track()

    @model_validator(mode="after")
    def _cross(self) -> RunConfig:
        if self.tune and self.eval.split == "test":
            raise _refuse(
                "eval.split",
                "test",
                "tune=true chooses hyper-parameters and must not look at the test set; "
                "set eval.split=val",
            )
        if self.precision == "16" and self.accelerator == "cpu":
            raise _refuse("precision", "16", "it needs a GPU; set precision=bf16 or precision=32")
        if self.batch_size < self.world:
            devices = "devices" if self.num_nodes == 1 else "devices x num_nodes"
            message = f"all devices share it; raise it to at least {devices}"
            raise _refuse("batch_size", self.batch_size, message)
        return self

    @property
    def world(self) -> int:
        """How many processes train together."""
        return self.devices * self.num_nodes

    def request_list(self) -> list[Request] | None:
        """`requests` in its long form, whichever way it was written: U0 forgets task 0."""
        return read_requests(self.requests, data=self.forget_data)


def keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every key in dotted form, parents included: `optim`, `optim.name`, ..."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        found.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += keys(kind, f"{prefix}{name}.")
    return found

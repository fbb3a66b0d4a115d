"""What the registry holds: ours, `torch.optim`'s, pytorch-optimizer's, and what no library has."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from seqmix.optim import catalogue
from seqmix.optim.angular_muown import AngularMuown
from seqmix.optim.anti_pgd import AntiPGD
from seqmix.optim.fractional_pgd import FractionalPGD
from seqmix.optim.lmo import LMO
from seqmix.optim.muown import Muown
from seqmix.optim.ngn import NGN, NGNM
from seqmix.optim.ngn_d import NGND
from seqmix.optim.ngn_md import NGNMDv1
from seqmix.optim.registry import list_optimizers, register_optimizer
from seqmix.optim.signum import Signum
from seqmix.optim.tied_adam import TiedAdam

__all__ = ["adamw"]


def adamw(
    params: list[dict[str, Any]],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    fused: bool | None = None,
) -> Optimizer:
    """`torch.optim.AdamW`, fused where every parameter allows it, without decay unless asked."""
    if fused is None:
        tensors = [p for group in params for p in group["params"]]
        fused = all(type(p) in (nn.Parameter, torch.Tensor) and p.is_floating_point() for p in tensors)
    optimizer = torch.optim.AdamW(
        params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, fused=fused
    )
    # The fused step would undo a gradient scaler's factor itself, after clipping: mixed precision under Lightning then
    # refuses to clip. Without this it is undone before, as for any other optimizer.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


_OURS: tuple[tuple[str, type[Optimizer], str, str, dict[str, Any]], ...] = (
    ("ngn", NGN, "Step length from the loss; no learning rate diverges on a convex problem.", "2407.04358", {}),
    ("ngn-m", NGNM, "NGN with heavy-ball momentum.", "2508.15071", {}),
    ("ngn-d", NGND, "NGN with a step length for every coordinate.", "2508.15071", {}),
    ("ngn-md", NGNMDv1, "NGN in Adam's metric with momentum: wide range of rates.", "2508.15071", {}),
    ("tied-adam", TiedAdam, "Adam with one beta, kept as mean and variance.", "2505.21829", {}),
    ("signum", Signum, "Sign of the averaged gradient.", "1802.04434", {}),
    ("lmo", LMO, "Steps of fixed length in a norm; by default normalised SGD.", "2502.07529", {}),
    (
        "lmo-spectral",
        LMO,
        "Orthogonal factor of the averaged gradient, of spectral norm 1.",
        "2502.07529",
        {"takes": "matrices", "defaults": {"norm": "spectral"}},
    ),
    ("muown", Muown, "Muon on row directions, Adam on row lengths.", "2605.10797", {"takes": "matrices"}),
    ("angular-muown", AngularMuown, "Muown with unit rows and a decay of angles.", "2606.23637", {"takes": "matrices"}),
    ("anti-pgd", AntiPGD, "Anticorrelated noise: prefers flat minima.", "2202.02831", {"takes": "optimizer"}),
    ("fractional-pgd", FractionalPGD, "Noise of fractional Brownian motion.", "2209.09162", {"takes": "optimizer"}),
)


def _register_ours() -> None:
    for name, constructor, text, source, fields in _OURS:
        needs = "the loss" if name.startswith("ngn") else ""
        register_optimizer(name, constructor, description=text, source=source, needs=needs, **fields)


def _register_libraries() -> None:
    register_optimizer(
        "adamw", adamw, description="Adam with decoupled weight decay, fused.", source="1711.05101", library="torch"
    )
    for kind, text in catalogue.TORCH.items():
        takes = "list" if kind in catalogue.FREE_OF_GROUPS else "matrices" if kind in catalogue.MATRICES else "any"
        # Moonlight's scale: one learning rate serves the matrices and AdamW
        defaults = {"adjust_lr_fn": "match_rms_adamw"} if kind == "Muon" else {}
        needs = catalogue.NEEDS.get(kind, "")
        fields: dict[str, Any] = {"library": "torch", "takes": takes, "needs": needs, "defaults": defaults}
        register_optimizer(kind.lower(), f"torch.optim:{kind}", description=text, **fields)
    register_optimizer(
        "muon-original",
        "torch.optim:Muon",
        description="Muon as published: its own scale of steps, which AdamW's rates do not fit.",
        library="torch",
        takes="matrices",
        defaults={"adjust_lr_fn": "original"},
    )
    for kind, text in catalogue.LIBRARY.items():
        name = f"po-{kind.lower()}" if kind.lower() in list_optimizers() else kind.lower()
        if kind in catalogue.UNFIT:
            reason = f"pytorch_optimizer.{kind} cannot be made by name: {catalogue.UNFIT[kind]}"
            register_optimizer(name, reason, description=text, library="none")
            continue
        fields = {"library": "pytorch-optimizer", "needs": catalogue.NEEDS.get(kind, "")}
        fields["divides_by_rate"] = kind in catalogue.DIVIDES
        where = "seqmix.optim.closures" if kind in catalogue.ADAPTED else "pytorch_optimizer.optimizer"
        if kind in catalogue.WRAPPERS:
            fields["takes"] = "optimizer"
        elif kind == "AdamMini":
            fields["takes"] = "model"
        elif kind in catalogue.MATRICES:
            fields |= {"takes": "matrices", "group": {} if kind == "SpectralSphere" else {"use_muon": True}}
            fields["defaults"] = {} if kind == "SpectralSphere" else {"use_adjusted_lr": True}
        register_optimizer(name, f"{where}:{kind}", description=text, **fields)
    for name, text in catalogue.ABSENT.items():
        register_optimizer(name, "it is in no library that seqmix uses", description=text, library="none")


_register_ours()
_register_libraries()

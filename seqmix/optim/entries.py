"""What the registry holds: ours, `torch.optim`'s, pytorch-optimizer's, what no library has. Imports none of them."""

from typing import Any

from seqmix.optim import catalogue
from seqmix.optim.registry import list_optimizers, register_optimizer

_OURS: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    ("ngn", "ngn:NGN", "Step length from the loss; no learning rate diverges on a convex problem.", "2407.04358", {}),
    ("ngn-m", "ngn:NGNM", "NGN with heavy-ball momentum.", "2508.15071", {}),
    ("ngn-d", "ngn_d:NGND", "NGN with a step length for every coordinate.", "2508.15071", {}),
    ("ngn-md", "ngn_md:NGNMDv1", "NGN in Adam's metric with momentum: wide range of rates.", "2508.15071", {}),
    ("tied-adam", "tied_adam:TiedAdam", "Adam with one beta, kept as mean and variance.", "2505.21829", {}),
    ("signum", "signum:Signum", "Sign of the averaged gradient.", "1802.04434", {}),
    ("lmo", "lmo:LMO", "Steps of fixed length in a norm; by default normalised SGD.", "2502.07529", {}),
    (
        "lmo-spectral",
        "lmo:LMO",
        "Orthogonal factor of the averaged gradient, of spectral norm 1.",
        "2502.07529",
        {"takes": "matrices", "defaults": {"norm": "spectral"}},
    ),
    ("muown", "muown:Muown", "Muon on row directions, Adam on row lengths.", "2605.10797", {"takes": "matrices"}),
    (
        "angular-muown",
        "angular_muown:AngularMuown",
        "Muown with unit rows and a decay of angles.",
        "2606.23637",
        {"takes": "matrices"},
    ),
    (
        "anti-pgd",
        "anti_pgd:AntiPGD",
        "Anticorrelated noise: prefers flat minima.",
        "2202.02831",
        {"takes": "optimizer"},
    ),
    (
        "fractional-pgd",
        "fractional_pgd:FractionalPGD",
        "Noise of fractional Brownian motion.",
        "2209.09162",
        {"takes": "optimizer"},
    ),
    (
        "layer-noise",
        "layer_noise:LayerNoise",
        "Noise in one layer at a time, in turn: flat minima of wide nets.",
        "2206.04613",
        {"takes": "optimizer"},
    ),
)


def _register_ours() -> None:
    for name, where, text, source, fields in _OURS:
        needs = "the loss" if name.startswith("ngn") else ""
        register_optimizer(name, f"seqmix.optim.{where}", description=text, source=source, needs=needs, **fields)


def _register_libraries() -> None:
    register_optimizer(
        "adamw",
        "seqmix.optim.fused_adamw:adamw",
        description="Adam with decoupled weight decay, fused.",
        source="1711.05101",
        library="torch",
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

"""A model that does something other than its classes say is refused by the name of the part."""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

from seqmix import BDLRU, HLRU, SequenceModel
from seqmix.inspect import certify, verify
from seqmix.inspect.certificates.as_built import check_as_built
from seqmix.inspect.certificates.network import Network
from seqmix.mixers import TokenMixer
from seqmix.tasks import WordProblemExamples
from tests.inspect.test_certify import word_problem


def plain(mixer: Any = "bd-lru", **options: Any) -> SequenceModel:
    return SequenceModel(mixer, 3, 8, 2, **options)


class Louder(BDLRU):
    def mix(self, x: Any, state: Any, cu_seqlens: Any) -> Any:
        y, state = super().mix(x, state, cu_seqlens)
        return 2 * y, state


class Louder8(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Weight(torch.Tensor):
    """Says nothing new, but could."""


def other(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("never run")


def _set(part: str, name: str, value: Any) -> Callable[[SequenceModel], None]:
    def change(model: SequenceModel) -> None:
        setattr(model.get_submodule(part), name, value)

    return change


def _class(part: str, kind: type) -> Callable[[SequenceModel], None]:
    def change(model: SequenceModel) -> None:
        model.get_submodule(part).__class__ = kind  # type: ignore[assignment]

    return change


class Model(SequenceModel):
    pass


CHANGES: dict[str, Callable[[SequenceModel], Any]] = {
    "blocks.0.mixer._forward_hooks": lambda m: m.blocks[0].mixer.register_forward_hook(other),
    "blocks.1.mixer.proj_v._forward_pre_hooks": lambda m: m.blocks[1].mixer.proj_v.register_forward_pre_hook(other),
    "blocks.1._forward_hooks": lambda m: m.blocks[1].register_forward_hook(other, with_kwargs=True),
    "norm._backward_hooks": lambda m: m.norm.register_full_backward_hook(other),
    "_forward_hooks": lambda m: m.register_forward_hook(other),
    "head._state_dict_hooks": lambda m: m.head.register_state_dict_post_hook(other),
    "blocks.0.mixer.mix": _set("blocks.0.mixer", "mix", other),
    "blocks.0.mixer.logits": _set("blocks.0.mixer", "logits", other),
    "blocks.0.mixer.init_state": _set("blocks.0.mixer", "init_state", other),
    "blocks.0.mixer.proj_out.forward": _set("blocks.0.mixer.proj_out", "forward", other),
    "features": _set("", "features", other),
    "the model's own sizes do not build one: BDLRU: normalization": _set("blocks.0.mixer", "normalization", "none"),
    "blocks.0.mixer.n_blocks": _set("blocks.0.mixer", "n_blocks", 1),
    "embedding.max_norm": _set("embedding", "max_norm", 0.5),
    "embedding.padding_idx": _set("embedding", "padding_idx", 0),
    "blocks.0.mixer_norm.normalized_shape": _set("blocks.0.mixer_norm", "normalized_shape", (4, 2)),
    "dropout": _set("", "dropout", Twice()),
    "blocks.1.dropout": _set("blocks.1", "dropout", Twice()),
    "blocks.1.dropout.p": _set("blocks.1.dropout", "p", 0.5),
    "blocks.0.extra": _set("blocks.0", "extra", Twice()),
    "the model's own sizes do not build one: .* got 3": lambda m: m.blocks.append(m.blocks[0]),
    "blocks.1.mlp": _set("blocks.1", "mlp", None),
    "blocks.0.mixer": _class("blocks.0.mixer", Louder),
    "head": _class("head", Louder8),
    "the model": _class("", Model),
    "head.weight": lambda m: m.head.register_parameter("weight", nn.Parameter(m.head.weight.data.as_subclass(Weight))),
    "blocks.0.mixer.proj_v": lambda m: register_parametrization(m.blocks[0].mixer.proj_v, "weight", Twice()),
    "blocks.0.mixer.proj_out.": lambda m: prune.l1_unstructured(m.blocks[0].mixer.proj_out, "weight", 0.5),
    "norm._buffers": lambda m: m.norm.register_buffer("buffer", torch.ones(1)),
    "blocks.0.mixer._compiled_call_impl": _set("blocks.0.mixer", "_compiled_call_impl", other),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_refused_by_name(name: str) -> None:
    model = plain()
    CHANGES[name](model)
    with pytest.raises((NotImplementedError, ValueError), match=f"^certify: (layer 0 is Louder|{name})"):
        Network.of(model)


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        *(
            ({"name": "bd-lru", "normalization": n}, f"layer 0: .* BDLRU with .*'{n}'")
            for n in ("sigmoid", "relu", "tanh")
        ),
        *(({"name": "h-lru", "normalization": n}, f"layer 0: .* HLRU with .*'{n}'") for n in ("sigmoid", "l1", "tanh")),
        ({"name": "bd-lru", "selective": False}, "layer 0: gates must see the token, got selective=False"),
        ({"name": "h-lru", "selective": False}, "layer 0: gates must see the token"),
    ],
)
def test_gates_of_another_kind_are_refused_by_name(mixer: dict[str, Any], message: str) -> None:
    """Their hard networks may be those of softmax gates, but not how far they are from them."""
    with pytest.raises(NotImplementedError, match=f"^certify: {message}"):
        certify(plain(mixer), WordProblemExamples("Z2"))


@pytest.mark.parametrize("option", [{"norm": "batch"}, {"glu": True}, {"final_norm": False}], ids=str)
def test_another_block_is_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match=f"^certify: layer norms .* got .*{next(iter(option))}="):
        certify(plain(**option), WordProblemExamples("Z2"))


def test_linear_is_another_name_of_l1() -> None:
    Network.of(plain({"name": "bd-lru", "normalization": "linear"}))


def test_a_change_in_what_the_config_builds_is_refused() -> None:
    """Where the model's own mixer argument makes the change there is nothing to compare with but the class."""

    def build(d_model: int) -> BDLRU:
        layer = BDLRU(d_model)
        layer.mix = other  # type: ignore[method-assign]
        return layer

    with pytest.raises(NotImplementedError, match=r"blocks\.0\.mixer\.mix is not as SequenceModel makes it"):
        Network.of(plain(build))


@pytest.mark.parametrize(
    ("kind", "method", "instead"),
    [
        (BDLRU, "mix", other),
        (BDLRU, "logits", lambda self, x: -BDLRU.logits(self, x)),
        (BDLRU, "gates", BDLRU.logits),
        (BDLRU, "__call__", other),
        (BDLRU, "d_model", property(other)),
        (TokenMixer, "forward", HLRU.mix),
        (SequenceModel, "features", wraps(SequenceModel.features)(other)),
        (nn.Linear, "forward", other),
        (nn.Module, "_call_impl", other),
        (nn.LayerNorm, "__getattr__", other),
    ],
)
def test_a_method_of_a_class_that_was_replaced_is_refused(kind: Any, method: str, instead: Any) -> None:
    model = plain()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, instead, raising=False)
        with pytest.raises(NotImplementedError, match=rf"^certify: {kind.__name__}\.{method} is not as"):
            check_as_built(model)
    check_as_built(model)


@pytest.fixture
def global_hook() -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    yield
    handle.remove()


def test_hooks_on_all_modules_are_refused(global_hook: None) -> None:
    with pytest.raises(NotImplementedError, match="_global_forward_hooks"):
        Network.of(plain())


def test_certify_and_verify_both_refuse() -> None:
    model, task = word_problem("Z2")
    held = certify(model, task)
    assert held.certified
    model.blocks[0].mixer.register_forward_hook(lambda module, args, output: (-output[0], output[1]))
    for look in (lambda: certify(model, task), lambda: verify(held, model, task)):
        with pytest.raises(NotImplementedError, match=r"blocks\.0\.mixer\._forward_hooks"):
            look()


def test_what_classes_build_is_not_refused() -> None:
    for model in (
        plain(mlp_ratio=0, tie_embeddings=True),
        plain(partial(BDLRU, block_size=2, normalization="l1"), dropout=0.1),
        plain([{"name": "h-lru", "order": 3}, "bd-lru"]).double().train(),
        plain(activation_checkpointing=True),
    ):
        Network.of(model)
    model = plain()
    model.norm.register_full_backward_hook(other).remove()
    Network.of(model)


def test_what_compiling_puts_on_modules_is_known() -> None:
    from torch._dynamo.mutation_guard import install_generation_tagging_init

    install_generation_tagging_init()
    check_as_built(plain())

"""Layers that take the place of ``torch.nn.ConvTranspose1d/2d/3d``."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import functional

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "replace"]

_Module = TypeVar("_Module", bound=nn.Module)


class _Forward:
    """What the three layers add to torch's: the forward that calls this package."""

    algorithm: str = "auto"
    """The functional's ``algorithm``; assign it on a layer to choose for that layer."""
    precision: str = "auto"
    """The functional's ``precision``; assign it on a layer to choose for that layer."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Transposed convolution of ``input``, ``(N, C_in, *positions)`` or ``(C_in, *positions)``.

        ``output_size`` picks one of the legal output sizes in place of the constructor's ``output_padding``.
        """
        if self.padding_mode != "zeros":
            raise ValueError(
                f"Only `zeros` padding mode is supported for {type(self).__name__}, but got {self.padding_mode!r}"
            )
        output_padding = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(
                input, output_size, self.stride, self.padding, self.kernel_size, self._rank, self.dilation
            )
        # Where the parameters are; through the layer's attributes it would be a microsecond more of host time.
        parameters = self._parameters
        return self._function(
            input,
            parameters["weight"] if "weight" in parameters else self.weight,  # noqa: SIM401 (get() would ask for both)
            parameters["bias"] if "bias" in parameters else self.bias,  # noqa: SIM401
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            algorithm=self.algorithm,
            precision=self.precision,
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        for name in ("algorithm", "precision"):
            if getattr(self, name) != "auto":
                text += f", {name}={getattr(self, name)}"
        return text


class ConvTranspose1d(_Forward, nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d`, computed by :func:`convt_gemm.functional.conv_transpose1d`.

    Same constructor, attributes and state_dict. ``algorithm`` and ``precision`` are attributes, ``"auto"`` by default.
    """

    _rank = 1
    _function = staticmethod(functional.conv_transpose1d)


class ConvTranspose2d(_Forward, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`, computed by :func:`convt_gemm.functional.conv_transpose2d`.

    Same constructor, attributes and state_dict. ``algorithm`` and ``precision`` are attributes, ``"auto"`` by default.
    """

    _rank = 2
    _function = staticmethod(functional.conv_transpose2d)


class ConvTranspose3d(_Forward, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d`, computed by :func:`convt_gemm.functional.conv_transpose3d`.

    Same constructor, attributes and state_dict. ``algorithm`` and ``precision`` are attributes, ``"auto"`` by default.
    """

    _rank = 3
    _function = staticmethod(functional.conv_transpose3d)


_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
}


def replace(model: _Module) -> _Module:
    """Makes every ``torch.nn.ConvTranspose1d/2d/3d`` in ``model`` compute with this package, in place.

    Only the class of each layer changes, so parameters, buffers, hooks, training mode, device, sharing, and both kinds
    of weight normalisation stay what they were. Subclasses of torch's layers are someone else's code and stay as they
    are, as does everything that is not a transposed convolution.

    Args:
        model: any module, also a ``ConvTranspose`` itself.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model to be a torch.nn.Module, but got {type(model).__name__}")
    for module in model.modules():
        cls = type(module)
        if cls in _REPLACEMENTS:
            module.__class__ = _REPLACEMENTS[cls]
        elif parametrize.is_parametrized(module) and len(cls.__bases__) == 1 and cls.__bases__[0] in _REPLACEMENTS:
            # torch gives each parametrized module a class of its own, with one property per parametrized tensor.
            own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(cls)(cls.__name__, (_REPLACEMENTS[cls.__bases__[0]],), own)
    return model

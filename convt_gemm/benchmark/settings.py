"""What is measured besides the problem: dtype, how float32 products are formed, memory format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
PRECISIONS = ("ieee", "tf32", "tf32x3")
LAYOUTS = ("channels_first", "channels_last")


class SettingError(ValueError):
    """A combination of options that cannot be measured."""


@dataclass(frozen=True)
class Setting:
    """One dtype with one precision, so that both sides always multiply alike."""

    dtype: torch.dtype
    precision: str

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def label(self) -> str:
        """``bfloat16``, or ``float32/tf32`` where the dtype leaves a choice."""
        return f"{self.dtype_name}/{self.precision}" if self.dtype == torch.float32 else self.dtype_name

    @property
    def arithmetic(self) -> str:
        """Key of the arithmetic ceiling: ``tf32``, ``tf32x3`` or the dtype's name."""
        return self.dtype_name if self.precision == "ieee" else self.precision

    @contextmanager
    def pytorch_flags(self) -> Iterator[None]:
        """PyTorch at its best for the setting: cuDNN searches, and uses TF32 only if the setting does."""
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False, allow_tf32=self.precision == "tf32"
        ):
            yield


def resolve_settings(dtypes: Sequence[str], precisions: Sequence[str], device: torch.device) -> tuple[Setting, ...]:
    """Every dtype with every precision it knows, ``auto`` replaced by what convt_gemm would take on the device.

    Raises:
        SettingError: a precision that the device or none of the dtypes has.
    """
    settings: list[Setting] = []
    for name in dtypes:
        dtype = DTYPES[name]
        for precision in precisions:
            if precision == "auto":
                settings.append(Setting(dtype, _automatic_precision(dtype, device)))
            elif precision == "ieee" or (dtype == torch.float32 and device.type == "cuda"):
                settings.append(Setting(dtype, precision))
            elif device.type != "cuda":
                raise SettingError(
                    f"precision: {precision} exists on CUDA only, got device {device}; expected auto or ieee"
                )
    if not settings:
        raise SettingError(f"precision: {', '.join(precisions)} exists for float32 only, got {', '.join(dtypes)}")
    return tuple(dict.fromkeys(settings))


def _automatic_precision(dtype: torch.dtype, device: torch.device) -> str:
    if dtype != torch.float32 or device.type != "cuda":
        return "ieee"
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "tf32x3"

"""PyTorch's own sample inputs for its transposed convolutions, run against ours."""

from __future__ import annotations

import pytest
import torch
from problems import FUNCTIONS

from convt_gemm.testing import assert_accurate

pytest.importorskip("expecttest", reason="torch.testing._internal needs it")

from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

# That import has frozen torch.backends' flags for the whole process; other tests set them.
torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OPS = {int(op.name[-2]): op for op in op_db if op.name.startswith("nn.functional.conv_transpose")}


def samples(rank, device, dtype, requires_grad=False):
    return OPS[rank].sample_inputs(device, dtype, requires_grad=requires_grad)


def test_all_three_are_there():
    assert sorted(OPS) == [1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_sample_inputs(rank, dtype, device):
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    count = 0
    for sample in samples(rank, device, dtype):
        mine = FUNCTIONS[rank](sample.input, *sample.args, **sample.kwargs)
        theirs = OPS[rank].op(sample.input, *sample.args, **sample.kwargs)
        assert (mine.shape, mine.dtype, mine.device) == (theirs.shape, theirs.dtype, theirs.device)
        if sample.input.dim() == rank + 1:
            mine, theirs = mine[None], theirs[None]
            sample.input = sample.input[None]
        precision = "tf32x3" if device == "cuda" and dtype == torch.float32 else "ieee"
        assert_accurate(mine, theirs, sample.input, *sample.args, precision=precision, **sample.kwargs)
        count += 1
    assert count >= 8


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_sample_gradients(rank, device):
    for sample in samples(rank, device, torch.float64, requires_grad=True):
        inputs = [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor)]
        gradients = [
            torch.autograd.grad(function(sample.input, *sample.args, **sample.kwargs).square().sum(), inputs)
            for function in (FUNCTIONS[rank], OPS[rank].op)
        ]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_error_inputs(rank, device):
    if OPS[rank].error_inputs_func is None:
        pytest.skip("this version of PyTorch has no error inputs for it")
    for error in OPS[rank].error_inputs(device):
        sample = error.sample_input
        with pytest.raises(error.error_type):
            FUNCTIONS[rank](sample.input, *sample.args, **sample.kwargs)

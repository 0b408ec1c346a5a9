"""cuDNN's attention is off within the calls of generation, and as before behind them."""

import threading

import pytest
from torch.backends import cuda

from mambaxray.modeling_mambaxray.generation.attention_kernels import attention_for_changing_shapes


@pytest.fixture(params=[True, False])
def before(request):
    enabled = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(request.param)
    yield request.param
    cuda.enable_cudnn_sdp(enabled)


def test_cudnn_is_off_inside_and_as_before_outside_also_after_an_error(before):
    others = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()
    inside = []

    def compute():
        with attention_for_changing_shapes():
            inside.append(cuda.cudnn_sdp_enabled())
            inside.append((cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()))
            raise KeyError

    with pytest.raises(KeyError):
        compute()
    assert inside == [False, others]
    assert cuda.cudnn_sdp_enabled() is before


def test_calls_that_overlap_in_threads_leave_it_as_before(before):
    """The first to begin is the first to end: what it restores must not be what the second found."""
    second_inside, first_done = threading.Event(), threading.Event()
    inside = []

    def second():
        with attention_for_changing_shapes():
            second_inside.set()
            first_done.wait(10)
            inside.append(cuda.cudnn_sdp_enabled())

    thread = threading.Thread(target=second)
    with attention_for_changing_shapes():
        thread.start()
        assert second_inside.wait(10)
    first_done.set()
    thread.join()
    assert inside == [False]
    assert cuda.cudnn_sdp_enabled() is before

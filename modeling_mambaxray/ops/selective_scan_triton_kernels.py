"""The GPU kernels of the `triton` selective scan. Importing this module needs triton.

A program is one warp. It works on one direction, one sample, a block of neighbouring channels and a segment of time,
and walks through the segment step by step. Each lane holds up to `STATES` states of one channel, in registers all the
way; `GROUPS` lanes share a channel with more. All tensors that change from step to step have one element per lane, so
nothing moves between lanes but the sums over channels (`_store_sums_over_channels`) and over the lanes of one channel,
and no shared memory is needed. What a step needs from far is loaded while the step before is computed.

Where few long sequences would leave a GPU idle, the sequence is cut into segments, which are scanned at the same time:
`summarize` finds what a segment adds to the state and how much it decays, `carry` the state before each segment, and
`forward` starts from that. Going back it is the same with `summarize_backward` and `backward`.

Shapes: K directions, B batch, L length, D channels, N state. A pair is a direction and a sample. Strides are in
elements; the last axis of every tensor has stride 1.
"""

import math

import triton
import triton.language as tl

LANES = tl.constexpr(32)
_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _softplus_and_slope(x):
    """`log(1 + e^x)` and its derivative, without overflow."""
    z = tl.exp2(-tl.abs(x) * _LOG2_E)
    # log(1 + z) = 2 atanh(z / (2 + z)) by a polynomial of relative error 5e-9, so that small steps keep their digits.
    s = z / (2.0 + z)
    q = s * s
    log1p = 2.0 * s * (1.0 + q * (0.333332092 + q * (0.200107634 + q * (0.140009016 + q * 0.140059963))))
    return tl.maximum(x, 0.0) + log1p, tl.where(x > 0, 1.0, z) / (1.0 + z)


@triton.jit
def _zeros(STATES: tl.constexpr):
    values = ()
    for _ in tl.static_range(STATES):
        values = values + (tl.zeros([LANES], tl.float32),)
    return values


@triton.jit
def _load_weights(ptr, N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr):
    """`B` or `C` of one step: for each lane the weights of its states, in pieces of four that one instruction loads."""
    PIECE: tl.constexpr = min(STATES, 4)
    group = (tl.arange(0, LANES) % GROUPS) * STATES
    values = ()
    for first in tl.static_range(0, STATES, PIECE):
        index = group[:, None] + first + tl.arange(0, PIECE)[None, :]
        if STATES * GROUPS == N:
            piece = tl.load(ptr + index).to(tl.float32)
        else:
            piece = tl.load(ptr + index, mask=index < N, other=0.0).to(tl.float32)
        if PIECE == 4:
            even, odd = tl.split(tl.reshape(piece, [LANES, 2, 2]))
            first_even, last_even = tl.split(even)
            first_odd, last_odd = tl.split(odd)
            values = values + (first_even, first_odd, last_even, last_odd)
        elif PIECE == 2:
            even, odd = tl.split(piece)
            values = values + (even, odd)
        else:
            values = values + (tl.reshape(piece, [LANES]),)
    return values


@triton.jit
def _load_states(ptr, channels, mask, N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr):
    """States `(N, D)` of a block of channels: `ptr` points to the first state of each lane."""
    values = ()
    for n in tl.static_range(STATES):
        values = values + (tl.load(ptr + n * channels, mask=_present(mask, n, N, STATES, GROUPS), other=0.0),)
    return values


@triton.jit
def _store_states(ptr, values, channels, mask, N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr):
    for n in tl.static_range(STATES):
        tl.store(ptr + n * channels, values[n], mask=_present(mask, n, N, STATES, GROUPS))


@triton.jit
def _present(mask, n: tl.constexpr, N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr):
    """`mask` where each lane has an n-th state; the last lanes of a channel lack some where N is no power of two."""
    if STATES * GROUPS > N:
        mask = mask & ((tl.arange(0, LANES) % GROUPS) * STATES + n < N)
    return mask


@triton.jit
def _load_rates(A_ptr, mask, N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr):
    """`A log2(e)`, from `A (D, N)`; `A_ptr` points to the first state of each lane."""
    values = ()
    for n in tl.static_range(STATES):
        values = values + (tl.load(A_ptr + n, mask=_present(mask, n, N, STATES, GROUPS), other=0.0) * _LOG2_E,)
    return values


@triton.jit
def _advance(states, rates, step, v, B, STATES: tl.constexpr):
    """`h = exp(step A) h + v B`."""
    values = ()
    for n in tl.static_range(STATES):
        values = values + (tl.exp2(rates[n] * step) * states[n] + B[n] * v,)
    return values


@triton.jit
def _dot(a, b, STATES: tl.constexpr):
    """Sum over a lane's states."""
    total = a[0] * b[0]
    for n in tl.static_range(1, STATES):
        total += a[n] * b[n]
    return total


@triton.jit
def _sum_over_groups(x, GROUPS: tl.constexpr):
    """Sum over the lanes of each channel, in all of them."""
    for bit in tl.static_range(0, 5):
        if (1 << bit) < GROUPS:
            x += tl.gather(x, tl.arange(0, LANES) ^ (1 << bit), 0)
    return x


@triton.jit
def _exchange(values, LEFT: tl.constexpr, LANE: tl.constexpr):
    """Adds what the lane `LANE` away holds: of several values each keeps one half, and gives away the other."""
    lanes = tl.arange(0, LANES)
    if LEFT == 1:
        sums = (values[0] + tl.gather(values[0], lanes ^ LANE, 0),)
    else:
        upper = (lanes & LANE) != 0
        sums = ()
        for n in tl.static_range(LEFT // 2):
            kept = tl.where(upper, values[n + LEFT // 2], values[n])
            given = tl.where(upper, values[n], values[n + LEFT // 2])
            sums = sums + (kept + tl.gather(given, lanes ^ LANE, 0),)
    return sums


@triton.jit
def _store_sums_over_channels(ptr, values, mask, N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr):
    """Stores, `(N,)` at `ptr`, each state's sum over the lanes of all channels.

    Lanes exchange halves, so that `STATES` exchanges or a few more do, where summing one value after the other needs
    five each. In the end each lane has the sums of `LEFT` neighbouring states, as have the other lanes of its channel
    and its neighbours up to `SHARED` of them, of which one stores them.
    """
    for bit in tl.static_range(5):
        if (16 >> bit) >= GROUPS:
            values = _exchange(values, max(1, STATES >> bit), 16 >> bit)
    LEFT: tl.constexpr = max(1, STATES * GROUPS // LANES)
    SHARED: tl.constexpr = max(GROUPS, LANES // STATES)
    lanes = tl.arange(0, LANES)
    state = (lanes % GROUPS) * STATES + lanes // SHARED * LEFT
    for n in tl.static_range(LEFT):
        stores = mask & (lanes % SHARED < GROUPS)
        if STATES * GROUPS > N:
            stores = stores & (state + n < N)
        tl.store(ptr + state + n, values[n], mask=stores)


@triton.jit
def summarize(
    u_ptr, delta_ptr, A_ptr, B_ptr, bias_ptr, states_ptr, elapsed_ptr,
    batch, length, channels, segment,
    u_k, u_b, u_t, delta_k, delta_b, delta_t, B_k, B_b, B_t, states_segment,
    N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Scans each segment but the last from zero. Its last state goes to where the next segment's first one belongs,
    `states (segments, K, B, N, D)`, and the sum of its steps to `elapsed (segments, K, B, D)`.
    """
    CHANNELS: tl.constexpr = LANES // GROUPS
    lanes = tl.arange(0, LANES)
    columns = tl.program_id(0) * CHANNELS + lanes // GROUPS
    mask = columns < channels
    pair = tl.program_id(1).to(tl.int64)
    k, b = pair // batch, pair % batch
    piece = tl.program_id(2).to(tl.int64)
    first = piece * segment
    bias = tl.load(bias_ptr + k * channels + columns, mask=mask, other=0.0)
    states_offset = (lanes % GROUPS) * STATES
    rates = _load_rates(A_ptr + (k * channels + columns) * N + states_offset, mask, N, STATES, GROUPS)
    u_ptr += k * u_k + b * u_b + first * u_t + columns
    delta_ptr += k * delta_k + b * delta_b + first * delta_t + columns
    B_ptr += k * B_k + b * B_b + first * B_t
    states = _zeros(STATES)
    elapsed = tl.zeros([LANES], tl.float32)
    next_u = tl.load(u_ptr, mask=mask, other=0.0)
    next_delta = tl.load(delta_ptr, mask=mask, other=0.0)
    for t in range(segment):
        u, delta = next_u.to(tl.float32), next_delta.to(tl.float32)
        B = _load_weights(B_ptr, N, STATES, GROUPS)
        more = tl.where(t + 1 < segment, 1, 0)
        u_ptr += more * u_t
        delta_ptr += more * delta_t
        B_ptr += more * B_t
        next_u = tl.load(u_ptr, mask=mask, other=0.0)
        next_delta = tl.load(delta_ptr, mask=mask, other=0.0)
        step, _ = _softplus_and_slope(delta + bias)
        elapsed += step
        states = _advance(states, rates, step, step * u, B, STATES)
    pairs = tl.num_programs(1).to(tl.int64)
    cell = (pair * N + states_offset) * channels + columns
    _store_states(states_ptr + (piece + 1) * states_segment + cell, states, channels, mask, N, STATES, GROUPS)
    tl.store(elapsed_ptr + (piece * pairs + pair) * channels + columns, elapsed, mask=mask & (lanes % GROUPS == 0))


@triton.jit
def carry(
    states_ptr, elapsed_ptr, A_ptr, batch, channels, segments, states_segment,
    N: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Turns what each segment adds, from zero, into the states before the segments, or behind them going backwards.

    In place: `states (segments, K, B, N, D)` holds at s what segment s - 1 adds (going backwards s + 1), and zeros at
    the first (last).
    """
    pair = tl.program_id(1).to(tl.int64)
    pairs = tl.num_programs(1).to(tl.int64)
    cells = tl.program_id(0) * LANES + tl.arange(0, LANES)
    mask = cells < N * channels
    n, column = cells // channels, cells % channels
    rate = tl.load(A_ptr + (pair // batch * channels + column) * N + n, mask=mask, other=0.0) * _LOG2_E
    states_ptr += pair * N * channels + cells
    elapsed_ptr += pair * channels + column
    state = tl.zeros([LANES], tl.float32)
    for index in range(1, segments):
        here, before = index, index - 1
        if BACKWARD:
            here, before = segments - 1 - index, segments - index
        decay = tl.exp2(rate * tl.load(elapsed_ptr + before * (pairs * channels), mask=mask, other=0.0))
        place = states_ptr + here * states_segment
        state = decay * state + tl.load(place, mask=mask, other=0.0)
        tl.store(place, state, mask=mask)


@triton.jit
def forward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr, y_ptr, starts_ptr, first_ptr,
    batch, length, channels, segment,
    u_k, u_b, u_t, delta_k, delta_b, delta_t, B_k, B_b, B_t, C_k, C_b, C_t, first_segment,
    N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr,
    CHUNK: tl.constexpr, KEEP: tl.constexpr, SEGMENTED: tl.constexpr,
):  # fmt: skip
    """Fills `y (K, B, L, D)` and, where `KEEP`, the states before each chunk of time, `starts (chunks, K, B, N, D)`.

    Where `SEGMENTED`, the states before segment s are at `first + s * first_segment`, shaped `(K, B, N, D)`; the first
    segment begins from zero. A segment is a multiple of `CHUNK` long.
    """
    CHANNELS: tl.constexpr = LANES // GROUPS
    lanes = tl.arange(0, LANES)
    columns = tl.program_id(0) * CHANNELS + lanes // GROUPS
    mask = columns < channels
    stores = mask & (lanes % GROUPS == 0)
    pair = tl.program_id(1).to(tl.int64)
    k, b = pair // batch, pair % batch
    piece = tl.program_id(2).to(tl.int64)
    first = piece * segment
    count = tl.minimum(segment, length - first)
    bias = tl.load(bias_ptr + k * channels + columns, mask=mask, other=0.0)
    skip = tl.load(D_ptr + k * channels + columns, mask=mask, other=0.0)
    states_offset = (lanes % GROUPS) * STATES
    rates = _load_rates(A_ptr + (k * channels + columns) * N + states_offset, mask, N, STATES, GROUPS)
    cell = (pair * N + states_offset) * channels + columns
    per_chunk = tl.num_programs(1).to(tl.int64) * N * channels
    u_ptr += k * u_k + b * u_b + first * u_t + columns
    delta_ptr += k * delta_k + b * delta_b + first * delta_t + columns
    B_ptr += k * B_k + b * B_b + first * B_t
    C_ptr += k * C_k + b * C_b + first * C_t
    y_ptr += (pair * length + first) * channels + columns
    starts_ptr += first // CHUNK * per_chunk + cell
    states = _zeros(STATES)
    if SEGMENTED:
        before = mask & (piece > 0)
        states = _load_states(first_ptr + piece * first_segment + cell, channels, before, N, STATES, GROUPS)
    next_u = tl.load(u_ptr, mask=mask, other=0.0)
    next_delta = tl.load(delta_ptr, mask=mask, other=0.0)
    for t in range(count):
        u, delta = next_u.to(tl.float32), next_delta.to(tl.float32)
        B = _load_weights(B_ptr, N, STATES, GROUPS)
        C = _load_weights(C_ptr, N, STATES, GROUPS)
        more = tl.where(t + 1 < count, 1, 0)
        u_ptr += more * u_t
        delta_ptr += more * delta_t
        B_ptr += more * B_t
        C_ptr += more * C_t
        next_u = tl.load(u_ptr, mask=mask, other=0.0)
        next_delta = tl.load(delta_ptr, mask=mask, other=0.0)
        if KEEP and t % CHUNK == 0:
            _store_states(starts_ptr, states, channels, mask, N, STATES, GROUPS)
            starts_ptr += per_chunk
        step, _ = _softplus_and_slope(delta + bias)
        states = _advance(states, rates, step, step * u, B, STATES)
        y = _sum_over_groups(_dot(states, C, STATES), GROUPS) + skip * u
        tl.store(y_ptr, y.to(y_ptr.dtype.element_ty), mask=stores)
        y_ptr += channels


@triton.jit
def summarize_backward(
    grad_y_ptr, delta_ptr, A_ptr, C_ptr, bias_ptr, states_ptr, elapsed_ptr,
    batch, length, channels, segment,
    grad_y_k, grad_y_b, grad_y_t, delta_k, delta_b, delta_t, C_k, C_b, C_t, states_segment,
    N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """As `summarize`, for the state's gradient and backwards in time: each segment but the first, from zero behind it.
    What it hands to the segment before goes to that one's place in `states`.
    """
    CHANNELS: tl.constexpr = LANES // GROUPS
    lanes = tl.arange(0, LANES)
    columns = tl.program_id(0) * CHANNELS + lanes // GROUPS
    mask = columns < channels
    pair = tl.program_id(1).to(tl.int64)
    k, b = pair // batch, pair % batch
    piece = tl.program_id(2).to(tl.int64) + 1
    first = piece * segment
    count = tl.minimum(segment, length - first)
    last = first + count - 1
    bias = tl.load(bias_ptr + k * channels + columns, mask=mask, other=0.0)
    states_offset = (lanes % GROUPS) * STATES
    rates = _load_rates(A_ptr + (k * channels + columns) * N + states_offset, mask, N, STATES, GROUPS)
    grad_y_ptr += k * grad_y_k + b * grad_y_b + last * grad_y_t + columns
    delta_ptr += k * delta_k + b * delta_b + last * delta_t + columns
    C_ptr += k * C_k + b * C_b + last * C_t
    states = _zeros(STATES)
    elapsed = tl.zeros([LANES], tl.float32)
    next_grad_y = tl.load(grad_y_ptr, mask=mask, other=0.0)
    next_delta = tl.load(delta_ptr, mask=mask, other=0.0)
    for t in range(count):
        grad_y, delta = next_grad_y.to(tl.float32), next_delta.to(tl.float32)
        C = _load_weights(C_ptr, N, STATES, GROUPS)
        more = tl.where(t + 1 < count, 1, 0)
        grad_y_ptr -= more * grad_y_t
        delta_ptr -= more * delta_t
        C_ptr -= more * C_t
        next_grad_y = tl.load(grad_y_ptr, mask=mask, other=0.0)
        next_delta = tl.load(delta_ptr, mask=mask, other=0.0)
        step, _ = _softplus_and_slope(delta + bias)
        elapsed += step
        earlier = ()
        for n in tl.static_range(STATES):
            earlier = earlier + (tl.exp2(rates[n] * step) * (states[n] + C[n] * grad_y),)
        states = earlier
    pairs = tl.num_programs(1).to(tl.int64)
    cell = (pair * N + states_offset) * channels + columns
    _store_states(states_ptr + (piece - 1) * states_segment + cell, states, channels, mask, N, STATES, GROUPS)
    tl.store(elapsed_ptr + (piece * pairs + pair) * channels + columns, elapsed, mask=mask & (lanes % GROUPS == 0))


@triton.jit
def backward(
    grad_y_ptr, starts_ptr, u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr,
    grad_u_ptr, grad_delta_ptr, grad_A_ptr, grad_B_ptr, grad_C_ptr, grad_D_ptr, scratch_ptr, behind_ptr,
    batch, length, channels, segment,
    grad_y_k, grad_y_b, grad_y_t, u_k, u_b, u_t, delta_k, delta_b, delta_t, B_k, B_b, B_t, C_k, C_b, C_t,
    N: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr,
    CHUNK: tl.constexpr, PART: tl.constexpr, SEGMENTED: tl.constexpr,
):  # fmt: skip
    """Fills the gradients of `u` and `delta (K, B, L, D)`, and those of the others in float32 parts that remain to be
    summed: one part per segment and sample, `grad_A (segments, K, B, N, D)` and `grad_D (segments, K, B, D)`, or per
    block of channels, `grad_B` and `grad_C (blocks, K, B, L, N)`.

    Chunks are taken backwards. From the states before a chunk those before each of its parts are found and put aside
    (`scratch`, `CHUNK / PART` of them per program); then part after part is scanned again, its states kept in
    registers, and walked back. Where `SEGMENTED`, the state's gradient behind segment s is `behind[s] (K, B, N, D)`,
    and zero behind the last.
    """
    CHANNELS: tl.constexpr = LANES // GROUPS
    lanes = tl.arange(0, LANES)
    columns = tl.program_id(0) * CHANNELS + lanes // GROUPS
    mask = columns < channels
    stores = mask & (lanes % GROUPS == 0)
    pair = tl.program_id(1).to(tl.int64)
    pairs = tl.num_programs(1).to(tl.int64)
    k, b = pair // batch, pair % batch
    piece = tl.program_id(2).to(tl.int64)
    first = piece * segment
    end = tl.minimum(first + segment, length)
    bias = tl.load(bias_ptr + k * channels + columns, mask=mask, other=0.0)
    skip = tl.load(D_ptr + k * channels + columns, mask=mask, other=0.0)
    states_offset = (lanes % GROUPS) * STATES
    rates = _load_rates(A_ptr + (k * channels + columns) * N + states_offset, mask, N, STATES, GROUPS)
    cell = (pair * N + states_offset) * channels + columns
    per_chunk = pairs * N * channels
    starts_ptr += cell
    grad_y_ptr += k * grad_y_k + b * grad_y_b + columns
    u_ptr += k * u_k + b * u_b + columns
    delta_ptr += k * delta_k + b * delta_b + columns
    B_ptr += k * B_k + b * B_b
    C_ptr += k * C_k + b * C_b
    grad_u_ptr += pair * length * channels + columns
    grad_delta_ptr += pair * length * channels + columns
    part = (tl.program_id(0) * pairs + pair) * length * N
    grad_B_ptr += part
    grad_C_ptr += part
    program = (piece * pairs + pair) * tl.num_programs(0) + tl.program_id(0)
    scratch_ptr += program * (CHUNK // PART * STATES * LANES) + lanes
    adjoint = _zeros(STATES)
    if SEGMENTED:
        before_end = mask & (end < length)
        adjoint = _load_states(behind_ptr + piece * per_chunk + cell, channels, before_end, N, STATES, GROUPS)
    grad_A = _zeros(STATES)
    grad_D = tl.zeros([LANES], tl.float32)
    chunks = tl.cdiv(end - first, CHUNK)
    for index in range(chunks):
        chunk = first + (chunks - 1 - index) * CHUNK
        parts = tl.cdiv(tl.minimum(CHUNK, end - chunk), PART)
        # What was put aside for the chunk before has been read.
        tl.debug_barrier()
        states = _load_states(starts_ptr + chunk // CHUNK * per_chunk, channels, mask, N, STATES, GROUPS)
        _store_states(scratch_ptr, states, LANES, mask, N, STATES, GROUPS)
        for t in range(chunk, chunk + (parts - 1) * PART):
            u = tl.load(u_ptr + t * u_t, mask=mask, other=0.0).to(tl.float32)
            delta = tl.load(delta_ptr + t * delta_t, mask=mask, other=0.0).to(tl.float32)
            B = _load_weights(B_ptr + t * B_t, N, STATES, GROUPS)
            step, _ = _softplus_and_slope(delta + bias)
            states = _advance(states, rates, step, step * u, B, STATES)
            if (t - chunk) % PART == PART - 1:
                place = scratch_ptr + ((t - chunk) // PART + 1) * (STATES * LANES)
                _store_states(place, states, LANES, mask, N, STATES, GROUPS)
        tl.debug_barrier()
        for reverse in range(parts):
            number = parts - 1 - reverse
            start = chunk + number * PART
            states = _load_states(scratch_ptr + number * (STATES * LANES), LANES, mask, N, STATES, GROUPS)
            us, steps, slopes, history = (), (), (), (states,)
            for i in tl.static_range(PART):
                t = tl.minimum(start + i, end - 1)
                u = tl.load(u_ptr + t * u_t, mask=mask, other=0.0).to(tl.float32)
                delta = tl.load(delta_ptr + t * delta_t, mask=mask, other=0.0).to(tl.float32)
                B = _load_weights(B_ptr + t * B_t, N, STATES, GROUPS)
                step, slope = _softplus_and_slope(delta + bias)
                # Beyond the end no time passes.
                step = tl.where(start + i < end, step, 0.0)
                states = _advance(states, rates, step, step * u, B, STATES)
                us, steps, slopes, history = us + (u,), steps + (step,), slopes + (slope,), history + (states,)
            for i in tl.static_range(PART - 1, -1, -1):
                exists = start + i < end
                t = tl.minimum(start + i, end - 1)
                u, step, slope = us[i], steps[i], slopes[i]
                grad_y = tl.load(grad_y_ptr + t * grad_y_t, mask=mask & exists, other=0.0).to(tl.float32)
                B = _load_weights(B_ptr + t * B_t, N, STATES, GROUPS)
                C = _load_weights(C_ptr + t * C_t, N, STATES, GROUPS)
                # e_t = C_t dy_t + decay_{t+1} e_{t+1}; the carried product is the gradient of h_{t-1}.
                e, for_B, for_C, carried, sums = (), (), (), (), ()
                grad_step = tl.zeros([LANES], tl.float32)
                for n in tl.static_range(STATES):
                    here = adjoint[n] + C[n] * grad_y
                    earlier = tl.exp2(rates[n] * step) * here
                    exponent = earlier * history[i][n]
                    e = e + (here,)
                    for_B = for_B + (here * (step * u),)
                    for_C = for_C + (history[i + 1][n] * grad_y,)
                    carried = carried + (earlier,)
                    sums = sums + (grad_A[n] + exponent * step,)
                    grad_step += exponent * rates[n]
                grad_v = _sum_over_groups(_dot(e, B, STATES), GROUPS)
                grad_step = _sum_over_groups(grad_step, GROUPS) * (1.0 / _LOG2_E)
                adjoint, grad_A = carried, sums
                grad_D += grad_y * u
                grad_u = grad_v * step + skip * grad_y
                grad_delta = (grad_step + grad_v * u) * slope
                row = t * channels
                tl.store(grad_u_ptr + row, grad_u.to(grad_u_ptr.dtype.element_ty), mask=stores & exists)
                tl.store(grad_delta_ptr + row, grad_delta.to(grad_delta_ptr.dtype.element_ty), mask=stores & exists)
                _store_sums_over_channels(grad_B_ptr + t * N, for_B, exists, N, STATES, GROUPS)
                _store_sums_over_channels(grad_C_ptr + t * N, for_C, exists, N, STATES, GROUPS)
    place = piece * per_chunk + cell
    _store_states(grad_A_ptr + place, grad_A, channels, mask, N, STATES, GROUPS)
    tl.store(grad_D_ptr + (piece * pairs + pair) * channels + columns, grad_D, mask=stores)

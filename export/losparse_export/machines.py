"""What kinds of CPU take for things: constants that were measured once, and which of them a processor is like.

Those of AMX explain best what 80 probes of `planning.calibrate`, and the forms of layers at 16 to 1,024 tokens in 42
cases of fp32 and 40 of int8, took on one Xeon (onnxruntime 1.31.1, one thread; a multiply-add in fp32: 0.013 ns). The
core was shared, so they are rough: fitted on three quarters of the layers, the form they choose for the others takes
1.5 % longer than the best one in fp32 and 14 % in int8, on the average; with the constants of AVX2 it is 3.8 and 17 %.
Constants of the machine at hand are measured there in a minute (`--target measured`).
"""

from __future__ import annotations

from dataclasses import replace

from losparse_runtime.engine.cpus import CPU_AMX, CPU_AVX2, CPU_AVX512_VNNI

from .costs import Costs

# Measured with onnxruntime 1.31.1, CPU provider, one thread, Zen 3 (AVX2), at 16 to 1,024 tokens: a multiply-add takes
# about 0.026 ns there. The numbers are rough, and made to order forms that differ by much more than their error.
AVX2 = Costs(
    # 1.5 us.
    node=60_000.0,
    # 0.1 ns in cache, 0.4 ns outside.
    element=16.0,
    # Copied one float at a time: 7-8 ns each.
    gather=300.0,
    # Whole rows, a memcpy: 0.5 ns.
    move=21.0,
    # Without VNNI: u8 x s8 products are added in pairs.
    int8=0.47,
    # 0.44 and 0.22 ns.
    quantise=17.0,
    scale=9.0,
    # The kernels work on panels of 16 columns.
    panel=32,
    narrower=0.2,
    error=3.0,
)

# A multiply-add in int8 takes a tenth of one in fp32, and hundreds of them as long as one output of a product: width is
# the price.
AMX = Costs(
    node=29_300.0,
    element=39.5,
    gather=319.0,
    move=29.3,
    int8=0.10,
    quantise=24.9,
    scale=67.0,
    read=22.1,
    write=41.5,
    byte=1.3,
    start=25_500.0,
    panel=16,
    step=16,
    narrower=0.2,
    error=3.0,
)

# The same core with AMX hidden from onnxruntime: a 768 x 768 product in int8 took 0.36 ms in place of 0.21 at 128
# tokens, and fp32 as long. So everything but the multiply-add is taken from AMX; no other processor was measured.
AVX512_VNNI = replace(AMX, int8=0.26)

KINDS = {CPU_AVX2: AVX2, CPU_AVX512_VNNI: AVX512_VNNI, CPU_AMX: AMX}
"""What things cost by class of CPU, as the runtime names those; of other classes nobody measured it."""

# Whole models are planned best by the constants of AVX2, with AMX too: 12 x 768 at 1 x 128 takes 26 ms in int8 by them
# and 32 by those of AMX (structure foldable), 6 x 384 in fp32 at 8 x 128 62 and 68; at structure narrow both give the
# same times. What explains single layers better misses that queries and keys which are folded make attention narrow.
DEFAULT_KIND = CPU_AVX2

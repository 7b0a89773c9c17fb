# SPDX-License-Identifier: Apache-2.0
"""C++ functions for the products of a group of four warps (PTX `wgmma.mma_async`), one for each width in use.

They are written out here, for an instruction names each of up to 128 registers.
"""

from __future__ import annotations


def product_function(n: int, left_in_registers: bool = False, right_transposed: bool = False) -> str:
    """sums (64, n) ← left (64, 16) · right (16, n), plus sums where `more`; bfloat16, summed in float32.

    The function is `product_<n>`, with `_registers` where the left matrix lies in four registers a thread, and
    with `_transposed` where the rows of the right one, in shared memory, are what is summed over.

    Args:
        n: columns, a multiple of 8 up to 256.
        left_in_registers: whether left is given as registers; else both are `matrix_at`.
        right_transposed: see above.
    """
    count = n // 2
    name = f"product_{n}{'_registers' if left_in_registers else ''}{'_transposed' if right_transposed else ''}"
    sums = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(sums[{i}])' for i in range(count))
    transposed = int(right_transposed)
    if left_in_registers:
        parameter, left = "const u32 *left", "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}"
        inputs = ", ".join(f'"r"(left[{i}])' for i in range(4))
        right, more, flags = f"%{count + 4}", f"%{count + 5}", f"1, 1, {transposed}"
    else:
        parameter, left, inputs = "u64 left", f"%{count}", '"l"(left)'
        right, more, flags = f"%{count + 1}", f"%{count + 2}", f"1, 1, 0, {transposed}"
    return f"""
__device__ __forceinline__ void {name}(float (&sums)[{count}], {parameter}, u64 right, int more) {{
    asm volatile("{{ .reg .pred p; setp.ne.b32 p, {more}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{sums}}}, {left}, {right}, p, {flags}; }}"
        : {outputs} : {inputs}, "l"(right), "r"(more));
}}
"""

"""What the GPU kernels of the scan compile to, on any machine: registers, spills, shared memory, instructions.

    python benchmarks/compiled_kernels.py

Compiles with Triton for A100 and H100, which need not be there, and reads the machine code with the tools that come
with Triton. For 4x32x145x768x16 on an H100 (132 multiprocessors at 1.755 GHz) it also gives the time in which the
instructions of all steps are issued, four a cycle on each multiprocessor, if nothing ever waits. A prototype with 290
and 329 instructions (float32 and bfloat16; .139 and .158 ms by this rule) took .155 and .18 to .21 on an H100.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mambaxray.modeling_mambaxray.ops import selective_scan_triton_kernels as kernels
from mambaxray.modeling_mambaxray.ops.selective_scan_triton import _CHUNK, _PART

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)")
TOOLS = Path(nvidia.__file__).parent / "bin"
SEQUENCES = {f"{name}_ptr" for name in ("u", "delta", "y", "grad_y", "grad_u", "grad_delta")}
"""The tensors that are in half precision when the model is."""
CONSTANTS = {
    "forward": {"CHUNK": _CHUNK, "KEEP": False, "SEGMENTED": False},
    "forward, keeping states": {"CHUNK": _CHUNK, "KEEP": True, "SEGMENTED": False},
    "backward": {"CHUNK": _CHUNK, "PART": _PART, "SEGMENTED": False},
    "summarize": {},
    "summarize_backward": {},
}
# Warps times steps on each multiprocessor, and its instructions a second.
WARP_STEPS, RATE = 4 * 32 * 768 / 32 * 145 / 132, 4 * 1.755e9


def compile_for(name: str, architecture: int, half: set[str]) -> Any:
    """A kernel compiled for 16 states, with pointers and strides as torch allocates them for the encoder.

    Args:
        name: of `CONSTANTS`.
        architecture: 80 for A100, 90 for H100.
        half: arguments in bfloat16.
    """
    kernel = getattr(kernels, name.partition(",")[0])
    constants = {"N": 16, "STATES": 16, "GROUPS": 1, **CONSTANTS[name]}
    signature, attributes = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            signature[argument] = "*bf16" if argument in half else "*fp32"
        else:
            signature[argument] = "i32"
        if argument.endswith(("_ptr", "_k", "_b", "_t")) or argument == "channels":
            attributes[(index,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": 1},
    )


def run_tool(name: str, compiled: Any, *arguments: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        return subprocess.run([TOOLS / name, *arguments, file.name], capture_output=True, text=True, check=True).stdout


def registers_and_stack(compiled: Any) -> tuple[int, int]:
    """Registers of a thread, and bytes of local memory, where they are spilled to."""
    found = re.search(r"REG:(\d+) STACK:(\d+)", run_tool("cuobjdump", compiled, "-res-usage"))
    return int(found[1]), int(found[2])


def loops(compiled: Any) -> list[list[str]]:
    """The instructions of each loop, inner loops included in the outer ones."""
    lines = run_tool("nvdisasm", compiled, "-c").splitlines()
    labels, found = {}, []
    for number, line in enumerate(lines):
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = number
        jump = re.search(r"BRA(?:\.\w+)*\s.*`\((\.L_x_\d+)\)", line)
        if jump and labels.get(jump[1], number) < number - 3:
            body = (
                re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", x)
                for x in lines[labels[jump[1]] : number]
            )
            found.append([match[1] for match in body if match])
    return found


def instructions_per_step(name: str, compiled: Any) -> float:
    """Of one warp: the loop over time, or of the backward pass the three that lie in each other."""
    sizes = [len(body) for body in loops(compiled)]
    if name != "backward":
        return max(sizes)
    again, part, chunk = sorted(sizes)[:3]
    # A chunk scans all its parts but the last to find where they begin, then each part again and back.
    return ((chunk - part - again) + (_CHUNK - _PART) * again + _CHUNK / _PART * part) / _CHUNK


def main() -> None:
    print(__doc__.partition("\n")[0], f"\n\ntriton {triton.__version__}\n")
    print("| kernel | dtype | GPU | registers | spilled, bytes | shared, bytes | instructions a step | issued in, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name in CONSTANTS:
        for dtype, half in (("float32", set()), ("bfloat16", SEQUENCES)):
            for architecture, gpu in ((80, "A100"), (90, "H100")):
                compiled = compile_for(name, architecture, half)
                registers, stack = registers_and_stack(compiled)
                steps = instructions_per_step(name, compiled)
                cells = [name, dtype, gpu, registers, stack, compiled.metadata.shared, f"{steps:.0f}"]
                cells.append(f"{1000 * steps * WARP_STEPS / RATE:.3f}" if gpu == "H100" else "-")
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()

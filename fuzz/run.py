"""`python -m fuzz.run NAME [libFuzzer's options]`, such as -max_total_time=60. Needs atheris (pip install atheris).

Starts from corpus/NAME, keeps what it finds in build/fuzz/NAME, and stops at the first broken promise, whose input lies in
build/fuzz/NAME/crash-…; put it into corpus/NAME once it is mended.
"""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path

import atheris

KERNELS = Path(__file__).parents[1] / "src/kronsgd/kernels"  # Numba compiles these, and they must stay as they are
ADDRESS_SPACE = 2 << 30  # bytes beside those in use at the start
SECONDS = 10  # for one input
BYTES = 1 << 17  # of one input


def main(arguments: list[str]) -> None:
    """Fuzz one target."""
    compiled = [f"kronsgd.kernels.{file.stem}" for file in KERNELS.glob("*.py")]
    with atheris.instrument_imports(include=["kronsgd"], exclude=compiled):
        from fuzz.mutators import MUTATORS
        from fuzz.targets import TARGETS
    name = arguments[1] if len(arguments) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: python -m fuzz.run NAME [-max_total_time=60 …]; the names are {sorted(TARGETS)}.")
    target, change = TARGETS[name], MUTATORS[name]
    seeds, found = Path(__file__).parent / "corpus" / name, Path("build/fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    for seed in sorted(seeds.iterdir()):  # compiles and imports what only some inputs need
        target(seed.read_bytes())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        out = change(data, rng) if rng.random() < 0.8 else atheris.Mutate(data, max_size)
        return out if len(out) <= max_size else data

    options = [f"-timeout={SECONDS}", f"-max_len={BYTES}", f"-artifact_prefix={found}/", "-rss_limit_mb=0"]
    given = [*options, "-print_final_stats=1", *arguments[2:], str(found), str(seeds)]
    atheris.Setup([arguments[0], *given], target, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)

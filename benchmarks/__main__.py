"""Run the benchmarks, side by side with what they are compared to."""

import argparse
import importlib
import pathlib
import shlex
import sys

from benchmarks import environment, runner, tables

NAMES = ("adam_step", "prox_steps", "group_norms", "top_k", "compile_time", "lasso", "path")
RESULTS = pathlib.Path(__file__).with_name("RESULTS.md")


def main() -> None:
    arguments = parse()
    environment.prepare()
    print(f"{environment.versions()}\n{environment.machine()}\n")
    sections = []
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        finished = [
            runner.run(comparison, arguments.rounds, quick=arguments.quick)
            for comparison in module.build(quick=arguments.quick)
        ]
        for comparison in finished:
            tables.show(comparison)
        sections.append((name, module.__doc__ or "", finished))
    if arguments.write:
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        RESULTS.write_text(
            tables.report(command, environment.versions(), environment.machine(), sections), encoding="utf-8"
        )
        print(f"wrote {RESULTS}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"The benchmarks: {', '.join(NAMES)}. Programs that are compared run in turn, round by round, "
        "so that other work on the machine slows all of them alike. A ratio is the median over rounds of the "
        "program's time over that of the table's first program in the same round.",
    )
    parser.add_argument("names", nargs="*", metavar="name", help="benchmarks to run (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few rounds: whether it runs, not how fast"
    )
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help="rounds per table (default: the table's own number)"
    )
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}; of a full run only")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(NAMES)}")
    if arguments.write and (arguments.names or arguments.quick):
        parser.error(f"--write replaces the whole of {RESULTS.name}: give it neither names nor --quick")
    return arguments


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"The number of rounds must be at least 1. Got {number}.")
    return number


if __name__ == "__main__":
    main()

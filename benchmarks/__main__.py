"""Run every benchmark of the package, or those named on the command line."""

import importlib
import pkgutil
import sys

import benchmarks


def main() -> None:
    found = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    modules = {
        name: importlib.import_module(f"benchmarks.{name}") for name in found if name[0] != "_"
    }
    runnable = {name: module for name, module in modules.items() if hasattr(module, "run")}
    wanted = sys.argv[1:] or list(runnable)
    unknown = [name for name in wanted if name not in runnable]
    if unknown:
        sys.exit(f"No benchmark named {', '.join(unknown)}. There are: {', '.join(runnable)}.")
    for name in wanted:
        print(f"\n## {name}\n")
        runnable[name].run()


if __name__ == "__main__":
    main()

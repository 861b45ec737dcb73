"""Scripts and commands run within the test's own process: PyTorch, imported anew for each, would take most of the time.

That they start in a process of their own is seen in test_names.py, test_wheel.py and, of the examples, in test_examples.py.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Ended:
    """How a program ended: exit status, and what it wrote to standard output and standard error."""

    status: int
    output: str
    errors: str


def run_script(path: Path, *words: object, cwd: Path) -> Ended:
    """`python PATH WORDS` in the folder `cwd`."""
    with _folder_first(path.parent):
        return _ended(
            [str(path), *map(str, words)], cwd, lambda: runpy.run_path(str(path), run_name="__main__")
        )


def run_command(module: str, *words: object, cwd: Path) -> Ended:
    """`python -m MODULE WORDS` for a module with a click command called main, in `cwd`, whose own modules it may import."""
    with _folder_first(cwd):
        main = importlib.import_module(module).main
        return _ended([module, *map(str, words)], cwd, lambda: main(prog_name=module))


def _ended(argv: list[str], cwd: Path, run: Callable[[], object]) -> Ended:
    output, errors, status = io.StringIO(), io.StringIO(), 0
    before, folder = sys.argv, Path.cwd()
    sys.argv = argv
    os.chdir(cwd)
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            torch.random.fork_rng(devices=[]),
        ):
            run()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
        os.chdir(folder)
    return Ended(status, output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def _folder_first(folder: Path) -> Iterator[None]:
    """`folder` at the head of the import path; what is imported from it is forgotten afterwards."""
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == folder:
                del sys.modules[name]

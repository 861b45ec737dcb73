"""What the four commands share: suggestions for typing errors, exit status, one summary block, progress on stderr."""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
import time
import traceback
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Sequence, TextIO, Tuple, TypeVar

import click

from rrise.calibration.errors import CheckFailed, RriseError
from rrise.calibration.requirements import missing

Function = TypeVar("Function", bound=Callable[..., Any])


def suggestion(word: str, known: Sequence[str]) -> str:
    """What to add to an error: " Did you mean 'x'?" for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


# One wording for the option that every command has.
json_option = click.option(
    "--json", "json_flag", is_flag=True, help="Print the result as JSON, for machines."
)


class SuggestingGroup(click.Group):
    """A group of commands with `-h` and `--version`, which names the nearest command when one is mistyped.

    No error leaves it as a traceback: Python would end with status 1, which here means "checked and failed".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], **(kwargs.pop("context_settings", None) or {})}
        super().__init__(*args, context_settings=settings, **kwargs)
        if not any(parameter.name == "version" for parameter in self.params):
            click.version_option(package_name="rrise")(self)

    def invoke(self, ctx: click.Context) -> Any:
        with errors_as_status():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: List[str]
    ) -> Tuple[Optional[str], Optional[click.Command], List[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            known = sorted(self.commands)
            ctx.fail(
                f"no command {args[0]!r}; expected one of {', '.join(known)}.{suggestion(args[0], known)}"
            )
        return super().resolve_command(ctx, args)


def run_command(function: Function) -> Function:
    """Decorate a command: an error becomes a message on stderr, exit status 1 for a failed check, else 2."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with errors_as_status():
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


@contextmanager
def errors_as_status() -> Iterator[None]:
    """Inside, a failed check ends the program with status 1 and any other error with 2, each with one message on stderr.

    An error that no one expected is a fault of rrise: its traceback goes to a file, which the message names.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except CheckFailed as error:
        _stop(f"failed: {error}", 1)
    except RriseError as error:
        _stop(f"error: {error}", 2)
    except (OSError, MemoryError) as error:
        _stop(f"error: {error or type(error).__name__}", 2)
    except ModuleNotFoundError as error:
        absent = missing(error.name or "")
        _stop(f"error: {absent}" if absent else _unexpected(error), 2)
    except Exception as error:  # noqa: BLE001 - the outermost: a fault nobody expected is status 2, not Python's 1
        _stop(_unexpected(error), 2)


def _unexpected(error: Exception) -> str:
    """The message for an error that should not have happened; its traceback is written to a file of the temporary folder."""
    first = (str(error).strip().splitlines() or ["no message"])[0][:300]
    what = f"error: rrise failed in a way it should not: {type(error).__name__}: {first}"
    try:
        handle, path = tempfile.mkstemp(prefix="rrise-error-", suffix=".log", text=True)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(
                f"{' '.join(sys.argv)}\npython {sys.version}\n\n{''.join(traceback.format_exception(error))}"
            )
    except OSError:
        return f"{what}\n{''.join(traceback.format_exception(error))}"
    return f"{what}. Nothing was checked. The traceback is in {path}; please report it with that file"


def _stop(message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(status)


def summary(title: str, rows: Sequence[Tuple[str, str]], as_json: Dict[str, Any], json_flag: bool) -> None:
    """Print the one block at the end of a command on stdout, or the same as JSON.

    On a terminal long values are broken between words, under their own column; elsewhere each stays on its line, for other
    programs to read. Of several processes that `torchrun` started for one job, the first speaks for all.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if json_flag:
        click.echo(json.dumps(as_json, indent=2, sort_keys=True))
        return
    click.echo(title)
    for line in block(rows, screen_width(sys.stdout)):
        click.echo(line)


LEAST_WIDTH = 40
"""Characters of the narrowest screen that lines are broken for."""
_TABLE_GAP = re.compile(r"\S {2,}\S|^ ")


def screen_width(stream: TextIO) -> Optional[int]:
    """Characters of a line: of the terminal, or COLUMNS where that is set; None where neither is there."""
    asked = os.environ.get("COLUMNS", "")
    if not stream.isatty() and not asked.isdigit():
        return None
    return max(shutil.get_terminal_size().columns, LEAST_WIDTH)


def block(rows: Sequence[Tuple[str, str]], width: Optional[int]) -> List[str]:
    """The lines of a summary: names to the left, values beside them, broken at `width` between words and never within one.

    A value with aligned columns (it starts with a space, or two stand between its words) is never broken, for that would
    tear its table.
    """
    column = max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, value in rows:
        head = f"  {name:<{column}}  "
        if width is None or len(head) + len(value) <= width or _TABLE_GAP.search(value):
            lines.append(f"{head}{value}".rstrip())
            continue
        # Where names leave little room, values begin on the next line.
        hang, first = (" " * len(head), head) if width - len(head) >= LEAST_WIDTH // 2 else (" " * 4, "")
        if not first:
            lines.append(f"  {name}")
        broken = textwrap.wrap(
            value,
            width,
            initial_indent=first or hang,
            subsequent_indent=hang,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += broken or [head.rstrip()]
    return lines


class Progress:
    """A progress line on stderr: what is done of how much, throughput and time left; silent where stderr is no terminal.

    >>> with Progress(3, "frames", "scoring") as progress:
    ...     progress.advance(3)
    """

    def __init__(
        self, total: int, unit: str, label: str, stream: Optional[TextIO] = None, interval: float = 0.2
    ) -> None:
        self.total, self.unit, self.label = total, unit, label
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._interval = interval
        self._done = 0
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        self._start = time.monotonic()
        return self

    def advance(self, amount: int = 1) -> None:
        """Count `amount` further units as done."""
        self._done += amount
        now = time.monotonic()
        if self._live and now - self._shown >= self._interval:
            self._shown = now
            # A line that is broken by the terminal cannot be taken back by the next one.
            line = self.line(now - self._start)[: shutil.get_terminal_size().columns - 1]
            self._stream.write("\r\x1b[K" + line)
            self._stream.flush()

    def line(self, seconds: float) -> str:
        """The text of the line after `seconds` of work, what matters most first."""
        rate = self._done / max(seconds, 1e-9)
        left = (self.total - self._done) / rate if rate > 0 else float("inf")
        share = 100.0 * self._done / max(self.total, 1)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return (
            f"{self.label}: {share:3.0f} %, {duration(left)} left  "
            f"({self._done:,} of {self.total:,} {self.unit}, {speed}/s)"
        )

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def duration(seconds: float) -> str:
    """A time span for people: "42 s", "3 min 05 s", "2 h 10 min".

    >>> duration(42), duration(185), duration(7800)
    ('42 s', '3 min 05 s', '2 h 10 min')
    """
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

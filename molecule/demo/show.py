"""What a person sees: numbered steps, a line per fact, live progress on a terminal, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.status import Status
from rich.table import Table


class Stage:
    """The screen. All text that comes from hosts is escaped: it is data, not markup."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.began = time.monotonic()
        self._number = 0
        self._status: Status | None = None

    def step(self, title: str) -> None:
        """Begin the next numbered step."""
        self._number += 1
        self.console.print(
            f"\n[bold]{self._number}. {escape(title)}[/bold]  [dim]{self.elapsed():.0f} s[/dim]"
        )

    def elapsed(self) -> float:
        """Seconds since the demonstration began."""
        return time.monotonic() - self.began

    def good(self, text: str) -> None:
        """A fact that was checked."""
        self.console.print(f"   [green]✓[/green] {escape(text)}")

    def refused(self, text: str) -> None:
        """A refusal that was expected."""
        self.console.print(f"   [yellow]✗[/yellow] {escape(text)}")

    def bad(self, text: str) -> None:
        """What went wrong."""
        self.console.print(f"   [bold red]✗ {escape(text)}[/bold red]")

    def note(self, text: str) -> None:
        """An explanation."""
        self.console.print(f"     [dim]{escape(text)}[/dim]")

    def line(self, text: str = "") -> None:
        """A line as it is."""
        self.console.print(escape(text))

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """A small table."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(Padding(table, (0, 0, 0, 5)))

    @contextmanager
    def live(self, text: str) -> Iterator[None]:
        """Show on a terminal what is being done; :meth:`now` changes the text."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(escape(text), spinner="dots") as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def now(self, text: str) -> None:
        """Change the text of what is being done."""
        if self._status is not None:
            self._status.update(escape(text))

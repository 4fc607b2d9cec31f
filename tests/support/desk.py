"""The desk between a test and an application in other processes: files in one folder."""

from __future__ import annotations

from pathlib import Path

from support.nodes import until


class Desk:
    """The origin of the data, lists that all may write to, and places where whoever comes can be held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def version(self) -> int:
        """The origin: the value of every item."""
        return int((self.folder / "version").read_text())

    @version.setter
    def version(self, version: int) -> None:
        new = self.folder / "version.new"
        new.write_text(str(version))
        new.rename(self.folder / "version")

    def note(self, what: str, word: object) -> None:
        """Add a word to a list. Words of several processes do not mix."""
        with (self.folder / what).open("a") as notes:
            notes.write(f"{word}\n")

    def notes(self, what: str) -> list[str]:
        path = self.folder / what
        return path.read_text().split() if path.exists() else []

    def hold(self, place: str) -> None:
        """Whoever comes to this place stays there."""
        (self.folder / f"held-{place}").touch()

    def release(self, place: str) -> None:
        (self.folder / f"held-{place}").unlink()

    def stand(self, place: str) -> None:
        """Come to a place, and go on when nobody holds it."""
        held = self.folder / f"held-{place}"
        if held.exists():
            self.note("standing", place)
            until(lambda: not held.exists(), f"the release of {place}")

    def wait(self, place: str) -> None:
        """Until somebody stands at a place."""
        until(lambda: place in self.notes("standing"), f"somebody at {place}")

"""The file of `debug bundle`: a gzipped tar of texts, each without secrets, for whoever is asked for help.

Owns the archive and that nothing gets into it unmasked; knows nothing of where its parts come from.
"""

import io
import json
import os
import tarfile
import time
from pathlib import Path

from cluster.client.masking import Masking


class Bundle:
    """Parts that are gathered, then saved."""

    def __init__(self, name: str, masking: Masking) -> None:
        """`name`: of the folder within."""
        self._name = name
        self._masking = masking
        self._parts: dict[str, bytes] = {}

    @property
    def parts(self) -> list[str]:
        """What is in it, so far."""
        return list(self._parts)

    def add_text(self, part: str, text: str) -> None:
        """A text, for example the end of a log."""
        self._parts[part] = self._masking.text(text).encode("utf-8", "backslashreplace")

    def add_data(self, part: str, data: object) -> None:
        """Anything that JSON knows, or that has a text."""
        masked = self._masking.data(data)
        text = json.dumps(masked, indent=2, ensure_ascii=False, default=lambda value: self._masking.text(str(value)))
        self._parts[part] = f"{text}\n".encode("utf-8", "backslashreplace")

    def save(self, path: Path) -> int:
        """Writes it, for its owner's eyes alone; how many bytes. Raises: OSError."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for part, content in sorted(self._parts.items()):
                about = tarfile.TarInfo(f"{self._name}/{part}")
                about.size, about.mtime, about.mode = len(content), int(time.time()), 0o600
                archive.addfile(about, io.BytesIO(content))
        packed = buffer.getvalue()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # it may have been there
            file.write(packed)
        return len(packed)

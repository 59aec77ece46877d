"""What is taken out of texts and data before they leave this machine: known secrets, and whatever looks like one.

Pure. Known secrets go wherever they stand (cluster/log_lines.py); of others their place tells: a header, a URL, the name of a field.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from cluster.log_lines import HIDDEN, Redaction

_NAMED: Final = re.compile(
    r"token|secret|passw|passphrase|requirepass|masterauth|masteruser|signature|authorization|credential|cookie|key-file-pass"
    r"|(?:api|access)[_-]?key|^sig$|^env$",
    re.IGNORECASE,
)
_IN_TEXT: Final = (
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^\s@\"']*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(authorization[\"'\\]*\s*[:=]\s*)[^\r\n\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(agent-token)(\s*,\s*|\s+)[^\s\"',;]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (
        re.compile(
            r"((?:x-signature|sec-websocket-protocol|\bsig|"
            r"(?:[\w.-]*(?:token|secret|password|passwd|signature|requirepass|masterauth|api[_-]?key|access[_-]?key)))"
            r"\\?[\"']?\s*[:=]\s*\\?[\"']?)[^\s\"',;&}\]\\]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


class Masking:
    """Hides secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """`secrets`: those that are known."""
        self._redaction = Redaction(secrets)

    def text(self, text: str) -> str:
        """The text without them."""
        text = self._redaction(text)
        for pattern, instead in _IN_TEXT:
            text = pattern.sub(instead, text)
        return text

    def data(self, value: object) -> object:
        """JSON data without them; what stands under a name like `token` goes whole."""
        match value:
            case str():
                return self.text(value)
            case bytes():
                return self.text(value.decode(errors="replace"))
            case Mapping():
                return {self.text(str(name)): self._under(str(name), item) for name, item in value.items()}
            case list() | tuple():
                return [self.data(item) for item in value]
        return value

    def _under(self, name: str, value: object) -> object:
        is_telling = isinstance(value, bool | int | float) or value in (None, "", HIDDEN)
        return HIDDEN if _NAMED.search(name) and not is_telling else self.data(value)

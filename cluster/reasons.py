"""Why a task ended, as its record keeps it: short, on one line, and without what looks like a secret.

The results feed carries an agent's message in full, to the control plane alone; a record answers whoever may ask for the task.
"""

import re

LONGEST_CHARS = 200
_LOOKED_AT_CHARS = 4 * LONGEST_CHARS  # of a message that may have 64 KiB
_HIDDEN = "***"
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
_QUERY = re.compile(r"(\w://[^\s?#\"'<>]*)[?#][^\s\"'<>]*")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_NAMED = re.compile(r"(?i)((?:token|password|passwd|secret|signature|api[_-]?key)[\w-]*[\"']?\s*[=:]\s*)[^\s,;&]+")


def short(error_msg: str) -> str:
    """A message of an agent, shortened."""
    text = " ".join(error_msg[:_LOOKED_AT_CHARS].split())
    text = _QUERY.sub(rf"\1?{_HIDDEN}", _CREDENTIALS.sub("", text))
    text = _NAMED.sub(rf"\1{_HIDDEN}", _BEARER.sub(rf"\1 {_HIDDEN}", text))
    return text if len(text) <= LONGEST_CHARS else text[: LONGEST_CHARS - 3] + "..."

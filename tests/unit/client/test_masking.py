"""What looks like a secret is taken out of texts and data, and what does not stays."""

import json
import tarfile
from pathlib import Path

import pytest

from cluster.client.bundle import Bundle
from cluster.client.masking import Masking

MASKING = Masking(["known-secret"])


@pytest.mark.parametrize(
    "text",
    [
        "it is known-secret, is it",
        "redis://user:bird@10.0.0.1:6379/0",
        "rediss://:bird@host",
        "Authorization: Bearer bird",
        "authorization=basic bird",
        "Sec-WebSocket-Protocol: agent-token, bird",
        "agent-token,bird",
        '{"token":"bird","id":1}',
        "requirepass bird=x password=bird",
        "X-Signature: bird",
        "'shared_secret': 'bird'",
        "AUTH_SHARED_SECRET=bird",
        '{"api_key": "bird"}',
        "api-key=bird",
        r"{\"token\":\"bird\"}",
        "redis://:a/bird@host",
        "Authorization: Digest bird bird",
        "/x?sig=bird&access_key=bird",
    ],
)
def test_a_secret_goes(text: str) -> None:
    masked = MASKING.text(text)
    assert "known-secret" not in masked
    assert "=bird" not in masked.replace("requirepass bird=x", "")
    assert "bird" not in masked.replace("requirepass bird=x", "")


@pytest.mark.parametrize(
    "text", ["task 7_1_1_a ended", "http://127.0.0.1:8080/api/agents/", "tokens left: none", '{"id": "a"}']
)
def test_what_is_none_stays(text: str) -> None:
    assert MASKING.text(text) == text


def test_what_stands_under_a_telling_name_goes_whole_and_tells_whether_it_was_there() -> None:
    data = {
        "requirepass": "a b",
        "masterauth": "",
        "env": {"A": "b"},
        "auth": {"require_signature": True, "token": ["x"]},
        "n": 1,
    }
    assert MASKING.data(data) == {
        "requirepass": "***", "masterauth": "", "env": "***", "auth": {"require_signature": True, "token": "***"}, "n": 1,
    }  # fmt: skip


def test_a_bundle_masks_all_that_is_put_into_it(tmp_path: Path) -> None:
    bundle = Bundle("folder", MASKING)
    bundle.add_text("a.txt", "known-secret\n")
    bundle.add_data("b.json", {"b": b"known-secret", "path": tmp_path, "require_signature": True, "t": "token: bird"})
    path = tmp_path / "bundle.tar.gz"
    path.write_text("there before")
    assert bundle.save(path) == path.stat().st_size
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["folder/a.txt", "folder/b.json"]
        files = [archive.extractfile(name) for name in archive.getnames()]
        texts = [file.read() for file in files if file]
    assert b"known-secret" not in b"".join(texts)
    assert json.loads(texts[1]) == {"b": "***", "path": str(tmp_path), "require_signature": True, "t": "token: ***"}

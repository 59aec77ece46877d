"""Heads in pieces, reported by a real parser: what is within the limits passes however it is cut, and what is not ends soon."""

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.http_limits import HttpLimits, OpenHead


class Parsed:
    """What a real parser reports of a head in pieces."""

    def __init__(self, limits: HttpLimits) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False
        self.parser = httptools.HttpRequestParser(self)
        self.head = OpenHead(limits)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_whole = True

    def refuses(self, piece: bytes) -> bool:
        self.parser.feed_data(piece)
        return not self.is_whole and self.head.fed(piece, self.url, self.headers) is not None


@given(st.integers(1, 80), st.lists(st.integers(0, 60), max_size=9), st.lists(st.integers(1, 300), max_size=30))
@settings(max_examples=150, deadline=None)
def test_a_head_within_the_limits_is_never_refused_however_it_is_cut(
    path: int, values: list[int], cuts: list[int]
) -> None:
    limits = HttpLimits(max_head_bytes=360, max_header_line_bytes=80, max_path_bytes=80, max_headers=9)
    headers = [(b"Abcdefgh", b"x" * size) for size in values]
    url = b"/" + b"p" * (path - 1)
    if limits.refusal_of(url, headers) is not None:
        return
    head = b"GET %s HTTP/1.1\r\n%s\r\n" % (url, b"".join(b"%s: %s\r\n" % header for header in headers))
    parsed = Parsed(limits)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(head)], strict=True):
        assert not parsed.refuses(head[start:end])


@given(st.sampled_from([b"/", b"p"]), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_an_open_head_never_grows_far_beyond_the_limits(filler: bytes, size: int) -> None:
    parsed = Parsed(HttpLimits(max_head_bytes=400, max_header_line_bytes=100, max_path_bytes=100, max_headers=9))
    pieces = (
        [b"GET /" + filler, *[filler * size] * 1000]
        if filler == b"/"
        else [b"GET / HTTP/1.1\r\nA: p", *[filler * size] * 1000]
    )
    fed = 0
    for piece in pieces:
        fed += len(piece)
        if parsed.refuses(piece):
            break
    assert fed < 400

"""What a record keeps of an agent's message: short, one line, no secret."""

import pytest

from cluster.reasons import LONGEST_CHARS, short


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", ""),
        ("exit status 3", "exit status 3"),
        ("work_dir: no folder '/srv/a b' on this host", "work_dir: no folder '/srv/a b' on this host"),
        ("a\n\tb\r\n c", "a b c"),
        (
            'Get "https://me:hush@files.example/a?sig=hush&x=1#hush": EOF',
            'Get "https://files.example/a?***": EOF',
        ),
        ("Authorization: Bearer hush-hush-hush was refused", "Authorization: Bearer *** was refused"),
        ("token=hush, PASSWORD: hush; api-key = hush", "token=***, PASSWORD: ***; api-key = ***"),
        ("a token expired", "a token expired"),
    ],
)
def test_a_message_is_one_line_without_what_looks_like_a_secret(said: str, kept: str) -> None:
    assert short(said) == kept


def test_a_long_message_is_cut_and_says_so() -> None:
    kept = short("é" * 70_000)
    assert (len(kept), kept.endswith("é...")) == (LONGEST_CHARS, True)


def test_a_secret_that_the_cut_parts_is_hidden_too() -> None:
    assert "hush" not in short("x" * (LONGEST_CHARS - 20) + " token=" + "hush" * 10)

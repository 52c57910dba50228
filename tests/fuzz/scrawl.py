"""Texts and bytes spoilt at random: scraps put in, lines dropped, doubled and swapped, ends cut off, bits turned."""

_SCRAPS = (
    "[", "]", "{", "}", '"', "'''", "=", "\n", "\n[", "#", ",", ".", "-", "e", "_", "0x", "1e999", "9" * 5_000, "nan",
    "inf", "[[", "]]", "\ufeff", "\x00", "\x1b[31m", "é", "[" * 3_000, "{a=" * 3_000, "a." * 3_000 + "a=1\n", " = 1\n",
    "(" * 5_000, "<" * 3_000, "<a>" * 3_000, "1 2 3\n", "-1", "99999999999", " " * 1_000, "&amp;", "true", '"""',
    "2024-01-01", "x" * 100_000,
)  # fmt: skip


def spoilt_text(text, random):
    """The text with one thing done to it."""
    at, how = random.randrange(len(text) + 1), random.random()
    if how < 0.4:
        return text[:at] + random.choice(_SCRAPS) + text[at:]
    lines = text.splitlines(keepends=True) or [""]
    i, j = random.randrange(len(lines)), random.randrange(len(lines))
    if how < 0.6:
        del lines[i]
    elif how < 0.75:
        lines.insert(i, lines[j])
    elif how < 0.9:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        return text[:at]
    return "".join(lines)


def spoilt_words(text, random):
    """The text with one of its words another one: numbers for the most part."""
    words = text.split(" ")
    i = random.randrange(len(words))
    words[i] = random.choice(
        (
            "0",
            "-1",
            "1e400",
            "nan",
            "inf",
            "x",
            "",
            "999999999999",
            "1" * 5_000,
            "0.5",
            "-0.0",
            "1:1",
            "\x00",
            random.choice(words),
        )
    )
    return " ".join(words)


def spoilt_bytes(raw, random):
    """The bytes with one thing done to them."""
    raw = bytearray(raw)
    at, how = random.randrange(len(raw) + 1), random.random()
    if how < 0.25:
        return bytes(raw[:at])
    if how < 0.55 and raw:
        for _ in range(random.choice((1, 1, 4, 40))):
            raw[random.randrange(len(raw))] = random.randrange(256)
    elif how < 0.75 and raw:  # in the header, where sizes are
        for _ in range(random.choice((1, 4))):
            raw[random.randrange(min(len(raw), 128))] = random.choice((0, 1, 127, 128, 255, 57, 45))
    elif how < 0.85:
        raw[at:at] = random.randbytes(random.choice((1, 8, 1000)))
    elif how < 0.92:
        raw += bytes(random.choice((1, 1000)))
    elif how < 0.96:
        raw = bytearray(len(raw))
    else:
        del raw[at : at + random.choice((1, 8, 64))]
    return bytes(raw)


def spoilt(raw, random):
    """Bytes, as text where they are one: one to three things done to them."""
    for _ in range(random.choice((1, 1, 2, 3))):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raw = spoilt_bytes(raw, random)
            continue
        how = random.random()
        if how < 0.15:
            raw = spoilt_bytes(raw, random)
        else:
            raw = (spoilt_words if how < 0.5 else spoilt_text)(text, random).encode("utf-8", "replace")
    return raw

"""Files with something wrong in them: bytes that are not what they were, or values that are not of their kind."""

import io
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
import yaml

WORDS = ["", "-", "--", "x", "0", "-1", "1e999", "nan", "null", "[]", "{}", "[1", "a=b", "../x", "/dev/null", "é"]
WORDS += ["\x00", "--trust", "--config", "--ckpt_path", "--store", "--out", "--write", "--section", "--seeds", "-h"]
WORDS += ["no.such.module", "{class_path: subprocess.Popen}", "os:system", "1" * 400, "last", "best", "*" * 300]
WORDS += ["planted:Layer", "{class_path: planted.Layer}", "../outside/victim", "1000000000", "99999999999999999999"]
_DEEP: Any = []
for _ in range(200):
    _DEEP = [_DEEP]
_VALUES = [None, True, False, 0, 1, -1, 2, 7, 10**6, 10**9, 2**62, 10**30, 0.5, -1.5, 1e300, 5e-324, *WORDS]
_VALUES += [float("inf"), float("nan"), [], {}, [0], [1, 2, 3], [None], ["x"] * 50, {"name": "lstm"}, _DEEP]
_VALUES += [{"class_path": "planted.Layer"}, {"name": "planted:Layer"}, [10**9, 10**9], ["bd-lru", "h-lru"]]
_TENSORS = [torch.zeros(()), torch.zeros(0), torch.full((3,), torch.nan), torch.ones(2, 2, dtype=torch.complex64)]
_TENSORS += [torch.zeros(1).expand(10**6, 10**3), torch.arange(7), torch.zeros(4, dtype=torch.bfloat16)]


def damaged(rng: random.Random, name: str, data: bytes) -> bytes:
    """The content of a file with something wrong in it."""
    if rng.random() < 0.5:
        with suppress(ValueError, yaml.YAMLError, IndexError):
            return _changed(rng, name, data)
    return _broken(rng, data)


def _broken(rng: random.Random, data: bytes) -> bytes:
    """Cut, repeated, or with other signs in it."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.choice((1, 2, 8, 64, len(data))))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            data = data[:place] + rng.randbytes(min(end - place, 64)) + data[end:]
        elif kind == 2:
            data = data[:place] + data[end:]
        elif kind == 3:
            data = data[:place] + data[place:end] * 2 + data[end:]
        elif kind == 4:
            data = data[:place] + rng.choice(WORDS).encode() + data[end if end - place < 9 else place :]
        else:
            old = rng.choice((b"1", b"0", b"true", b"null", b"[", b"{", b": "))
            data = data.replace(old, rng.choice(WORDS).encode(), 1)
    return data


def _changed(rng: random.Random, name: str, data: bytes) -> bytes:
    """What it says, with one to three values or keys that are others; errors where the file has no values."""
    if name.endswith(".ckpt"):
        content = torch.load(io.BytesIO(data), weights_only=True)
        _change(rng, content, [*_VALUES, *_TENSORS * 4])
        out = io.BytesIO()
        torch.save(content, out)
        return out.getvalue()
    if name.endswith(".yaml"):
        content = yaml.safe_load(data)
        _change(rng, content, _VALUES)
        return yaml.safe_dump(content, sort_keys=False).encode()
    lines = data.splitlines() if name.endswith(".jsonl") else [data]
    place = rng.randrange(len(lines))
    content = json.loads(lines[place])
    _change(rng, content, _VALUES)
    lines[place] = json.dumps(content).encode()
    return b"\n".join(lines) + b"\n"


def _change(rng: random.Random, content: Any, values: list[Any]) -> None:
    for _ in range(rng.choice((1, 1, 2, 3))):
        # A few places are near the top and most are deep inside: each depth is as likely.
        places = sorted(_places(content, 0), key=lambda place: place[0])
        depth = rng.choice(sorted({depth for depth, _, _ in places}))
        _, holder, key = rng.choice([place for place in places if place[0] == depth])
        kind = rng.randrange(8)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(WORDS)] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder *= 2
        else:
            holder[key] = rng.choice(values)


def _places(content: Any, depth: int) -> Iterator[tuple[int, Any, Any]]:
    if isinstance(content, dict | list) and depth < 20:
        for key in content if isinstance(content, dict) else range(len(content)):
            yield depth, content, key
            yield from _places(content[key], depth + 1)

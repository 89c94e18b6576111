"""Seeded damage to stored files: to their bytes, to the nodes of their JSON, to their tensors, to their lines."""

import copy
import json

import torch

NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**64), 10**30, 10**400, 0.5, -1e308, 1e-320, float("nan"), float("inf"))
TEXTS = ("", " ", "x", "0", "\x00", "\ud800", "../../x", "cpu", "binary", "a" * 3000)


def strange(rng):
    """A value that nobody expects."""
    depth = rng.choice([50, 150])
    nested = json.loads("[" * depth + "]" * depth)
    fresh = [None, True, False, [], {}, [[]], {"": []}, nested, list(range(50)), [None, 1, "x"], {"parts": {}}]
    return rng.choice([rng.choice(NUMBERS), rng.choice(TEXTS), copy.deepcopy(rng.choice(fresh))])


def nodes(value):
    """(container, key) of every node below the root."""
    found, left = [], [value]
    while left:
        inner = left.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        found += [(inner, key) for key in keys]
        left += [inner[key] for key in keys]
    return found


def damage_json(value, rng):
    """The value with one to three nodes replaced, exchanged, dropped, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        every = nodes(value)
        if not every or rng.random() < 0.005:
            return strange(rng)
        # shallow nodes are few, and decide more
        inner, key = rng.choice(every if rng.random() < 0.5 else every[: 1 + len(every) // 10])
        action = rng.choice(["strange"] * 4 + ["near", "swap", "drop", "double", "rename"])
        if action == "strange":
            inner[key] = strange(rng)
        elif action == "near":
            inner[key] = near(inner[key], rng)
        elif action == "swap":
            other, place = rng.choice(every)
            one, two = copy.deepcopy(inner[key]), copy.deepcopy(other[place])
            inner[key], other[place] = two, one
        elif action == "drop":
            del inner[key]
        elif isinstance(inner, list):
            inner.insert(key, copy.deepcopy(inner[key]))
        else:
            inner[rng.choice(TEXTS)] = inner.pop(key) if action == "rename" else inner[key]
    return value


def near(value, rng):
    """A value of the same type, or a list of it, or the text of it."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float) and abs(value) < 1e300:
        return rng.choice([value + 1, -value, value * 1000, [value], str(value), float(value) + 0.5])
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return rng.choice([value[:-1], value + "x", [value], {value: value}])
    if isinstance(value, list):
        return rng.choice([value[::-1], value[:-1], value + value, dict(enumerate(value)), {"0": value}])
    return [list(pair) for pair in value.items()] if isinstance(value, dict) else str(value)


def damage_bytes(data, rng):
    """The bytes with flips, zeros, a cut, something inserted, or two blocks exchanged."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(max(len(data), 1))
        size = rng.choice([1, 2, 8, 64])
        action = rng.choice(["flip"] * 4 + ["zero", "cut", "insert", "swap", "noise"])
        if action == "flip" and data:
            data[place] ^= 1 << rng.randrange(8)
        elif action == "zero":
            data[place : place + size] = bytes(len(data[place : place + size]))
        elif action == "cut":
            del data[place:]
        elif action == "insert":
            data[place:place] = rng.choice([rng.randbytes(size), b"[" * 3000, b"9" * 400, b"{", b'"', b"\n", b","])
        elif action == "swap":
            other = rng.randrange(max(len(data), 1))
            one, two = bytes(data[place : place + size]), bytes(data[other : other + size])
            data[place : place + len(one)], data[other : other + len(two)] = two, one
        else:
            data[place : place + size] = rng.randbytes(size)
    return bytes(data)


def damage_text(text, rng):
    """Lines of a table or of a configuration with cells replaced, dropped, doubled or moved."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.choice([1, 1, 2, 4])):
        if not lines:
            break
        place = rng.randrange(len(lines))
        cells = lines[place].split(rng.choice([",", "=", " "]))
        spot = rng.randrange(len(cells))
        action = rng.choice(["cell", "cell", "cell", "drop", "double", "move", "cut", "quote"])
        if action == "cell":
            cells[spot] = str(rng.choice([*NUMBERS[:7], *NUMBERS[8:], *TEXTS, "[" * 3000, "0x" + "f" * 5000, "1e999"]))
            lines[place] = ",".join(cells)
        elif action == "drop":
            del lines[place]
        elif action == "double":
            lines.insert(place, lines[place])
        elif action == "move":
            lines.insert(rng.randrange(len(lines)), lines.pop(place))
        elif action == "cut":
            lines[place] = lines[place][: rng.randrange(len(lines[place]) + 1)]
        else:
            lines[place] = lines[place].replace(",", rng.choice(['"', ",,", ";", "\t", "\r", '","']), 1)
    return "".join(lines).encode("utf-8", "surrogatepass")


def damage_tensors(tensors, rng):
    """The tensors with one reshaped, of another type, dropped, renamed, doubled, or full of strange numbers."""
    tensors = dict(tensors)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    action = rng.choice(["shape", "flat", "type", "drop", "rename", "add", "numbers", "exchange", "row"])
    if action == "shape":
        tensors[name] = value.reshape(*value.shape, 1)
    elif action == "flat":
        tensors[name] = value.reshape(-1)
    elif action == "type":
        kind = rng.choice([torch.bool, torch.int8, torch.int64, torch.float64, torch.bfloat16, torch.float8_e4m3fn])
        tensors[name] = value.to(kind)
    elif action == "drop":
        del tensors[name]
    elif action == "rename":
        tensors[rng.choice([*TEXTS[:4], name + "x", name[1:]])] = tensors.pop(name)
    elif action == "add":
        tensors[rng.choice([*TEXTS[:4], name + "0"])] = value.clone()
    elif action == "numbers":
        strange_number = rng.choice([-1.0, 0.0, 1e30, float("nan"), float("inf")])
        whole = ~value if value.dtype == torch.bool else value - 1
        tensors[name] = torch.full_like(value, strange_number) if value.is_floating_point() else whole
    elif action == "exchange":
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other].clone(), value.clone()
    elif value.ndim:
        tensors[name] = value[:-1].clone() if len(value) else value
    return tensors

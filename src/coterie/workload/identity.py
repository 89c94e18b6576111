"""What a model and the functions around it are, beside the numbers of their tensors: code and settings, as texts.

Code is compared by its instructions, so that comments, docstrings, line numbers and file names do not count. Code of
installed packages is known by its name; that of the user's own files, scripts and notebooks is read, with the defaults,
closures and global values that it refers to.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import io
import logging
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

#: attributes of every module that say nothing about its outputs, or are described elsewhere
_INTERNAL = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_is_hf_initialized"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: what models of transformers remember of where they were found, how they were written, and of heads that are gone
_WHERE = frozenset(
    {"name_or_path", "transformers_version", "base_model_name_or_path", "architectures", "model_type", "dtype",
     "torch_dtype", "id2label", "label2id", "init_kwargs"}
)  # fmt: skip
#: what class bodies store about their own text
_ABOUT = frozenset({"__doc__", "__firstlineno__", "__static_attributes__", "__module__"})
#: methods that change what they are called on: a record that a function keeps is no setting of it
_CHANGING = frozenset({"append", "extend", "add", "update", "setdefault", "insert", "pop", "clear", "remove"})
_OUTSIDE = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")
#: instructions that change a part of an object, and how many values lie above it on the stack
_FILLING = {"STORE_SUBSCR": 1, "DELETE_SUBSCR": 1, "STORE_SLICE": 2, "STORE_ATTR": 0, "DELETE_ATTR": 0}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice, np.generic, torch.dtype)
#: objects within objects that are looked into
_DEPTH = 5


class Description:
    """Texts of values, each under a path; what is met a second time is named by its first path.

    Args:
        weights: whether parameters and buffers of modules count with their numbers.
        content: False for functions that make models: modules and arrays that they hold count by their type only, since
            they show in what is made.

    Attributes:
        entries: path -> text.

    Example:
        >>> found = Description()
        >>> found.add("net", nn.Dropout(0.25))
        >>> found.entries["net.p"]
        'float 0.25'
    """

    def __init__(self, *, weights: bool = True, content: bool = True) -> None:
        self.entries: dict[str, str] = {}
        self._weights, self._content = weights, content
        self._seen: dict[int, tuple[str, Any]] = {}  # the object is kept, or its id could be given to another one

    def add(self, path: str, value: Any, depth: int = 0) -> None:
        """Describe a value under a path; what it consists of gets paths below it."""
        self.entries[path] = self._text(path, value, depth)

    def _text(self, path: str, value: Any, depth: int) -> str:
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, Tensor | np.ndarray):
            return _array(value) if self._content else "numbers"
        if isinstance(value, PurePath | torch.device):
            return type(value).__name__  # where something is on this machine
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return self._container(path, cast("Any", value), depth)
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if id(value) in self._seen:
            return f"as {self._seen[id(value)][0]}"
        self._seen[id(value)] = path, value
        return self._once(path, value, depth)

    def _once(self, path: str, value: Any, depth: int) -> str:
        """The text of what may refer to itself."""
        if isinstance(value, types.FunctionType):
            return self._function(path, value, depth)
        if isinstance(value, types.MethodType):
            self.add(f"{path}.self", value.__self__, depth + 1)
            return "method " + self._text(path, value.__func__, depth)
        if isinstance(value, functools.partial):
            made = cast("functools.partial[Any]", value)
            self.add(f"{path}.arguments", [made.args, made.keywords], depth)
            return "partial " + self._text(path, made.func, depth)
        if isinstance(value, staticmethod | classmethod):
            return f"{type(value).__name__} " + self._text(path, cast("Any", value).__func__, depth)
        if isinstance(value, property):
            for name, part in (("get", value.fget), ("set", value.fset)):
                self.add(f"{path}.{name}", part, depth)
            return "property"
        if isinstance(value, type):
            return self._class(path, value, depth)
        if isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            for name, child in value.named_children() if isinstance(value, nn.Module) else ():
                self.add(f"{path}.{name}", child, depth)
            return f"script {_digest(str(cast('Any', value).code))}"
        if isinstance(value, nn.Module):
            return self._module(path, value, depth) if self._content else "module"
        return self._object(path, value, depth)

    def _container(self, path: str, value: Any, depth: int) -> str:
        """One text for the whole, so that a record that grows is one entry that changes."""
        if isinstance(value, Mapping):
            items = sorted(
                (self._text(f"{path}[]", key, depth), self._text(f"{path}[{key!r:.60}]", part, depth))
                for key, part in cast("Mapping[Any, Any]", value).items()
            )
        else:
            items = [self._text(f"{path}[{index}]", part, depth) for index, part in enumerate(value)]
            items = sorted(items) if isinstance(value, set | frozenset) else items
        text = repr(items)
        return f"{type(value).__name__} {text if len(text) < 200 else _digest(text)}"

    def _function(self, path: str, function: types.FunctionType, depth: int) -> str:
        free = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        own = is_own(function.__globals__.get("__name__"))
        known = function.__globals__
        state = (
            {n for n in _changed(function.__code__) if not isinstance(known.get(n), types.ModuleType)} if own else ()
        )
        for name, cell in free.items():
            if name not in state:
                try:
                    self.add(f"{path}.{name}", cell.cell_contents, depth)
                except ValueError:  # not assigned yet
                    continue
        if not own:
            return f"function {function.__module__}.{function.__qualname__}"
        for name, value in _globals(function):
            if name.split(".")[0] not in state:
                self.add(f"{path}.{name}", value, depth)
        if function.__defaults__ or function.__kwdefaults__:
            self.add(f"{path}.defaults", [function.__defaults__, function.__kwdefaults__], depth)
        return f"function {_digest(_code(function.__code__))}"

    def _class(self, path: str, kind: type, depth: int) -> str:
        """Its own code and that of the classes it is derived from, as far as they are the user's."""
        names: list[str] = []
        for base in kind.__mro__:
            if not is_own(base.__module__):
                names.append(f"{base.__module__}.{base.__qualname__}")
                continue
            names.append(base.__name__)
            if base is not kind:
                self.add(f"{path}.{base.__name__}", base, depth)
                continue
            for name, value in sorted(vars(base).items()):
                told = isinstance(value, types.FunctionType | staticmethod | classmethod | property)
                if told or not name.startswith(("__", "_abc_")):
                    self.add(f"{path}.{name}", value, depth)
        return f"class {names}"

    def _module(self, path: str, module: nn.Module, depth: int) -> str:
        """A module and those within it: class, settings, hooks, buffers that are not saved, frozen and tied tensors."""
        if hasattr(module, "_orig_mod"):  # torch.compile computes the same
            self.add(f"{path}._orig_mod", module._orig_mod, depth)
            return "compiled"
        for name, value in _settings(module):
            if name not in _INTERNAL:
                self.add(f"{path}.{name}", value, depth)
        for name in _HOOKS:
            if hooks := list(vars(module).get(name, {}).values()):
                self.add(f"{path}.{name}", hooks, depth)
        for name, buffer in module.named_buffers(recurse=False):
            if self._weights or name in module._non_persistent_buffers_set:
                self.add(f"{path}.{name}", buffer, depth)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in self._seen:
                self.entries[f"{path}.{name}"] = f"tied to {self._seen[id(parameter)][0]}"
                continue
            self._seen[id(parameter)] = f"{path}.{name}", parameter
            text = "trained" if parameter.requires_grad else "frozen"
            self.entries[f"{path}.{name}"] = f"{text} {_array(parameter) if self._weights else ''}"
        for name, child in module._modules.items():
            self.add(f"{path}.{name}", child, depth)
        self.add(f"{path}.[]", list(module._modules), depth)  # containers run them in this order
        return self._text(f"{path}()", type(module), depth)

    def _object(self, path: str, value: Any, depth: int) -> str:
        """An object of another class: the class and what it holds; some are known by their type only."""
        kind = type(value)
        if depth >= _DEPTH or isinstance(value, types.GeneratorType | torch.Generator):
            return kind.__qualname__
        if isinstance(value, logging.Filterer | io.IOBase):  # where messages go, and how far it is read
            return kind.__qualname__
        if isinstance(value, types.BuiltinFunctionType | np.ufunc):
            return f"function {getattr(value, '__module__', '')}.{value.__name__}"
        held = _settings(value)
        for name, part in held:
            self.add(f"{path}.{name}", part, depth + 1)
        text = "" if held or is_own(kind.__module__) else repr(value)[:500]  # dates, patterns and the like
        return f"{self._text(f'{path}()', kind, depth)} {'' if ' at 0x' in text else text}"


def stable(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """What two descriptions agree on: counters, records and times of making are no part of what something is.

    Example:
        >>> stable({"width": "int 3", "made": "float 1.0"}, {"width": "int 3", "made": "float 2.0"})
        {'width': 'int 3'}
    """
    return {path: text for path, text in first.items() if second.get(path) == text}


@lru_cache(maxsize=4096)
def is_own(name: str | None) -> bool:
    """Whether a module (by its name) is the user's, not a package that is installed.

    Example:
        >>> is_own("__main__"), is_own("torch.nn.functional"), is_own("json")
        (True, False, False)
    """
    root = (name or "__main__").split(".")[0]
    if root in ("coterie", "builtins") or root in sys.stdlib_module_names - {"__main__"}:
        return False
    file: str | None = getattr(sys.modules.get(name or ""), "__file__", None)
    if root in ("__main__", "__mp_main__") or file is None:
        return True
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _installed())


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names}
    folders |= {folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")}
    return tuple(Path(folder).resolve() for folder in folders if folder)


def _code(code: types.CodeType) -> str:
    """The instructions of a function and of those within it, with their constants and names."""
    lines: list[str] = [f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_varnames}"]
    found = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE")]
    about = {index for index, step in enumerate(found) if step.opname == "STORE_NAME" and step.argval in _ABOUT}
    kept = [step for index, step in enumerate(found) if not {index, index + 1} & about]
    place = {step.offset: index for index, step in enumerate(kept)}
    for step in kept:
        jump = step.opcode in dis.hasjrel or step.opcode in dis.hasjabs
        lines.append(f"{step.opname} {place.get(step.argval) if jump else _constant(step.argval)}")
    return "\n".join(lines)


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return f"({', '.join(_constant(part) for part in cast('Sequence[Any]', value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(_constant(part) for part in cast('frozenset[Any]', value)))}}}"
    return f"{type(value).__name__} {value!r}"


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Global values that a function refers to, by name; of modules of the user's the attributes that it reads."""
    known: dict[str, Any] = function.__globals__
    names: set[tuple[str, ...]] = set()
    for code in _codes(function.__code__):
        chain: tuple[str, ...] = ()
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                chain = (str(step.argval),)
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain:
                chain = (*chain, str(step.argval))
            elif step.opname not in ("CACHE", "PUSH_NULL"):
                chain = ()
            if chain:
                names.add(chain)
    for chain in sorted(names):
        if chain[0] not in known:
            continue
        value, path = known[chain[0]], chain[0]
        for name in chain[1:]:
            if not isinstance(value, types.ModuleType) or not is_own(value.__name__):
                break
            value, path = getattr(value, name, None), f"{path}.{name}"
        yield path, value


def _changed(code: types.CodeType) -> frozenset[str]:
    """Names outside a function that it assigns or fills itself: state, not settings."""
    found: set[str] = set()
    for each in _codes(code):
        last = None
        steps = [step for step in dis.get_instructions(each) if step.opname not in ("CACHE", "PUSH_NULL")]
        for index, step in enumerate(steps):
            if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"):
                found.add(str(step.argval))
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval in _CHANGING and last is not None:
                found.add(last)
            if step.opname in _FILLING and (filled := _loaded(steps[:index], _FILLING[step.opname])):
                found.add(filled)
            last = str(step.argval) if step.opname in _OUTSIDE else None
    return frozenset(found - set(code.co_cellvars))


def _loaded(steps: Sequence[dis.Instruction], place: int) -> str | None:
    """The name outside a function from which a value on the stack was taken, or what it is a part of.

    Args:
        steps: those before the value is used.
        place: how many values lie above it.
    """
    for step in reversed(steps):
        if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            return None
        if step.opname == "SWAP":
            other = int(step.arg or 1) - 1
            place = other if place == 0 else 0 if place == other else place
            continue
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        if step.opname == "COPY" and place == 0:
            place = int(step.arg or 1) - 1
        elif place >= max(effect, 1):
            place -= effect
        elif step.opname in ("BINARY_SUBSCR", "LOAD_ATTR"):  # a part of what is changed
            place = 1 if step.opname == "BINARY_SUBSCR" else 0
        else:
            return str(step.argval) if step.opname in _OUTSIDE else None
    return None


def _settings(value: Any) -> list[tuple[str, Any]]:
    """What an object holds, by name; what objects of installed packages hold in private is derived from the rest."""
    names = {name for base in type(value).__mro__ for name in _slots(base) if hasattr(value, name)}
    held = {**{name: getattr(value, name) for name in names}, **getattr(value, "__dict__", {})}
    own = any(is_own(base.__module__) for base in type(value).__mro__)
    return sorted(
        (name, part)
        for name, part in held.items()
        if own or (name not in _WHERE and name[:1] != "_") or name == "__wrapped__"
    )


def _slots(kind: type) -> list[str]:
    slots: Any = vars(kind).get("__slots__", ())
    return [name for name in ([slots] if isinstance(slots, str) else slots) if not name.startswith("__")]


def _array(value: Any) -> str:
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        return f"{array.dtype} {array.shape} {_digest(content)}"
    if value.is_nested:
        return f"nested {[_array(part) for part in value.detach().unbind()]}"
    form = f"{value.dtype} {tuple(value.shape)}"
    if value.is_meta or not value.numel():
        return form
    flat = [part.cpu().contiguous().reshape(-1) for part in _parts(value.detach()) if part.numel()]
    return " ".join([form, *(_digest(part.view(torch.uint8).numpy().data) for part in flat)])


def _parts(value: Tensor) -> list[Tensor]:
    """Ordinary tensors that hold the numbers of a tensor and, where it is sparse, their places."""
    if value.is_quantized:
        return [value.dequantize()]
    if value.layout == torch.strided:
        return [value]
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return [value.indices(), value.values()]
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [value.crow_indices(), value.col_indices(), value.values()]
    if value.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [value.ccol_indices(), value.row_indices(), value.values()]
    return [value.to_dense()]


def _digest(content: str | bytes | memoryview) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def describe(model: nn.Module) -> dict[str, str]:
    """What a model is, beside the numbers of its parameters and saved buffers: path -> text."""
    found = Description(weights=False)
    found.add("model", model)
    return found.entries


def describe_functions(build: Any, others: Mapping[str, Any]) -> dict[str, str]:
    """What a function that makes models is, and other functions and objects: path -> text."""
    maker, found = Description(content=False), Description()
    maker.add("build", build)
    for name, part in sorted(others.items()):
        found.add(name, part)
    return {**maker.entries, **found.entries}

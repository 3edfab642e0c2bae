"""Nested states, of networks and optimisers, as one file of JSON and arrays: reading one never runs what is in it.

Local, as is every function.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.errors import BadInput

#: What numpy and its zip files raise for a file that is cut, empty, overwritten, or a folder.
DAMAGED = (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass
class Packed:
    """A state in pieces.

    Attributes:
        tree: how it is put together, in what JSON has.
        arrays: the numbers in it.
        fields: the Functions in it, whose numbers are for ``base/fem/stored_fields.py``; each rank has its part. Of a
            state that has been read: functions of the element and the size that each had, to what stands for it.
    """

    tree: Any = None
    arrays: list[npt.NDArray[Any]] = field(default_factory=list)
    fields: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, state: Any, what: str) -> Packed:
        """Take a state apart.

        Args:
            state: dictionaries, lists and tuples of numbers, words, bytes, arrays, tensors and Functions.
            what: its name, for the message.

        Raises:
            BadInput: for anything else in it, naming its place.
        """
        packed = cls()
        packed.tree = packed._taken(state, what)
        return packed

    def _taken(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, bool | str) or type(value) in (int, float):
            return value
        if isinstance(value, dict):
            pairs = [[self._taken(k, f"a key of {where}"), self._taken(v, f"{where}[{k!r}]")] for k, v in value.items()]
            # What torch's modules say of their versions is an attribute of their dictionary.
            told = getattr(value, "_metadata", None)
            return {"dict": pairs} | ({} if told is None else {"metadata": self._taken(told, where)})
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [self._taken(entry, f"{where}[{i}]") for i, entry in enumerate(value)]}
        if isinstance(value, bytes):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufcSU":
            return {"scalar" if isinstance(value, np.generic) else "array": self._put(np.asarray(value))}
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(torch, value, where)
        if hasattr(value, "function_space") and hasattr(value, "x"):
            V = value.function_space
            self.fields.append(value)
            # By these it is seen that what it is read into is the same.
            fits = [str(V.ufl_element()), V.dofmap.index_map.size_global * V.dofmap.index_map_bs]
            return {"field": len(self.fields) - 1, "fits": fits}
        raise BadInput(
            f"{where}: expected numbers, words, arrays, tensors, or lists and dictionaries of them, which can be kept; "
            f"got {type(value).__name__}"
        )

    def _tensor(self, torch: Any, value: Any, where: str) -> Any:
        if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
            raise BadInput(f"{where}: expected a dense tensor with numbers in it, got {value.layout} on {value.device}")
        there = value.detach().cpu().contiguous()
        try:
            array = there.numpy()
        except TypeError:
            # NumPy has no bfloat16.
            array = there.reshape(-1).view(torch.uint8).numpy()
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": self._put(array), "dtype": kind, "shape": list(value.shape)}

    def _put(self, array: npt.NDArray[Any]) -> int:
        self.arrays.append(array)
        return len(self.arrays) - 1

    def digest(self) -> bytes:
        """A checksum of all but the fields."""
        checksum = hashlib.sha256(json.dumps(self.tree).encode())
        for array in self.arrays:
            checksum.update(np.ascontiguousarray(array).tobytes())
        return checksum.digest()

    def as_bytes(self) -> bytes:
        """The content of a file, without the fields."""
        content = io.BytesIO()
        arrays = {f"a{i}": array for i, array in enumerate(self.arrays)}
        np.savez(content, tree=np.array(json.dumps(self.tree)), **arrays)  # type: ignore[arg-type]
        return content.getvalue()

    @classmethod
    def read(cls, content: bytes | Path) -> Packed:
        """What ``as_bytes`` has written.

        Raises:
            DAMAGED: one of them, where it is something else.
        """
        with np.load(io.BytesIO(content) if isinstance(content, bytes) else content, allow_pickle=False) as file:
            tree = json.loads(str(file["tree"]))
            return cls(tree, [file[f"a{i}"] for i in range(len(file.files) - 1)])

    def state(self) -> Any:
        """The state of a file, put together."""
        return self._built(self.tree)

    def _built(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if "dict" in node:
            built = {self._built(key): self._built(value) for key, value in node["dict"]}
            if "metadata" in node:
                built = _WithMetadata(built)
                built._metadata = self._built(node["metadata"])
            return built
        if "tensor" in node:
            return self._built_tensor(node)
        if "field" in node:
            return self.fields[node["field"]](*node["fits"])
        kind, value = next(iter(node.items()))
        if kind in ("list", "tuple"):
            entries = [self._built(entry) for entry in value]
            return entries if kind == "list" else tuple(entries)
        if kind == "bytes":
            return base64.b64decode(value)
        if kind == "complex":
            return complex(*value)
        if kind in ("array", "scalar"):
            return self.arrays[value] if kind == "array" else self.arrays[value][()]
        raise ValueError(f"expected a piece of a state, got {kind!r}")

    def _built_tensor(self, node: dict[str, Any]) -> Any:
        torch = sys.modules.get("torch")
        if torch is None:
            raise BadInput("a tensor is kept here, and torch is not loaded; import torch first")
        tensor = torch.from_numpy(self.arrays[node["tensor"]])
        dtype = getattr(torch, node["dtype"])
        if tensor.numel() == 0:
            return torch.empty(node["shape"], dtype=dtype)
        return (tensor if tensor.dtype == dtype else tensor.view(dtype)).reshape(node["shape"])


class _WithMetadata(dict[Any, Any]):
    """A dictionary that can have what torch's modules hang on theirs."""

    _metadata: Any

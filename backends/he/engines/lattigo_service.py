"""What runs in Lattigo's process: the C library, called through ctypes. It may end at any call: see worker.py."""

from __future__ import annotations

import ctypes
import time
from typing import Any

__all__ = ["Service", "make"]


class _Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_ulong)]


def make(said: dict[str, Any], block: Any) -> Service:
    return Service(said, block)


class Service:
    """One scheme. Plaintexts and ciphertexts are the library's own numbers for them."""

    def __init__(self, said: dict[str, Any], block: Any) -> None:
        self.block = block
        self.slots = 1 << (said["log_n"] - 1)
        self.special = said["p"]
        self.bootstrap_wanted = said["bootstrap"]
        self.zeros: dict[int, int] = {}
        lib = self.lib = ctypes.CDLL(said["library"])
        lib.Encode.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_ulong]
        lib.MulScalarIntNew.argtypes = [ctypes.c_int, ctypes.c_int]
        lib.GetCiphertextLevel.argtypes = [ctypes.c_long]
        lib.FreeCArray.argtypes = [ctypes.c_void_p]
        lib.SetCiphertextScale.argtypes = [ctypes.c_int, ctypes.c_ulong]
        number, data = ctypes.c_int, ctypes.c_void_p
        lib.GenerateLinearTransform.argtypes = [data, number, data, number, number, ctypes.c_float, ctypes.c_char_p]
        lib.Decode.restype = lib.GetModuliChain.restype = lib.GetLinearTransformRotationKeys.restype = _Array
        self.made: set[int] = set()  # automorphisms of linear transformations whose keys there are
        q, p = (_ints(said[name]) for name in ("q", "p"))
        lib.NewScheme(said["log_n"], q, len(q), p, len(p), said["log_scale"], said["h"], b"standard", b"", b"none")
        lib.NewEncoder()

    def primes(self) -> list[int]:
        found = self.lib.GetModuliChain()
        numbers = ctypes.cast(found.data, ctypes.POINTER(ctypes.c_ulong))
        made = [int(numbers[i]) for i in range(found.length)]
        self.lib.FreeCArray(found.data)
        return made

    def keygen(self) -> None:
        lib = self.lib
        for step in ("NewKeyGenerator", "GenerateSecretKey", "GeneratePublicKey", "GenerateRelinearizationKey"):
            getattr(lib, step)()
        for step in ("NewEncryptor", "NewDecryptor", "GenerateEvaluationKeys", "NewEvaluator"):
            getattr(lib, step)()
        if self.bootstrap_wanted:
            special = _ints(self.special)
            lib.NewBootstrapper(special, len(special), self.slots)

    def rotation_key(self, step: int) -> None:
        self.lib.AddRotationKey(step)

    def encode(self, count: int, level: int, scale: int) -> int:
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.block))
        return int(self.lib.Encode(address, count, level, scale))

    def decode(self, plain: int) -> int:
        """The values go to the shared block; how many."""
        found = self.lib.Decode(plain)
        count = int(found.length)
        ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(self.block)), found.data, 4 * count)
        self.lib.FreeCArray(found.data)
        return count

    def encrypt(self, plain: int) -> int:
        return int(self.lib.Encrypt(plain))

    def decrypt(self, x: int) -> int:
        return int(self.lib.Decrypt(x))

    def copy(self, x: int) -> int:
        return int(self.lib.MulScalarIntNew(x, 1))  # AddScalarNew loses the scale

    def negate(self, x: int) -> int:
        return int(self.lib.MulScalarIntNew(x, -1))

    def sum_products(self, start: int, pairs: list[list[int]]) -> int:
        """The sum of `start` (-1: nothing) and of ciphertexts times plaintexts."""
        pairs = list(pairs)
        total = self.copy(start) if start >= 0 else int(self.lib.MulPlaintextNew(*pairs.pop(0)))
        for x, plain in pairs:
            product = self.lib.MulPlaintextNew(x, plain)
            self.lib.AddCiphertext(total, product)
            self.lib.DeleteCiphertext(product)
        return total

    def transform_begin(self, count: int) -> None:
        self.diagonals = (ctypes.c_float * (count * self.slots))()

    def transform_put(self, i: int, count: int) -> None:
        """The block holds diagonal i."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.block))
        ctypes.memmove(ctypes.addressof(self.diagonals) + 4 * i * self.slots, address, 4 * count)

    def transform_end(self, offsets: list[int], level: int, ratio: int) -> list[int]:
        """The number of a linear transformation, and the automorphisms that it uses; their keys are made."""
        lib, data = self.lib, self.diagonals
        made = int(lib.GenerateLinearTransform(_ints(offsets), len(offsets), data, len(data), level, ratio, b"none"))
        del self.diagonals
        found = lib.GetLinearTransformRotationKeys(made)
        numbers = ctypes.cast(found.data, ctypes.POINTER(ctypes.c_int))
        elements = [int(numbers[i]) for i in range(found.length)]
        lib.FreeCArray(found.data)
        for element in elements:
            if element not in self.made:
                lib.GenerateLinearTransformRotationKey(element)
                self.made.add(element)
        return [made, *elements]

    def transform(self, made: int, x: int) -> int:
        return int(self.lib.EvaluateLinearTransform(made, x))

    def set_scale(self, x: int, scale: int) -> None:
        self.lib.SetCiphertextScale(x, scale)

    def rescale(self, x: int) -> int:
        """The library's RescaleNew changes its operand: so a copy is rescaled."""
        made = self.copy(x)
        self.lib.Rescale(made)
        if self.level(made) != self.level(x) - 1:
            raise RuntimeError("Lattigo did not rescale")  # it swallows its own errors
        return made

    def drop(self, x: int, level: int) -> int:
        """The library has no call for it; a sum is at the lower of its operands' levels, and at the larger scale."""
        if level not in self.zeros:
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(self.block)), 0, 4 * self.slots)
            self.zeros[level] = self.encode(self.slots, level, 1)
        return int(self.lib.AddPlaintextNew(x, self.zeros[level]))

    def bootstrap(self, x: int) -> int:
        return int(self.lib.Bootstrap(x, self.slots))

    def level(self, x: int) -> int:
        return int(self.lib.GetCiphertextLevel(x))

    def cpu_seconds(self) -> float:
        return time.process_time()

    def free(self, kind: str, number: int) -> None:
        delete = {"plaintext": "DeletePlaintext", "transform": "DeleteLinearTransform"}.get(kind, "DeleteCiphertext")
        getattr(self.lib, delete)(number)

    def panic(self) -> None:
        """Make the library panic, for the tests: a ciphertext that does not exist."""
        self.lib.Decrypt(1 << 30)

    def __getattr__(self, name: str) -> Any:
        """The library's own calls of ciphertexts and plaintexts: AddCiphertextNew and the like."""
        if not name.endswith("New"):
            raise AttributeError(name)
        function = getattr(self.lib, name)
        return lambda *arguments: int(function(*arguments))


def _ints(values: list[int]) -> Any:
    return (ctypes.c_int * len(values))(*values)

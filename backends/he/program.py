"""A compiled model on encrypted data: runs in one go, is saved in two parts, says what it costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...ir.graph import Module
from ...ir.types import Cipher
from ..backend import KernelCost
from . import layouts, security
from .circuit import PROGRAM, Circuit, load
from .counting import Count, check_keys, count, node_count
from .execute import execute
from .interface import SERVER, Interface, read_interface, save_interface
from .predict import encodings, memory, seconds

__all__ = ["HeProgram", "load_program"]


@dataclass
class HeProgram:
    """See `backends.backend.Program`. Keys are made at the first run, and kept for the next ones."""

    circuit: Circuit
    interface: Interface
    _local: Any = field(default=None, repr=False)

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Make keys, encrypt, evaluate, decrypt."""
        sides, given = self._sides(), self.interface
        ciphertexts = []
        for tensor, array in zip(given.inputs, arrays, strict=True):
            for values, meta in zip(
                layouts.pack(tensor.layout, array, given.parameters.slots), tensor.ciphertexts, strict=True
            ):
                ciphertexts.append(sides.encrypt(values, meta.level, meta.scale))
        results = iter([sides.decrypt(y) for y in execute(self.circuit, sides.engine, ciphertexts)])
        return [layouts.unpack(t.layout, t.shape, [next(results) for _ in t.ciphertexts]) for t in given.outputs]

    def _sides(self) -> Any:
        if self._local is None:
            from .owner import local

            self._local = local(self.interface.engine, self.interface.parameters, self.interface.manifest)
        return self._local

    def save(self, folder: Path) -> dict[str, Any]:
        """The client's and the server's part."""
        from ...ir.text import write_file

        save_interface(folder, self.interface)
        write_file(Module("circuit", {"main": self.circuit.graph}), folder / SERVER / PROGRAM)
        return self.facts()

    def facts(self) -> dict[str, Any]:
        """What the manifest and the report say: counts, keys, levels, predicted time and memory, security."""
        counted, parameters, keys = count(self.circuit), self.interface.parameters, self.interface.manifest
        again = sum(encodings(self.circuit, parameters).values(), Counter())
        guess = seconds(Count(counted.operations + again, {}), parameters, self.interface.engine)
        room = memory(self.circuit, parameters, keys, self.interface.engine)
        return {
            "engine": self.interface.engine,
            "rotations": counted.total("rotate"),
            "plaintext_products": counted.total("mul_plain"),
            "ciphertext_products": counted.total("square") + counted.total("mul"),
            "bootstraps": counted.total("bootstrap"),
            "keys": len(keys),
            "key_bytes": keys.bytes(parameters),
            "levels": parameters.max_level,
            "predicted_seconds": guess.total,
            "predicted_by": guess.source,
            "encoded_again": again.total(),
            "predicted_peak_bytes": room.total,
            "predicted_bytes": asdict(room),
            "security": security.statement(parameters),
        }

    def kernel_costs(self, arrays: Sequence[Any] | None = None) -> list[KernelCost]:
        """Layer by layer: predicted seconds, and measured ones on these inputs."""
        measured: dict[Any, float] = {}
        if arrays is not None:
            self.run(arrays)  # plaintexts are encoded in the first run
            measured = self._timed(arrays)
        made, parameters = [], self.interface.parameters
        again = encodings(self.circuit, parameters)
        for node in self.circuit.graph.nodes:
            if node.constant is not None:
                continue
            one = node_count(self.circuit, node)
            t = node.inputs[0].type if node.inputs and node.inputs[0] is not None else None
            bound = f"level {t.level}" if isinstance(t, Cipher) else ""
            guess = seconds(
                Count(one.operations + again.get(node, Counter()), {}), parameters, self.interface.engine
            ).total
            name = next(iter(node.loc.sources), "") if node.loc is not None else ""
            made.append(KernelCost(name or node.op.name, (node.op.name,), guess, measured.get(node), bound))
        return made

    def _timed(self, arrays: Sequence[Any]) -> dict[Any, float]:
        sides, tensor = self._sides(), self.interface.inputs[0]
        values = layouts.pack(tensor.layout, arrays[0], self.interface.parameters.slots)[0]
        x = sides.encrypt(values, tensor.ciphertexts[0].level, tensor.ciphertexts[0].scale)
        found: dict[Any, float] = {}
        last = [time.process_time()]

        def observe(node: Any) -> None:
            now = time.process_time()
            found[node], last[0] = now - last[0], now

        execute(self.circuit, sides.engine, [x], observe)
        return found


def load_program(folder: Path, info: Mapping[str, Any]) -> HeProgram:
    """The program of an artifact; its circuit is verified again, and its keys against the manifest."""
    from ...ir.verify import verify

    interface, circuit = read_interface(folder, SERVER), load(folder)
    verify(circuit.graph)
    check_keys(circuit, interface.manifest)
    return HeProgram(circuit, interface)

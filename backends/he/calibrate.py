"""What each operation of an engine costs at each level: measured once, kept in the user's cache, for the cost model.

`intaglio he calibrate` measures (up to 25 s a ring). A rotation gets far cheaper at lower levels, so some levels of a
chain of the usual length are measured; between them figures are interpolated, beyond them they follow the last two.
The file is JSON:

    {"format": 1, "engine": "seal", "ring_degree": 16384, "cpu": "...", "date": "2026-11-01",
     "seconds": {"rotate": {"0": 0.0021, "4": 0.0093}, "mul": {...}, ...}}

The ops are the methods of `Engine`, and `encode`, `encrypt`, `decrypt`, `keygen` (one rotation key).
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...ir.diagnostics import IntaglioError, error
from ...ir.host import cache_folder, cpu_name
from .engine import EvalKey, KeyManifest, Parameters
from .security import LARGEST_LOG_QP

__all__ = ["STEPS", "Costs", "default_path", "known", "load", "measure", "read"]

FORMAT = 1
OPS = ("add", "add_plain", "mul_plain", "mul", "square", "relin", "rescale", "drop", "rotate", "conjugate", "encode")
OWNER_OPS = ("encrypt", "decrypt", "keygen")
STEPS = 4  # that `observe` is told for one ring
SECONDS = 25.0  # for one ring
BEYOND_CACHES = 64 << 20  # bytes
SUMMED = 16
LEAST, MOST = 3, 40  # runs of one op at one level
HINT = "`intaglio he calibrate` measures this machine"


@dataclass(frozen=True)
class Costs:
    """CPU seconds of an op at a level, on one thread."""

    engine: str
    ring_degree: int
    cpu: str
    date: str
    seconds: Mapping[str, Mapping[int, float]]

    def cost(self, op: str, level: int) -> float:
        """Seconds of an op on ciphertexts at a level. IG0573: it was not measured."""
        table = self.seconds.get(op)
        if not table:
            if op in ("sub", "neg"):
                return self.cost("add", level)
            raise error("IG0573", f"there is no figure for `{op}` of engine `{self.engine}`", hint=HINT)
        levels = sorted(table)
        if len(levels) == 1:
            return table[levels[0]] * (level + 1) / (levels[0] + 1)
        above = min((i for i, x in enumerate(levels) if x >= level), default=len(levels) - 1) or 1
        low, high = levels[above - 1], levels[above]
        slope = (table[high] - table[low]) / (high - low)
        return max(table[low] + slope * (level - low), table[levels[0]] / 4)

    def dumps(self) -> str:
        data = {"format": FORMAT, **asdict(self)}
        data["seconds"] = {op: {str(level): s for level, s in table.items()} for op, table in self.seconds.items()}
        return json.dumps(data, indent=1) + "\n"

    def table(self) -> str:
        """Milliseconds by op and level, for a person."""
        levels = sorted({level for table in self.seconds.values() for level in table})
        rows = [f"{self.engine}, N = {self.ring_degree}, CPU ms at level"]
        rows.append(f"{'':10}" + "".join(f"{level:>9}" for level in levels))
        for op, found in self.seconds.items():
            rows.append(f"{op:10}" + "".join(f"{found[x] * 1e3:9.3f}" if x in found else f"{'':9}" for x in levels))
        return "\n".join(rows)


def default_path(engine: str, ring_degree: int) -> Path:
    """Where the figures are kept: in the user's cache folder."""
    return cache_folder() / f"he-{engine}-{ring_degree}.json"


@lru_cache(maxsize=32)
def known(engine: str, ring_degree: int) -> Costs:
    """The figures to use: of this machine where it was calibrated, built-in ones of one server elsewhere."""
    try:
        return read(engine, ring_degree)
    except IntaglioError:
        return built_in(engine, ring_degree)


def built_in(engine: str, ring_degree: int) -> Costs:
    """SEAL on an AMD EPYC of 2024 (Zen 5): N log N a residue; key switching is quadratic in the residues r."""
    unit = ring_degree * math.log2(ring_degree) * 1e-9
    levels = (0, 1, 3, 6, 10, 16, 24)

    def table(cost: Callable[[int], float]) -> dict[int, float]:
        return {level: cost(level + 1) * unit for level in levels}

    if engine == "lattigo":
        return Costs(engine, ring_degree, "built in", "", _of_lattigo(table))
    linear = {"add": 0.135, "add_plain": 0.08, "mul_plain": 0.35, "mul": 0.76, "square": 0.59, "drop": 0.06}
    linear |= {"rescale": 1.4, "decrypt": 0.29}
    seconds = {op: table(lambda r, each=each: each * r) for op, each in linear.items()}  # type: ignore[misc]
    for op in ("rotate", "conjugate", "relin"):
        seconds[op] = table(lambda r: 0.74 * (r + 1) * (r + 2))
    seconds["encode"] = table(lambda r: 0.9 + 0.95 * r)
    seconds["encrypt"] = table(lambda r: 10.6 + 4.6 * r)
    seconds["keygen"] = table(lambda r: 4.4 * r * (r + 1))
    return Costs(engine, ring_degree, "built in", "", seconds)


def _of_lattigo(table: Callable[[Callable[[float], float]], dict[int, float]]) -> dict[str, dict[int, float]]:
    """Of the same machine; key switching with one special prime, a sum that of products, in place."""
    linear = {"add": 0.06, "add_plain": 0.25, "mul_plain": 0.26, "drop": 0.25, "relin": 0.2, "rescale": 1.6}
    seconds = {op: table(lambda r, each=each: each * r) for op, each in linear.items()}  # type: ignore[misc]
    seconds["rotate"] = table(lambda r: 0.8 * (r + 3.6) * (r + 1))
    for op in ("mul", "square"):  # relinearised at once
        seconds[op] = table(lambda r: 0.8 * (r + 3.6) * (r + 1) + r)
    seconds["encode"] = table(lambda r: 8.7 + 0.4 * r)
    seconds["encrypt"] = table(lambda r: 10 + 5 * r)
    seconds["decrypt"] = table(lambda r: 0.5 * r)
    seconds["keygen"] = table(lambda r: 4.4 * r * (r + 1))
    return seconds


def read(engine: str, ring_degree: int) -> Costs:
    """The figures of this machine; IG0573 where there are none."""
    return load(default_path(engine, ring_degree))


def load(path: Path) -> Costs:
    """What `Costs.dumps` wrote. IG0573: it is not there, damaged, or of another version."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"format version {data['format']!r}, this version of intaglio reads {FORMAT}")
        seconds = {
            str(op): {int(level): _positive(s) for level, s in table.items()} for op, table in data["seconds"].items()
        }
        if not seconds or not all(seconds.values()):
            raise ValueError("no figures")
        return Costs(str(data["engine"]), int(data["ring_degree"]), str(data["cpu"]), str(data["date"]), seconds)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise error("IG0573", f"`{path}` holds no figures of an engine ({type(e).__name__}: {e})", hint=HINT) from None


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is no positive number")
    return float(value)


def usual(ring_degree: int) -> Parameters:
    """The longest secure chain of 40-bit primes (28 where there is little room) with one special prime."""
    most = LARGEST_LOG_QP["ternary", ring_degree]
    bits, ends = (40, 55) if most > 250 else (30, 40) if most > 150 else (28, 36)
    count = (most - 2 * ends - 2) // bits
    return Parameters(ring_degree, (ends, *(bits,) * min(count, 24)), (ends,), bits)


def measure(engine: str, ring_degree: int, observe: Callable[[str], None] = lambda step: None) -> Costs:
    """Measure an engine's ops in CPU seconds; `observe` is told STEPS times what comes next. At most SECONDS."""
    import numpy as np

    from .owner import local

    parameters = usual(ring_degree)
    top = parameters.max_level
    levels = sorted({0, 1, top // 4, top // 2, (3 * top) // 4, top})
    end = time.perf_counter() + SECONDS
    observe(f"{engine} 2^{ring_degree.bit_length() - 1}: keys")
    found: dict[str, dict[int, float]] = {op: {} for op in (*OPS, *OWNER_OPS)}
    session = local(engine, parameters, KeyManifest.of({1: top}, relin=top, conjugate=_conjugate(engine, top)))
    x, values = session.engine, np.random.default_rng(0).normal(size=parameters.slots)
    small = Fraction(1 << 12)  # products fit at level 0
    try:
        for step, part in enumerate((levels[:2], levels[2:-1], levels[-1:])):
            observe(f"{engine} 2^{ring_degree.bit_length() - 1}: levels {', '.join(map(str, part))}")
            for i, level in enumerate(part):
                quota = max(0.2, (end - time.perf_counter()) / (3 - step) / (len(part) - i))
                _at_level(session, values, level, small, found, quota)
    finally:
        session.close()
    day = datetime.date.today().isoformat()
    assert x.name == engine
    return Costs(engine, ring_degree, cpu_name(), day, {op: table for op, table in found.items() if table})


def _conjugate(engine: str, level: int) -> int | None:
    return None if engine == "lattigo" else level


def _at_level(
    session: Any,
    values: Any,
    level: int,
    scale: Fraction,
    found: dict[str, dict[int, float]],
    quota: float,
) -> None:
    """Every op at one level, its share of `quota` seconds each. Ops that the engine lacks are left out."""
    x, keys = session.engine, session.owner
    plain = x.encode(values, level, scale)
    a = keys.encrypt(session.public, plain)
    product = x.mul(a, a)
    # a layer reads each plaintext once, from memory: more of them than caches hold take turns
    many = min(MOST, 1 + BEYOND_CACHES // x.parameters.ciphertext_bytes(level, 1))
    plains = itertools.cycle([x.encode(values, level, scale) for _ in range(many)])
    ops: dict[str, Callable[[], Any]] = {
        "add": lambda: x.add(a, a),
        "add_plain": lambda: x.add_plain(a, plain),
        "mul_plain": lambda: x.finish(x.mul_plain(a, next(plains))),
        "mul": lambda: x.mul(a, a),
        "square": lambda: x.square(a),
        "relin": lambda: x.relin(product),
        "rotate": lambda: x.rotate(a, 1),
        "encode": lambda: x.encode(values, level, scale),
        "encrypt": lambda: keys.encrypt(session.public, plain),
        "decrypt": lambda: keys.decrypt(session.secret, a),
    }
    if x.caps.separate:
        ops["conjugate"] = lambda: x.conjugate(a)
        ops["keygen"] = lambda: _drain(keys.eval_keys(session.secret, KeyManifest.of({1: level})))
    if level:
        wide = x.mul_plain(a, plain)
        ops["rescale"] = lambda: x.rescale(wide)
        ops["drop"] = lambda: x.drop(a, level - 1)
    for op, call in ops.items():
        found[op][level] = _median(call, x.cpu_seconds, quota / len(ops))
    if x.caps.collects:  # what an addition in such a sum takes, not one that makes a new ciphertext

        def total() -> None:
            found = x.mul_plain(a, next(plains))
            for _ in range(SUMMED - 1):
                found = x.add(found, x.mul_plain(a, next(plains)))
            x.finish(found)

        each = _median(total, x.cpu_seconds, quota / len(ops)) / SUMMED
        found["add"][level] = max(each - found["mul_plain"][level], found["mul_plain"][level] / 20)


def _drain(keys: Any) -> EvalKey:
    (key,) = keys
    return key


def _median(call: Callable[[], Any], clock: Callable[[], float], quota: float) -> float:
    call()
    times, end = list[float](), time.perf_counter() + quota
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < end):
        start = clock()
        call()
        times.append(clock() - start)
    return max(sorted(times)[len(times) // 2], 1e-9)

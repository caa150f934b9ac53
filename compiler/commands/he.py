"""Encrypted inference, client and server apart: keygen, encrypt, serve, evaluate, decrypt; and calibrate.

On the client's machine, with the client's part of an artifact:

    intaglio he keygen DIR/client -o KEYS                        KEYS/secret.key never leaves it
    intaglio he encrypt DIR/client --keys KEYS --input X.npz -o X.ct
    intaglio he evaluate DIR/client --keys KEYS --server URL X.ct -o Y.ct
    intaglio he decrypt DIR/client --keys KEYS Y.ct -o Y.npz

On the server's, with the whole artifact:  intaglio he serve DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="he", required=True, metavar="COMMAND")

    keygen = _client(commands, "keygen", "make a secret key and the keys that the server needs")
    keygen.add_argument("-o", "--output", type=Path, required=True, metavar="KEYS", help="a folder for them")

    encrypt = _client(commands, "encrypt", "encrypt inputs")
    _keys(encrypt)
    encrypt.add_argument("--input", type=Path, required=True, metavar="X.npz", help="inputs by name; .npy for one")
    encrypt.add_argument("-o", "--output", type=Path, required=True, metavar="X.ct")

    evaluate = _client(commands, "evaluate", "let a server run the model on encrypted inputs")
    _keys(evaluate)
    evaluate.add_argument("data", type=Path, metavar="X.ct")
    evaluate.add_argument("--server", default="http://127.0.0.1:8750", metavar="URL")
    evaluate.add_argument("-o", "--output", type=Path, required=True, metavar="Y.ct")

    decrypt = _client(commands, "decrypt", "decrypt what came back")
    _keys(decrypt)
    decrypt.add_argument("data", type=Path, metavar="Y.ct")
    decrypt.add_argument("-o", "--output", type=Path, metavar="Y.npz", help="(default: print a summary)")

    serve = commands.add_parser("serve", help="answer requests on encrypted inputs", allow_abbrev=False)
    serve.add_argument("artifact", type=Path, metavar="DIR", help="what `intaglio compile --target he` wrote")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=8750, help="0 takes a free one (default: 8750)")
    serve.add_argument("--sessions", type=int, metavar="N", help="clients at once, a process each (default: 4)")
    serve.add_argument("--memory", type=size, metavar="SIZE", help="of each session's process, as in 4G (default: 8G)")
    serve.add_argument("--seconds", type=float, metavar="S", help="that one evaluation may take (default: 600)")
    serve.add_argument("--executor", metavar="MODULE", help="another one than the compiler's: load() and execute()")

    calibrate = commands.add_parser("calibrate", help="measure an engine's operations", allow_abbrev=False)
    calibrate.add_argument("--engine", default="seal", help="(default: seal)")
    calibrate.add_argument("--ring", type=int, action="append", metavar="LOGN", help="12 to 16 (default: 13 and 14)")


def _client(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    made.add_argument("artifact", type=Path, metavar="DIR", help="the client's part of an artifact, or the whole")
    return made


def _keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=Path, required=True, metavar="KEYS", help="what `intaglio he keygen` wrote")


def size(text: str) -> int:
    """`512M` as bytes."""
    number, unit = text[:-1], text[-1:].upper()
    if not number.isdecimal() or unit not in SIZES:
        raise argparse.ArgumentTypeError(f"`{text}` is no size: write it as 512M or 8G")
    return int(number) * SIZES[unit]


def run(args: argparse.Namespace) -> int:
    return {
        "keygen": _keygen,
        "encrypt": _encrypt,
        "evaluate": _evaluate,
        "decrypt": _decrypt,
        "serve": _serve,
        "calibrate": _calibrate,
    }[args.he](args)


def _made(folder: Path) -> Any:
    from ...backends.he.client import Client
    from ...backends.he.interface import CLIENT, read_interface

    return Client(read_interface(folder, CLIENT))


def _keygen(args: argparse.Namespace) -> int:
    for name, count in _made(args.artifact).keygen(args.output).items():
        print(f"wrote {args.output / name} ({count / 1e6:.1f} MB)")
    return 0


def _encrypt(args: argparse.Namespace) -> int:
    from ...ir.diagnostics import error
    from ..arrays import read_arrays

    client = _made(args.artifact)
    tensors = {t.name: t for t in client.interface.inputs}
    arrays = read_arrays(args.input, list(tensors))
    for name, tensor in tensors.items():
        if arrays[name].shape != tensor.shape or arrays[name].dtype.kind not in "fiub":
            what = f"input `{name}` is {arrays[name].dtype}{list(arrays[name].shape)}, not {list(tensor.shape)} numbers"
            raise error("IG0003", what, hint="give one example, of the shape that the model was compiled for")
    _write(args.output, client.encrypt(args.keys, arrays))
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from ...backends.he.client import Connection
    from ...backends.he.interface import CLIENT, read_interface

    data = _read(args.data)
    with Connection(args.server, read_interface(args.artifact, CLIENT)) as server:
        server.upload(args.keys)
        answer, facts = server.evaluate(data), server.facts
    _write(args.output, answer)
    print(
        f"evaluated in {facts['seconds']:.2f} s ({facts['cpu_seconds']:.2f} CPU-s, {facts['peak_bytes'] / 1e6:.0f} MB)"
    )
    return 0


def _decrypt(args: argparse.Namespace) -> int:
    from ..arrays import summary, write_arrays

    found = _made(args.artifact).decrypt(args.keys, _read(args.data))
    if args.output is not None:
        write_arrays(args.output, found)
        return 0
    for name, array in found.items():
        print(summary(name, array))
    return 0


def _serve(args: argparse.Namespace) -> int:
    import dataclasses

    from ...backends.he import server
    from ...ir.diagnostics import error

    try:
        from ...backends.he.server import app
    except ImportError as e:
        raise error("IG0562", f"the server needs a package: {e}", hint="pip install 'intaglio[he]'") from None

    given = {name: getattr(args, name) for name in ("sessions", "memory", "seconds") if getattr(args, name) is not None}
    if any(value <= 0 for value in given.values()) or not 0 <= args.port < 1 << 16:
        raise error(
            "IG0002", "limits are positive, and a port is from 0 to 65535", hint="see `intaglio he serve --help`"
        )
    limits = dataclasses.replace(server.Limits(), **given)

    def started(host: str, port: int) -> None:
        print(f"serving {args.artifact} on http://{host}:{port}", flush=True)

    made = app.application(args.artifact, limits=limits, executor=args.executor or app.EXECUTOR)
    try:
        app.serve(made, args.host, args.port, started)
    except OSError as e:
        what = f"cannot listen on {args.host}:{args.port}: {e.strerror or e}"
        raise error("IG0570", what, hint="another --port; 0 takes a free one") from None
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from ...backends.he import calibrate
    from ...ir.diagnostics import error
    from ..files import new_file
    from ..progress import Progress

    rings = args.ring or [13, 14]
    if not all(12 <= log <= 16 for log in rings):
        raise error("IG0002", "--ring is log2 of the ring degree, from 12 to 16", hint="for example --ring 14")
    with Progress("calibrate", len(rings) * calibrate.STEPS) as progress:
        made = [calibrate.measure(args.engine, 1 << log, progress.step) for log in rings]
    for costs in made:
        path = calibrate.default_path(costs.engine, costs.ring_degree)
        with new_file(path) as temporary:
            temporary.write_text(costs.dumps(), encoding="utf-8")
        print(costs.table())
        print(f"wrote {path}")
    return 0


def _read(path: Path) -> bytes:
    from ...ir.diagnostics import error

    try:
        return path.read_bytes()
    except OSError as e:
        raise error("IG0001", f"`{path}` cannot be read: {e.strerror or e}") from None


def _write(path: Path, data: bytes) -> None:
    from ..files import new_file

    with new_file(path) as made:
        made.write_bytes(data)
    print(f"wrote {path} ({len(data) / 1e6:.1f} MB)")

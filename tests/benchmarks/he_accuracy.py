"""Networks fine-tuned for encryption: the accuracy of the polynomial network, and of its circuit on `sim`.

    python tests/benchmarks/he_accuracy.py --train cifar10_train.npz [--models resnet20] [--images 1000]

`cifar10_train.npz` holds the 50,000 training images, `x` uint8 NHWC and `y`: `fetch-training-sets` of the data folder
makes it. For each model it writes the training data as the model wants them and runs

    intaglio compile MODEL.onnx --target he:engine=lattigo,bootstrap=always --passes "...,finetune{...}" ...

with a checkpoint, so that a run that was interrupted goes on; then test images are answered by the original, by the
network with polynomials and by the circuit: on the slots, with the noise of the model drawn for each image. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.backends.he import layouts
from intaglio.backends.he.engine import Meta
from intaglio.backends.he.engines.sim import Plain, Sealed, SimEngine
from intaglio.backends.he.execute import execute
from intaglio.backends.he.program import HeProgram, load_program

DATA = Path(os.environ.get("INTAGLIO_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SEEN = 16  # images that tell the compiler how large values get
TOGETHER = 25  # images that go through the circuit at a time
MODELS = {
    "resnet20": "epochs=3,degree=4,ramp=0.2,settle=0.3,guard=600,augment=crop,precision=bfloat16",
    "resnet8": "epochs=4,degree=4,rate=0.0005,penalty=0.5,ramp=0.1,settle=0.3,guard=600,augment=crop,"
    "precision=bfloat16",
}


@dataclass
class Many(SimEngine):
    """`sim` for many inputs at once: ciphertexts hold [inputs, slots], each with its own noise added to it.

    The plain engine carries several errors beside the values, to tell a bound; here there is one, in the values, which
    are float32: its rounding is far below the noise.
    """

    def encode(self, values: Any, level: int, scale: Fraction) -> Plain:
        plain = super().encode(values, level, scale)
        return replace(plain, values=(plain.values + super()._rounding(plain)[0]).astype(np.float32))

    def _rounding(self, plain: Plain) -> Any:
        return 0.0  # it is in the values already

    def _made(self, exact: Any, meta: Meta, errors: Any, independent: Any, added: float = 0.0) -> Sealed:
        if added:
            exact = exact + self.random.standard_normal(exact.shape, np.float32) * np.float32(np.sqrt(added))
        return super()._made(exact, meta, 0.0, 0.0)

    def mul_plain(self, x: Sealed, plain: Plain) -> Sealed:
        return self._made(x.exact * plain.values, replace(x.meta, scale=x.meta.scale * plain.scale), 0.0, 0.0)

    def mul(self, x: Sealed, y: Sealed) -> Sealed:
        return self._made(x.exact * y.exact, Meta(x.meta.level, x.meta.scale * y.meta.scale, 3), 0.0, 0.0)

    def rotate(self, x: Sealed, step: int) -> Sealed:
        if not (step := step % self.parameters.slots):
            return x
        self._need_key("rotate", step, x.meta.level)
        turned = replace(x, exact=np.roll(x.exact, -step, axis=-1))
        return self._switched(turned, "rotate", step)

    def _switched(self, x: Sealed, kind: str, step: int) -> Sealed:
        level, scale = x.meta.level, x.meta.scale
        exact = x.exact
        for i, digit in enumerate(self.model.digits(level)):
            offset = self.model.offset(digit, scale)
            if offset.max() > 1e-3 * self.model.rescale(scale) ** 0.5:
                exact = exact + (self._drawn(kind, step, i)[0] * offset).astype(np.float32)
        return self._made(exact, x.meta, 0.0, 0.0, self.model.switch(level, scale))


def on_sim(program: HeProgram, images: Any) -> tuple[Any, float]:
    """Answers [n, classes] of the circuit, and the least room in bits that a value had."""
    circuit, interface = program.circuit, program.interface
    engine = Many(interface.parameters, replicas=1)
    manifest = interface.manifest
    for kind, step, level in (
        *((("relin", 0, manifest.relin),) if manifest.relin is not None else ()),
        *((("conjugate", 0, manifest.conjugate),) if manifest.conjugate is not None else ()),
        *(("rotate", step, level) for step, level in manifest.rotations),
    ):
        engine.keys[kind, step] = level
    (given,), (out,) = interface.inputs, interface.outputs
    answers = []
    for i in range(0, len(images), TOGETHER):
        vectors = np.stack(
            [layouts.pack(given.layout, x[None], interface.parameters.slots)[0] for x in images[i : i + TOGETHER]]
        )
        vectors, meta = vectors.astype(np.float32), given.ciphertexts[0]
        fresh = engine.model.fresh(meta.scale)
        (y,) = execute(circuit, engine, [engine._made(vectors, Meta(meta.level, meta.scale), 0.0, 0.0, fresh)])
        answers += [layouts.unpack(out.layout, out.shape, [row])[0] for row in y.exact]
        print(f"\r{len(answers)} of {len(images)} images on sim", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return np.stack(answers), engine.room


def images_of(name: str, x: Any) -> Any:
    """uint8 NHWC as the model wants them."""
    if name != "resnet8":
        x = (x / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return np.ascontiguousarray(x.astype(np.float32).transpose(0, 3, 1, 2))


def clear(graph: Any, images: Any) -> Any:
    """What a graph answers, by torch: the interpreter would take ten times as long."""
    import torch

    from intaglio.passes.finetune.network import Network

    network = Network(graph, torch, 2)
    with torch.no_grad():
        parts = [
            network.run(torch.from_numpy(x), 0.0, original=True)[0]
            for x in np.split(images, range(50, len(images), 50))
        ]
    return torch.cat(parts).numpy()


def prepared(name: str, train: Path, folder: Path) -> tuple[Path, Path]:
    """Files of training data and of the images that ranges are taken from, as the model wants them."""
    whole, seen = folder / f"{name}_train.npz", folder / f"{name}_seen.npz"
    if not whole.exists():
        with np.load(train) as given:
            x, labels = images_of(name, given["x"]), given["y"]
        np.savez(seen, input=x[:SEEN], labels=labels[:SEEN])
        np.savez(whole, input=x, labels=labels)
    return whole, seen


def compiled(name: str, options: str, train: Path, folder: Path) -> Path:
    """The artifact, by the command line; what it printed goes to a log beside it."""
    whole, seen = prepared(name, train, folder)
    out = folder / name
    tuning = f"finetune{{{options},data={whole},checkpoint={folder / name}.ckpt}}"
    command = [sys.executable, "-P", "-m", "intaglio", "compile", str(DATA / "models" / f"{name}_cifar10.onnx")]
    command += ["--target", "he:engine=lattigo,bootstrap=always", "--passes", f"freeze,canonicalize,fold,{tuning}"]
    command += ["--calibration", str(seen), "-o", str(out)]
    print(" ".join(command), flush=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True)
    return out


def report(name: str, out: Path, images: int, on_graph: int) -> None:
    """One line for the model: accuracies, and what the circuit takes."""
    from PIL import Image

    import intaglio
    from intaglio.compiler.api import load_artifact

    test = np.asarray(Image.open(DATA / "vision" / "cifar10_test.webp").convert("RGB"))
    test = test.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    with np.load(DATA / "vision" / "cifar10_labels.npz") as given:
        labels = given["test"]
    x = images_of(name, test[: max(images, on_graph)])
    source = intaglio.optimize(intaglio.load(DATA / "models" / f"{name}_cifar10.onnx"), "freeze,canonicalize,fold")
    tuned = load_artifact(out).module
    right = lambda answers: 100 * float((answers.argmax(1) == labels[: len(answers)]).mean())  # noqa: E731
    original, polynomial = (clear(m.main, x[:on_graph]) for m in (source, tuned))
    print(f"{name}: original {right(original):.2f} %, polynomials {right(polynomial):.2f} % of {on_graph} images")
    program = load_program(out, {})
    start = time.process_time()
    answers, room = on_sim(program, x[:images])
    spent = (time.process_time() - start) / images
    same = float((answers.argmax(1) == polynomial[:images].argmax(1)).mean()) * 100
    gap = np.abs(answers - polynomial[:images]).max() / np.abs(polynomial[:images]).max()
    print(
        f"{name}: circuit on sim {right(answers):.2f} % of {images} images, answers of the polynomials {same:.1f} %, "
        f"off by at most 2^{np.log2(gap):.1f} of the largest, {room:.1f} bits of room, {spent:.2f} CPU-s an image"
    )
    facts = program.facts()
    told = ", ".join(
        f"{facts[k]} {k.replace('_', ' ')}" for k in ("rotations", "plaintext_products", "keys") if k in facts
    )
    print(f"{name}: {told}; all facts: {facts}")
    print(f"{name}: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="cifar10_train.npz of fetch-training-sets")
    parser.add_argument("--models", default="resnet20", help="of resnet20 and resnet8")
    parser.add_argument("--images", type=int, default=1000, help="test images that go through the circuit")
    parser.add_argument("--clear", type=int, default=10000, help="test images that the networks in the clear answer")
    parser.add_argument("--folder", type=Path, default=Path("he-accuracy"), help="for data, checkpoints and artifacts")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.models.split(","):
        out = compiled(name, MODELS[name], args.train, args.folder.resolve())
        report(name, out, args.images, args.clear)


if __name__ == "__main__":
    main()

"""A compiled network between client and server, each with its own part of the artifact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from intaglio.backends.he import security
from intaglio.backends.he.client import Client, Connection
from intaglio.backends.he.compile import compile_graph
from intaglio.backends.he.interface import read_interface
from intaglio.backends.he.program import HeProgram
from intaglio.ir import evaluate

from . import models

pytest.importorskip("seal", reason="engine `seal` is not installed: pip install 'intaglio[he]'")
pytest.importorskip("aiohttp", reason="the server needs aiohttp: pip install 'intaglio[he]'")


def test_an_mlp_is_served(tmp_path: Path) -> None:
    graph = models.mlp()
    made = compile_graph(graph, "seal")
    artifact, given = tmp_path / "artifact", tmp_path / "given"
    artifact.mkdir()
    HeProgram(made.circuit, made.interface).save(artifact)
    (artifact / "client").rename(given)  # what the client is given, away from the rest
    path = os.pathsep.join(p for p in sys.path if p)
    served = subprocess.Popen(
        [sys.executable, "-P", "-m", "intaglio", "he", "serve", str(artifact), "--port", "0", "--memory", "4G"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert served.stdout is not None
        url = served.stdout.readline().split()[-1]
        client = Client(read_interface(given, "client"))
        sizes = client.keygen(tmp_path / "keys")
        assert sizes["eval.keys"] < 1.1 * made.keys.bytes(made.parameters)
        with Connection(url, client.interface) as server:
            server.upload(tmp_path / "keys")
            for seed in range(2):
                x = np.random.default_rng(seed).uniform(0, 1, (1, 1, 28, 28)).astype(np.float32)
                answer = server.evaluate(client.encrypt(tmp_path / "keys", {graph.inputs[0].name: x}))
                (found,) = client.decrypt(tmp_path / "keys", answer).values()
                (wanted,) = evaluate(graph, [x])
                np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
            assert server.facts["peak_bytes"] < 2e9
    finally:
        served.terminate()
        served.wait(20)
    statement = (given / "interface.json").read_text("utf-8")
    assert str(security.statement(made.parameters)["stamp"]) in statement
    weights = [node.constant.array for node in graph.nodes if node.constant is not None]
    assert sum(p.stat().st_size for p in given.iterdir()) < 1e-3 * sum(w.nbytes for w in weights) + 20_000

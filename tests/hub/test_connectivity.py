"""A hub that is not there is noticed at the first question; one that is there, or was, is used as ever."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from cli_run import environment
from qlora_fast.chat.session import load_chat_model
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import connectivity as hub_module
from qlora_fast.model.load import load_base
from ranks_run import free_port

FILES = {"tokenizer.json": b'{"version": "1.0"}', "tokenizer_config.json": b"{}", "config.json": b"{}"}
ASK = """
import sys
from qlora_fast.hub.resolve import tokenizer_folder
from qlora_fast.errors import QloraFastError

try:
    print(tokenizer_folder(sys.argv[1]))
except QloraFastError as error:
    print(type(error).__name__, error, error.hint)
"""


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of its server for a file."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        name = self.path.removeprefix("/some/model/resolve/main/")
        content = FILES.get(name, b"")
        self.send_response(200 if name in FILES else 404)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        if name not in FILES:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        return content

    def log_message(self, format: str, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def ask(endpoint: str, home: Path, **more: str) -> tuple[str, str]:
    """What the question for a tokenizer answers in a process of its own, and what the libraries say meanwhile."""
    env = {**environment(), "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **more}
    command = [sys.executable, "-c", ASK, "some/model"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip(), done.stderr


def test_a_hub_that_is_not_there_is_named_once_and_not_tried_again(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    answer, said = ask(nowhere, tmp_path)
    assert answer.startswith(
        "TokenizerError no tokenizer for `some/model`: not a local folder, not in the Hub's cache, and the Hub at "
        f"{nowhere} cannot be reached ([Errno"
    )
    assert "give a folder with the model's files" in answer
    assert "Retry" not in said


@pytest.mark.parametrize(
    "load",
    [
        lambda name: load_base(name, dtype=torch.float32, device=torch.device("cpu")),
        lambda name: load_chat_model(name, {}, torch.float32, torch.device("cpu")),
    ],
    ids=["train", "chat"],
)
def test_neither_is_it_for_a_models_weights(
    load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    hub_module._probe_hub.cache_clear()
    try:
        with pytest.raises(ArtifactError, match=f"and the Hub at {nowhere} cannot be reached"):
            load("some/model-that-is-in-no-cache")
    finally:
        hub_module._probe_hub.cache_clear()
    assert "Retry" not in caplog.text


def test_offline_by_wish_is_said_to_be_so(tmp_path: Path) -> None:
    answer, _ = ask(f"http://127.0.0.1:{free_port()}", tmp_path, HF_HUB_OFFLINE="1")
    assert "and the Hub is not asked (HF_HUB_OFFLINE)" in answer


def test_files_come_from_a_hub_that_is_there_and_from_the_cache_when_it_is_gone(hub: str, tmp_path: Path) -> None:
    folder, _ = ask(hub, tmp_path)
    assert {p.name: p.read_bytes() for p in Path(folder).iterdir()} == FILES
    again, said = ask(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert again == folder
    assert "Retry" not in said


def test_a_file_that_the_hub_does_not_have_is_not_called_out_of_reach(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FILES, "tokenizer.json")
    answer, _ = ask(hub, tmp_path)
    assert "nor available from the Hub (404" in answer
    assert "cannot be reached" not in answer

"""A Hub for the tests: tiny model folders, a cache as the Hub's client keeps it, and a server on loopback."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD_TOKEN = "hf_good"
LINES = [
    "the cat sat on the mat",
    "a dog sat on the log",
    "the rain in spain",
    "it rained on the plain all day",
]
WORDS = sorted({word for line in LINES for word in line.split()})


# Tiny models


def word_tokenizer() -> BertTokenizer:
    """WordPiece over the few words of LINES, with BERT's special tokens."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on LINES; it has an end of text and, like GPT-2's, no padding."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")  # type: ignore[no-untyped-call]


def save_bert(folder: Path, head: type[PreTrainedModel] = BertForMaskedLM) -> Path:
    """Two layers of width 8; `head` is BertForMaskedLM or any other class of the family."""
    tokenizer = word_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    return _save(folder, head(config), tokenizer)


def save_gpt2(folder: Path, head: type[PreTrainedModel] = GPT2LMHeadModel) -> Path:
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=32,
        n_embd=8,
        n_layer=2,
        n_head=2,
        bos_token_id=end,
        eos_token_id=end,
    )
    return _save(folder, head(config), tokenizer)


def save_llama(folder: Path, head: type[PreTrainedModel] = LlamaForCausalLM) -> Path:
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return _save(folder, head(config), tokenizer)


def save_t5(folder: Path, head: type[PreTrainedModel] = T5ForConditionalGeneration) -> Path:
    tokenizer = word_tokenizer()
    config = T5Config(vocab_size=len(tokenizer), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return _save(folder, head(config), tokenizer)


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> Path:
    """Rewrite entries of config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return folder


# The cache


def fill_cache(
    cache: Path, model_id: str, folder: Path, refs: tuple[str, ...] = ("main",), commit: str = COMMIT
) -> Path:
    """Lay a model folder out as a download leaves it: blobs, a snapshot of links to them, and refs."""
    repository = cache / f"models--{model_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for part in (repository / "blobs", repository / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        blob = repository / "blobs" / _etag(file)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
    for ref in refs:
        (repository / "refs" / ref).write_text(commit, encoding="utf-8")
    return snapshot


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# The server


@dataclass
class Hub:
    """What the server serves (id to folder; all at one commit) and what it was asked.

    `answers` are the statuses that requests of some ids get. A dataset's id begins with `datasets/`. A file
    named `dying` is sent to its middle, and then nothing is.
    """

    repositories: Mapping[str, Path]
    gated: frozenset[str] = frozenset()
    answers: Mapping[str, int] = field(default_factory=dict)
    dying: str = ""
    dead: bool = False
    url: str = ""
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve on a free port of 127.0.0.1 while the block runs; `hub.url` is the HF_ENDPOINT to use."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep the tests' output clean."""

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        asked = parse_qs(query + "&" + self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        self.served.requests.append(f"{self.command} {path}")
        if self.served.dead:
            self.close_connection = True
        elif found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self._with_access(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/api/(datasets/.+?)/(?:tree|paths-info)/([^/]+)(?:/(.*))?", path):
            self._list(found[1], unquote(found[3] or ""), asked)
        elif found := re.fullmatch(r"/api/(?:models/)?(.+?)(?:/revision/([^/]+))?(/tree/.*)?", path):
            self._with_access(found[1], found[2] or "main", None if found[3] is None else "no such folder")
        else:
            self._refuse(404, "EntryNotFound")

    def _with_access(self, repository: str, revision: str, name: str | None) -> None:
        """Send a file, or without a name what the Hub's client wants to know of the repository."""
        folder = self.served.repositories.get(repository)
        if repository in self.served.answers:
            self._refuse(self.served.answers[repository], "")
        elif folder is None:
            self._refuse(404, "RepoNotFound")
        elif not self._may_read(repository):
            self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        elif revision not in {"main", COMMIT}:
            self._refuse(404, "RevisionNotFound")
        elif name is None:
            known = {"id": repository.removeprefix("datasets/"), "sha": COMMIT, "siblings": []}
            self._send(json.dumps(known).encode())
        elif (folder / name).is_file():
            self._send_file(folder / name)
        else:
            self._refuse(404, "EntryNotFound")

    def _may_read(self, repository: str) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {GOOD_TOKEN}"
        return allowed or repository not in self.served.gated

    def _list(self, repository: str, under: str, asked: Mapping[str, list[str]]) -> None:
        """Tell the paths of a folder, or of those of the paths that were asked for that there are."""
        folder = self.served.repositories.get(repository)
        if folder is None or not self._may_read(repository):
            self._refuse(404, "RepoNotFound")
            return
        if "paths" in asked:
            found = [folder / path for path in asked["paths"]]
        else:
            deep = asked.get("recursive", ["false"])[0].lower() == "true"
            found = sorted((folder / under).rglob("*") if deep else (folder / under).glob("*"))
        self._send(json.dumps([_entry(path, folder) for path in found if path.exists()]).encode())

    def _send_file(self, file: Path) -> None:
        whole, headers, status = file.read_bytes(), {"ETag": f'"{_etag(file)}"'}, 200
        start, end, sent = 0, len(whole), None
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(asked[1]), min(int(asked[2] or end) + 1, end)
            headers["Content-Range"], status = f"bytes {start}-{end - 1}/{len(whole)}", 206
        if file.name == self.served.dying and self.command == "GET" and end > len(whole) // 2:
            self.served.dead = self.close_connection = True
            sent = max(0, len(whole) // 2 - start)
        self._send(whole[start:end], headers, status, sent)

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"", {"X-Error-Code": code}, status)

    def _send(
        self,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        status: int = 200,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": COMMIT, "size": 0, "path": name}
    return {"type": "file", "oid": _etag(path)[:40], "size": path.stat().st_size, "path": name}

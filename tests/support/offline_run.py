"""What a Weights & Biases run kept on disk while offline, read back without its library's internals."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


@dataclass
class OfflineRun:
    """``config``; ``history``: a dict for each call of log; ``artifacts``: their records, in order."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)

    @classmethod
    def read(cls, save_dir: Path) -> OfflineRun:
        """The one offline run below a folder, which has been finished."""
        # Another process writes it, and may be behind.
        for _ in range(600):
            if found := list(save_dir.glob("wandb/offline-run-*/run-*.wandb")):
                break
            time.sleep(0.1)
        [path] = found
        run = cls(path.parent)
        for _ in range(600):
            records = _records(path.read_bytes())
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                break
            time.sleep(0.1)
        else:
            raise TimeoutError(f"{path} has no end")
        for record in records:
            kind = record.WhichOneof("record_type")
            if kind == "config":
                for item in record.config.update:
                    run.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            elif kind == "history":
                step: dict[str, Any] = {}
                for item in record.history.item:
                    *parents, name = item.nested_key or [item.key]
                    inner = step
                    for parent in parents:
                        inner = inner.setdefault(parent, {})
                    inner[name] = json.loads(item.value_json)
                run.history.append(step)
            elif kind == "artifact":
                run.artifacts.append(record.artifact)
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                run.artifacts.append(record.request.log_artifact.artifact)
        return run

    def logged(self, key: str) -> list[Any]:
        return [step[key] for step in self.history if key in step]

    def media(self, entry: dict[str, Any]) -> bytes:
        return (self.folder / "files" / entry["path"]).read_bytes()


def _records(content: bytes) -> list[Record]:
    """The file is a log in LevelDB's format: blocks of 32 KiB; each piece with checksum, length and kind before it."""
    found, begun, at = [], b"", 7  # after the file's own header
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        piece = content[at + HEADER : at + HEADER + length]
        if len(piece) < length:  # still being written
            break
        begun += piece
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(Record.FromString(begun))
            begun = b""
    return found

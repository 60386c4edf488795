"""Shows and cleans the folder of built engines (docs/caching.md): ls, verify, clear, prune.

verify reads every entry to its end and exits with 1 if one is damaged; prune removes what was not used for longest,
until the rest fits, and what killed processes left behind. MXNET_TENSORRT_CACHE_DIR says which folder is meant.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mxnet_trt_property import settings
from mxnet_trt_property.cache import build
from mxnet_trt_property.cache.folder import Folder, FolderError, Row, problem_of
from mxnet_trt_property.errors import message

NAME = "cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("action", choices=("ls", "verify", "clear", "prune"), help="what to do")
    parser.add_argument("--dir", metavar="FOLDER", help="the folder; MXNET_TENSORRT_CACHE_DIR by default")
    parser.add_argument("--mb", metavar="MIB", help="what prune leaves at most; MXNET_TENSORRT_CACHE_MB by default")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Does what is asked for and prints the record; returns 1 if an entry is damaged or could not be removed."""
    given = {"cache_dir": arguments.dir, "cache_mb": arguments.mb}
    config = settings.read({name: text for name, text in given.items() if text is not None})
    record = act(arguments.action, build.path_of(config), config.cache_mb << 20)
    print(json.dumps(record) if arguments.json else text(record))
    return 1 if any(row["problem"] for row in record["entries"]) else 0


def act(action: str, path: Path, limit_bytes: int) -> dict[str, Any]:
    """Does one of the actions and returns what the command prints with --json.

    Args:
        action: "ls", "verify", "clear" or "prune".
        path: The folder; one that is not there has no entries, and is not made.
        limit_bytes: What prune leaves at most.

    Raises:
        FolderError: The folder cannot be used.
    """
    record: dict[str, Any] = {"action": action, "folder": str(path), "limit_bytes": limit_bytes, "removed": []}
    if path.exists() or problem_of(path) is not None:
        try:
            folder = Folder(path, limit_bytes)
            if action in ("clear", "prune"):
                record["removed"] = folder.prune(-1 if action == "clear" else limit_bytes)
            rows = folder.rows(verify=action in ("ls", "verify"))
        except OSError as error:
            raise FolderError(message(f"The cache folder {path} cannot be read", found=str(error))) from error
    else:
        rows = []
    if action == "clear":
        rows = [dataclasses.replace(row, problem="it could not be removed") for row in rows]
    record["entries"] = [_row(row) for row in rows]
    record["size_bytes"] = sum(row.size_bytes for row in rows)
    return record


def _row(row: Row) -> dict[str, Any]:
    shown = {
        name: row.meta[name] for name in ("engine", "version", "variant", "precision", "label") if name in row.meta
    }
    kind = row.name.partition("-")[0]
    own = {"name": row.name, "kind": kind, "size_bytes": row.size_bytes, "used": row.used, "problem": row.problem}
    return {**own, **shown}


def text(record: Mapping[str, Any]) -> str:
    """Returns the record as the text that the command prints."""
    lines = [_line(row) for row in record["entries"]]
    lines += [f"removed {name}" for name in record["removed"]]
    damaged = sum(row["problem"] is not None for row in record["entries"])
    size, limit = (f"{record[name] / 2**20:.1f}" for name in ("size_bytes", "limit_bytes"))
    number = len(record["entries"])
    count = f"{number} {'entry' if number == 1 else 'entries'}"
    lines.append(f"{record['folder']}: {count}, {size} of {limit} MiB, {damaged} with a problem")
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['name'].partition('.')[0][:20]}.."
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["used"]))
    words: Sequence[str] = [str(row[key]) for key in ("engine", "version", "precision", "label") if key in row]
    state = row["problem"] or " ".join(words)
    return f"{name}  {row['size_bytes'] / 2**20:8.1f} MiB  used {when}  {state}"

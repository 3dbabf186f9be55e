"""What MLflow and Weights & Biases have taken, read back from their own files."""

import json
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Tracked:
    name: str
    project: str
    state: str
    """finished or stopped"""
    fields: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))


def mlflow_runs(folder: Path) -> list[Tracked]:
    from mlflow import MlflowClient

    client = MlflowClient((folder / "mlruns").as_uri())
    found = []
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            state = "finished" if run.info.status == "FINISHED" else "stopped"
            one = Tracked(run.info.run_name, experiment.name, state, run.data.params)
            for name, last in run.data.metrics.items():
                if "/" in name:
                    one.summary[name] = last
                    continue
                points = client.get_metric_history(run.info.run_id, name)
                one.curves[name] = [(point.step, point.value) for point in points]
            found.append(one)
    return found


def wandb_runs(folder: Path) -> list[Tracked]:
    """Offline a resumed run has a second file of the same id: one run, once both are synced."""
    found: dict[str, Tracked] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=_started):
        one = found.setdefault(path.stem, Tracked("", "", "stopped"))
        for record in _records(path):
            _take(record, one)
    return list(found.values())


def _started(path: Path) -> str:
    return path.parent.name


def _take(record: Any, one: Tracked) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        one.name, one.project = record.run.display_name, record.run.project
        for update in record.run.config.update:
            one.fields |= _flat(update.key, json.loads(update.value_json))
    elif kind == "history":
        values = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        step = int(values["_step"])
        for name, value in values.items():
            if not name.startswith("_"):
                one.curves[name].append((step, json.loads(value)))
    elif kind == "summary":
        for item in record.summary.update:
            one.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    elif kind == "exit":
        one.state = "finished" if record.exit.exit_code == 0 else "stopped"


def _flat(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {name: value if isinstance(value, str) else json.dumps(value)}
    return {
        key: leaf for below in value for key, leaf in _flat(f"{name}.{below}", value[below]).items()
    }


_HEADER, _BLOCK = 7, 32 * 1024


def _records(path: Path) -> list[Any]:
    """Read LevelDB's log: in blocks, records of checksum, length, and which part it is."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = path.read_bytes(), _HEADER, b"", []
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, part = struct.unpack("<IHB", data[at : at + _HEADER])
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if part in {1, 4}:  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found

"""The files of k8s/, as objects, and what they and a run's pods ask for."""

import warnings
from pathlib import Path

import yaml

K8S = Path(__file__).parents[2] / "k8s"
POOLS = sorted((K8S / "pools").glob("*.yaml"))
_UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGT", 1)}


def objects(folder):
    """Return all objects of a folder that `kubectl apply --kustomize` takes."""
    here = K8S / folder
    named = yaml.safe_load((here / "kustomization.yaml").read_text())["resources"]
    assert sorted([*named, "kustomization.yaml"]) == sorted(path.name for path in here.iterdir())
    return [each for name in named for each in yaml.safe_load_all((here / name).read_text())]


def one(folder, kind, name=None):
    found = [
        each
        for each in objects(folder)
        if each["kind"] == kind and name in {None, each["metadata"]["name"]}
    ]
    assert len(found) == 1, found
    return found[0]


def validate(each):
    """Hold an object against the schema of Kubernetes, unknown fields refused."""
    with warnings.catch_warnings():
        # The library's own, when it is loaded.
        warnings.simplefilter("ignore", DeprecationWarning)
        import kubernetes_validate
    kubernetes_validate.validate(each, "1.34", strict=True)


def amount(quantity):
    text = str(quantity)
    number = text.rstrip("mkMGTKi")
    return float(number) * _UNITS[text[len(number) :]]

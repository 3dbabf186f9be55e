"""From a URI to a store. boto3 is imported only when the URI asks for it."""

from qatune.errors import UsageError
from qatune.store.folder import FolderStore
from qatune.store.objects import Store


def open_store(uri: str) -> Store:
    """Open `s3://bucket/prefix` or a folder; nothing is read or written yet."""
    if uri.startswith("s3://"):
        from qatune.store.s3 import S3Store

        return S3Store(uri)
    if not uri or "://" in uri:
        raise UsageError(f"{uri!r} is no store; give a folder or s3://bucket/prefix")
    return FolderStore(uri)
